"""The machine: states, events, the table of what leads where, the gates, and the state of a run as frozen values.

All of it is pure: no disk, no clock, no process, no torch. Who does the work of a state is not here but in ``run``.
"""
