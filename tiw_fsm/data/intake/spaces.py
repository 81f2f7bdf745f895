"""Actions of a gymnasium space as the one number of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Numbering = Callable[[Any], int]
"""The number of an action."""
MOST_ACTIONS = 1 << 31


def numbering(space: Any) -> Numbering | None:
    """How the actions of ``space`` are numbered from 0 on; None where they are not countable."""
    kind = type(space).__name__
    if kind == "Discrete":
        return lambda action: int(action) - int(space.start)
    counts = {"MultiDiscrete": "nvec", "MultiBinary": "shape"}.get(kind)
    if counts is None:
        return None
    sizes = np.full(space.shape, 2) if kind == "MultiBinary" else space.nvec
    if np.prod(sizes.astype(float)) > MOST_ACTIONS:
        return None
    lowest = getattr(space, "start", 0)
    return lambda action: int(np.ravel_multi_index(tuple(np.ravel(action - lowest)), tuple(np.ravel(sizes))))
