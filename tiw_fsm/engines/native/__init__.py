"""The engine that trains our own ``tinyworlds``, in a child process.

The controller's half imports no torch; the models themselves are not here but in ``tinyworlds``.
"""
