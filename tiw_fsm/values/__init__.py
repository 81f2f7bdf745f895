"""Frozen, validated values that all floors pass to one another.

What belongs to one floor alone is not here, and nothing here imports any of them.
"""
