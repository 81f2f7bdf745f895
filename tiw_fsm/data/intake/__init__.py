"""Frames from elsewhere: videos, pictures, arrays, recordings, environments, made into the file that a run trains on.

A kind of source opens what is there, and yields frames of its own size; it writes no file.
"""
