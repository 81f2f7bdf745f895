"""What the operating system can do to a run, and what is done against it: durable files, locks, signals, children.

Nothing here knows of runs, stages or models.
"""
