"""Pictures of any size made square frames of one size, by area alone: nothing is blurred more than it must be.

Each pixel that is made is the mean of what it covers. Shrunk, no detail is passed over; enlarged by a whole factor, a
pixel becomes a block of pixels, and by another factor only the pixels between two blocks are mixed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.intake.options import Fit
from tiw_fsm.data.intake.source import Picture


def fit(picture: Picture, size: int, how: Fit) -> Picture:
    """A frame [size, size, 3] of a picture [H, W, 3].

    Args:
        how: crop takes the square in its middle, pad leaves black bars, stretch loses its proportions.
    """
    height, width = picture.shape[:2]
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return resized(picture[top : top + side, left : left + side], size, size)
    if how == "stretch" or height == width:
        return resized(picture, size, size)
    longest = max(height, width)
    high, wide = (max(1, round(size * side / longest)) for side in (height, width))
    top, left = (size - high) // 2, (size - wide) // 2
    frame = np.zeros((size, size, 3), np.uint8)
    frame[top : top + high, left : left + wide] = resized(picture, high, wide)
    return frame


def resized(picture: Picture, height: int, width: int) -> Picture:
    """``picture`` [H, W, C] in another size; the same to the last bit on every machine."""
    if picture.shape[:2] == (height, width):
        return picture
    tall = _averaged(picture, 0, height)
    return np.rint(_averaged(tall, 1, width)).astype(np.uint8)


def _averaged(values: NDArray[Any], axis: int, size: int) -> NDArray[np.float32]:
    """Means over ``size`` equal parts of an axis, 0 or 1."""
    pixels, weights = _parts(values.shape[axis], size)
    total: NDArray[np.float32] | int = 0
    for nth, weight in zip(pixels, weights, strict=True):
        taken = values[nth] if axis == 0 else values[:, nth]
        total = total + taken * (weight[:, None, None] if axis == 0 else weight[:, None])
    assert not isinstance(total, int)
    return total


@lru_cache(maxsize=16)
def _parts(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of ``length`` pixels each of ``size`` equal parts covers, and how much of it each makes up: [K, size]."""
    edges = np.arange(size + 1) * length / size
    first = np.floor(edges[:-1]).astype(np.int64)
    most = int((np.ceil(edges[1:]) - first).max())
    pixels = first + np.arange(most)[:, None]
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.minimum(pixels, length - 1), (np.clip(covered, 0, None) * size / length).astype(np.float32)
