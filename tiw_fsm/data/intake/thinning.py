"""Which of a source's frames are taken: from where to where, how many a second, every how many-th."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tiw_fsm.data.intake.source import UNKNOWN, Shot

TOLERANCE = 0.1
"""Of a frame's time: clocks of videos count in milliseconds, and a frame may be that much late."""


def between(shots: Iterator[Shot], start: float, end: float | None) -> Iterator[Shot]:
    """The rows from ``start`` on and before ``end``."""
    return islice(shots, int(start), None if end is None else int(end))


def at_rate(shots: Iterator[Shot], fps: float) -> Iterator[Shot]:
    """What was to be seen ``fps`` times a second; a frame that stays for longer is taken several times."""
    first, taken, shown = 0.0, 0, None
    for shot in shots:
        assert shot.seconds is not None
        if shown is None:
            first = shot.seconds
        while shown and first + taken / fps < shot.seconds - TOLERANCE / fps:
            yield shown._replace(seconds=first + taken / fps)
            taken += 1
        shown = shot
    if shown and shown.seconds is not None and first + taken / fps <= shown.seconds + TOLERANCE / fps:
        yield shown


def every(shots: Iterator[Shot], stride: int) -> Iterator[Shot]:
    """The first frame of each episode and every ``stride``-th after it.

    An action that was not held until the next frame that is taken is unknown.
    """
    taken, row = None, 0
    for shot in shots:
        if taken is None or shot.episode != taken.episode:
            row = 0
        if row % stride == 0:
            if taken is not None:
                yield taken
            taken = shot
        elif taken is not None and shot.action != taken.action:
            taken = taken._replace(action=UNKNOWN)
        row += 1
    if taken is not None:
        yield taken
