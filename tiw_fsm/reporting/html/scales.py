"""Values to pixels: the scales of the drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tiw_fsm.reporting.curves import Floats


class Scale(NamedTuple):
    """Values to pixels, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: Any) -> Any:
        place, low, high = (np.log10(v) if self.logarithmic else v for v in (value, self.low, self.high))
        return self.start + (place - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [d * 10.0**p for p in powers for d in (1, 2, 5) if self.low <= d * 10.0**p <= self.high]
            return found if len(found) < 7 else [v for v in found if f"{v:e}"[0] == "1"]
        step = 10 ** math.floor(math.log10((self.high - self.low) or 1))
        step = next((s for s in (step / 5, step / 2, step) if (self.high - self.low) / s <= 6), 2 * step)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def scale(values: Sequence[float] | Floats, start: float, end: float, *, zero: bool = False) -> Scale:
    """A scale for all finite ``values``: logarithmic where they are positive and span more than a factor of 8."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return Scale(0, 1, start, end)
    low, high = float(found.min()), float(found.max())
    if low > 0 and high > 8 * low:
        return Scale(low / 1.15, high * 1.15, start, end, logarithmic=True)
    low = min(low, 0.0) if zero else low
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - (0 if zero and low == 0 else margin), high + margin, start, end)
