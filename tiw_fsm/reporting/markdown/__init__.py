"""The three Markdown reports that every ended run leaves.

What they tell of the journal is not read here but in ``reporting.journal``.
"""
