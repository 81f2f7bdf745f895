"""Numbers as pictures: which axes of an array are rows, height, width and colours, and what its values mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.intake.source import LEAST_SIDE, Picture
from tiw_fsm.errors import UsageProblem

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGBA. A picture's side is longer than any of them, so an axis of colours is known by its length."""
NEARLY = 1e-3
"""By so much values may leave their range: resizing overshoots."""


class Layout(NamedTuple):
    """How pictures lie in an array."""

    episodes: bool
    """Whether the first axis is episodes and the second their rows; else the first is rows."""
    colours: int | None
    """Which axis of a picture the colours are: 0, 2, or none in grey ones without one."""
    channels: int

    @property
    def row_axes(self) -> int:
        return 1 + self.episodes


class Range(NamedTuple):
    """Which values are black and white."""

    black: float
    white: float

    @property
    def words(self) -> str:
        return f"{self.black:g} to {self.white:g}"


RANGES = (Range(0, 1), Range(-1, 1), Range(0, 255))
"""Of floats; the first that all values lie in."""


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """How pictures lie in an array of this shape; None if it holds none."""
    if len(shape) == 3 and min(shape[1:]) >= LEAST_SIDE:
        return Layout(False, None, 1)
    if len(shape) not in (4, 5):
        return None
    first, second, third = shape[-3:]
    if third in CHANNELS and min(first, second) >= LEAST_SIDE:
        return Layout(len(shape) == 5, 2, third)
    if first in CHANNELS and min(second, third) >= LEAST_SIDE:
        return Layout(len(shape) == 5, 0, first)
    return None


def holds_pictures(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array may be pictures."""
    return layout_of(shape) is not None and dtype.kind in "buif"


def range_of(blocks: Iterable[NDArray[Any]], dtype: np.dtype[Any], layout: Layout, where: str) -> Range:
    """Which values are black and white in all blocks; reads them only if they can mean several things.

    Raises:
        UsageProblem: that cannot be known, a value is no number, or a fourth channel is no opaque alpha.
    """
    if dtype.kind == "b":
        return Range(0, 1)
    if dtype == np.uint8 and layout.channels < 4:
        return Range(0, 255)
    low, high, alphas, rows = np.inf, -np.inf, set[float](), 0
    for block in blocks:
        if dtype.kind == "f":
            block = block.astype(np.float32, copy=False)  # of halves nothing is quick
        if not block.size:
            continue
        least, most = float(block.min()), float(block.max())
        if not np.isfinite([least, most]).all():
            row = rows + int(np.argwhere(~np.isfinite(block))[0][0])
            raise UsageProblem(f"{where} has values in row {row} that are no numbers (NaN, infinite); mend them first")
        low, high, rows = min(low, least), max(high, most), rows + len(block)
        if layout.channels == 4 and len(alphas) < 2:
            alpha = np.take(block, 3, axis=1 + (layout.colours or 0))
            alphas |= {float(alpha.min()), float(alpha.max())}
    found = _range(dtype, low, high, where)
    if alphas and alphas != {found.white}:
        raise UsageProblem(
            f"{where} has four channels, and the fourth is no opaque alpha: it may be four grey frames, one behind the "
            "other, or be transparent; store one grey frame a row, or three colours"
        )
    return found


def _range(dtype: np.dtype[Any], low: float, high: float, where: str) -> Range:
    if dtype.kind == "f":
        for each in RANGES:
            slack = NEARLY * (each.white - each.black)
            if each.black - slack <= low and high <= each.white + slack:
                return each
    elif low >= 0 and high <= 255:
        return Range(0, 255)
    elif (dtype.kind, dtype.itemsize) == ("u", 2):
        return Range(0, 65535)
    raise UsageProblem(
        f"{where} has values from {low:g} to {high:g}, and which are black and white cannot be known; scale them to "
        "0 to 255, to 0 to 1, or to -1 to 1"
    )


def pictures(block: NDArray[Any], layout: Layout, values: Range) -> NDArray[np.uint8]:
    """Rows of an array, [n, ...], as pictures [n, H, W, 3]."""
    if layout.colours is None:
        block = block[..., None]
    elif layout.colours == 0:
        block = np.moveaxis(block, 1, 3)
    block = block[..., :3]
    if block.dtype != np.uint8:
        scale = 255 / (values.white - values.black)
        block = np.rint((block.astype(np.float32) - np.float32(values.black)) * np.float32(scale)).clip(0, 255)
        block = block.astype(np.uint8)
    return np.broadcast_to(np.ascontiguousarray(block), (*block.shape[:3], 3))


def picture(array: NDArray[Any]) -> Picture | None:
    """One picture [H, W, 3] of what an environment shows; None if it is none."""
    layout = layout_of((1, *array.shape)) if array.dtype == np.uint8 and array.ndim in (2, 3) else None
    if layout is None or layout.channels == 4:
        return None
    shown: Picture = pictures(array[None], layout, Range(0, 255))[0]
    return shown
