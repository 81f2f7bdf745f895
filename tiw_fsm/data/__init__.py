"""Game frames on the disk: what a file holds, demo frames to record, pictures to draw. No torch.

How frames become clips on a device is not here but in ``tinyworlds``.
"""
