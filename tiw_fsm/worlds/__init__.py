"""A trained world model under way: stepped one action at a time, with what its run knows of it, and filmed.

Nothing is trained or judged here, and no run is known but by its settings: ``api`` says which checkpoints are taken.
"""
