"""What is told of a run: status, history, advice, curves, Markdown, the HTML page.

Nothing here decides or changes anything of a run; it reads what ``storage`` keeps.
"""
