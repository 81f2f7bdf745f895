"""Loss curves as data: a stage's metrics file, read piece by piece into curves of bins, whose number has a bound."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

POINTS, REPEATED_POINTS = 300, 100
"""A curve is drawn with at most so many points, each the mean of a bin; one of a repeated chunk with fewer."""
PIECES = 16
"""Curves that are drawn of a stage, the newest: those kept, begun anew each time, and those of repeated chunks."""
ROWS = 4096
"""Of a metrics file that are read at once."""
COLOURS = {"continue": "#2a9d4a", "watch": "#e09f1f", "retune": "#d1343a", "restart_stage": "#8a3fb5"}
"""Of a gate's mark, by its decision."""


class Curve(NamedTuple):
    """A part of a stage's metrics as columns, one entry per bin; a bin is one update, or several in a row."""

    attempt: Floats
    completed: Floats
    """Updates seen when the bin begins, its first included: where gates stand on the same axis."""
    rate: Floats
    """Of the bin's first update."""
    updates: Floats
    """In the bin."""
    finite: Floats
    """Of them those with a finite loss."""
    total: Floats
    """Sum of the finite losses."""
    low: Floats
    high: Floats
    """The smallest and largest loss; NaN where none was finite."""

    @property
    def loss(self) -> Floats:
        """The mean of each bin; NaN where no loss was finite."""
        return np.divide(self.total, self.finite, out=np.full_like(self.total, np.nan), where=self.finite > 0)

    @property
    def end(self) -> float:
        """Updates seen at the end of the last bin."""
        return float(self.completed[-1] + self.updates[-1] - 1)

    def pick(self, wanted: NDArray[Any]) -> Curve:
        """The bins that ``wanted`` names, as a mask or as indices."""
        return Curve(*(column[wanted] for column in self))

    def joined(self, after: Curve) -> Curve:
        """This curve, and another behind it."""
        return Curve(*(np.concatenate(pair) for pair in zip(self, after, strict=True)))


def curve_of(attempt: Floats, completed: Floats, loss: Floats, rate: Floats) -> Curve:
    """One bin per update. A loss that is not finite is NaN."""
    finite = np.isfinite(loss)
    known, total = np.where(finite, loss, np.nan), np.where(finite, loss, 0.0)
    return Curve(attempt, completed, rate, np.ones(len(loss)), finite.astype(float), total, known, known)


def read(lines: Iterable[bytes]) -> Iterator[Curve]:
    """The lines of a metrics file, so many at a time.

    Raises:
        ValueError, LookupError: a line is no row of metrics.
    """
    remaining = iter(lines)
    while batch := list(islice(remaining, ROWS)):
        rows = json.loads(b"[" + b",".join(batch) + b"]")  # one call is three times as fast as one per line
        table = [(row["attempt"], row["update"] + 1, row["loss"], row["learning_rate"]) for row in rows]
        yield curve_of(*np.array(table, dtype=np.float64).T)


def thin(curve: Curve, points: int = POINTS) -> Curve:
    """At most ``points`` bins of about the same number of updates."""
    before = np.cumsum(curve.updates) - curve.updates
    size = max(1, -(-int(curve.updates.sum()) // points))
    starts = np.flatnonzero(np.diff(before // size, prepend=-1))
    updates, finite, total = (np.add.reduceat(c, starts) for c in (curve.updates, curve.finite, curve.total))
    low, high = np.fmin.reduceat(curve.low, starts), np.fmax.reduceat(curve.high, starts)
    return Curve(curve.attempt[starts], curve.completed[starts], curve.rate[starts], updates, finite, total, low, high)


def rising(curve: Curve) -> Iterator[Curve]:
    """The curve cut where its updates step back, as after a stage that began anew."""
    cuts = np.flatnonzero(np.diff(curve.completed) <= 0) + 1
    for indices in np.split(np.arange(len(curve.completed)), cuts):
        if len(indices):
            yield curve.pick(indices)


class Losses:
    """What there is to draw of a stage's losses, in a size that does not depend on its updates."""

    def __init__(self, curves: Iterable[Curve] = (), rejected: Sequence[int] = ()) -> None:
        self.kept: deque[Curve] = deque(maxlen=PIECES)
        """One, and one more each time the stage began anew."""
        self.repeated: deque[Curve] = deque(maxlen=PIECES)
        """One for each chunk that was rejected: they lie over one another."""
        for curve in curves:
            self.extend(curve, rejected)

    def __bool__(self) -> bool:
        return bool(self.kept or self.repeated)

    def extend(self, curve: Curve, rejected: Sequence[int]) -> None:
        """Take what comes next. ``rejected`` are chunk attempts that were repeated."""
        repeated = np.isin(curve.attempt, rejected)
        for piece in rising(curve.pick(~repeated)):
            _append(self.kept, piece, POINTS, goes_on=lambda last, new: new.completed[0] > last.end)
        for number in np.unique(curve.attempt[repeated]):
            piece = curve.pick(curve.attempt == number)
            _append(self.repeated, piece, REPEATED_POINTS, goes_on=lambda last, new: last.attempt[0] == new.attempt[0])

    def followed_by(self, curves: Iterable[Curve], rejected: Sequence[int]) -> Losses:
        """These, and what may still be taken back."""
        both = copy(self)
        both.kept, both.repeated = self.kept.copy(), self.repeated.copy()
        for curve in curves:
            both.extend(curve, rejected)
        return both

    def pieces(self) -> list[tuple[str, Curve]]:
        """The curves to draw, by their kinds: those of repeated chunks come first, to lie below."""
        return [
            *(("repeated", thin(curve, REPEATED_POINTS)) for curve in self.repeated),
            *(("kept", thin(curve)) for curve in self.kept),
        ]


def _append(pieces: deque[Curve], new: Curve, points: int, goes_on: Callable[[Curve, Curve], bool]) -> None:
    """Add a piece, to the last one if it goes on from there. What grows is thinned now and then, not each time."""
    if pieces and goes_on(pieces[-1], new):
        new = pieces.pop().joined(new)
    pieces.append(thin(new, points) if len(new.updates) > 2 * points else new)
