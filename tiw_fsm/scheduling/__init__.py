"""Snippets that have cron, systemd, Slurm, Kubernetes or SkyPilot keep a run going, as text.

Each is ``tiw-fsm run`` in its working root, with ``tiw-fsm join`` on further machines, written in the quoting of the
program that will read it. What they say about exit codes is all they know of a run; nothing is installed or submitted
here.
"""
