"""A run in the doing: the loop, the work of each state, how a start resumes, and what is checked before and after.

What follows an event is not decided here but in ``fsm``; how a file gets to the disk is not here but in ``storage``.
"""
