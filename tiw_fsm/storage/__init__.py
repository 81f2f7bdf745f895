"""What is on the disk: the names of files, the state and its journal, checkpoints and what is in them. No torch.

What the files mean is not here but in ``fsm``; how bytes survive a power cut is not here but in ``system``.
"""
