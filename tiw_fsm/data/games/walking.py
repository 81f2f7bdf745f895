"""A player who never stands about: a movement key is held, and another is tried mostly when the way is blocked."""

from __future__ import annotations

import numpy as np

STEPS = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}
"""Cells to the right and down that each movement key leads: left, right, up, down, numbered as in Crafter."""
KEYS = ("none", "left", "right", "up", "down")
"""Names of the keys by number. None is what no recording of ours presses."""
KEEP = 0.4
"""Chance that the key held stays held where the way is free."""
TURN_AWAY = 0.9
"""Chance that a key is drawn anew where the way is blocked."""


def draw_key(random: np.random.Generator) -> int:
    """Any movement key."""
    return int(random.integers(1, 1 + len(STEPS)))


def next_key(held: int, free: bool, random: np.random.Generator) -> int:
    """The key of this turn, given the one held so far and whether it leads to a free cell."""
    if random.random() >= KEEP or (not free and random.random() < TURN_AWAY):
        return draw_key(random)
    return held
