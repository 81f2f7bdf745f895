"""Loss curves as data: a stage's metrics file, read, cut where it began anew, and thinned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

POINTS = 300
"""A curve is drawn with at most so many points, each the mean of a bin."""
COLOURS = {"continue": "#2a9d4a", "watch": "#e09f1f", "retune": "#d1343a", "restart_stage": "#8a3fb5"}
"""Of a gate's mark, by its decision."""


class Curve(NamedTuple):
    """A stage's metrics file as columns, one entry per update."""

    attempt: Floats
    completed: Floats
    """Updates seen, this one included: where gates stand on the same axis."""
    loss: Floats
    rate: Floats

    def pick(self, wanted: NDArray[Any]) -> Curve:
        """The rows that ``wanted`` names, as a mask or as indices."""
        return Curve(*(column[wanted] for column in self))


def read(content: bytes) -> Curve:
    """The columns of a metrics file. A torn last line does not count; a loss that is not finite is NaN."""
    lines = content.split(b"\n")[:-1]
    rows = json.loads(b"[" + b",".join(lines) + b"]")  # one call is three times as fast as one per line
    table = [(row["attempt"], row["update"] + 1, row["loss"], row["learning_rate"]) for row in rows]
    return Curve(*np.array(table, dtype=np.float64).reshape(-1, 4).T)


def thin(curve: Curve) -> tuple[Curve, Floats, Floats]:
    """At most ``POINTS`` rows: the mean loss of equal bins, and its smallest and largest value in each."""
    size = max(1, -(-len(curve.loss) // POINTS))
    starts = np.arange(0, len(curve.loss), size)
    finite = np.isfinite(curve.loss)
    counts = np.add.reduceat(finite.astype(float), starts)
    sums = np.add.reduceat(np.where(finite, curve.loss, 0.0), starts)
    mean = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    lows, highs = np.fmin.reduceat(curve.loss, starts), np.fmax.reduceat(curve.loss, starts)
    return curve.pick(starts)._replace(loss=mean), lows, highs


def rising(curve: Curve) -> Iterator[Curve]:
    """The curve cut where its updates step back, as after a stage that began anew."""
    cuts = np.flatnonzero(np.diff(curve.completed) <= 0) + 1
    for indices in np.split(np.arange(len(curve.loss)), cuts):
        if len(indices):
            yield curve.pick(indices)
