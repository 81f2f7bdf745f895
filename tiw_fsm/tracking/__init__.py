"""Runs shown in W&B and TensorBoard while they go on, by processes of their own that follow what is committed.

Nothing of a run waits for anything here, and nothing here is ever read by a run.
"""
