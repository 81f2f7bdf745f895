"""A run as one HTML page: text, drawings, looks, and the file that is kept current.

What is said on it in the words of other commands is not here but in ``reporting``.
"""
