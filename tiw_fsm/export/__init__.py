"""A passed world as files for others: a folder with everything, and a film of its rollouts.

What such a folder holds, and whether it is whole, is said in ``storage.exports``, for those who read it; it is never
read back here.
"""
