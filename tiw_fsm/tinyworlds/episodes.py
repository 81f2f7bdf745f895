"""Which rows make clips, and which are held out. numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


HELD_OUT_EVERY = 10
"""Every tenth episode is held out; without episodes, the last tenth of the rows."""


def split_rows(
    rows: int, episode: NDArray[np.integer] | None, skip: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Episode number of every row, and whether it is held out; rows before ``skip`` belong to episode -1.

    Episodes are numbered in order of appearance: whenever the id changes, another one begins.
    """
    if episode is None:
        held_out = np.arange(rows) >= skip + (rows - skip) * (HELD_OUT_EVERY - 1) // HELD_OUT_EVERY
        numbers = held_out.astype(np.int64)
    else:
        numbers = np.concatenate([[0], np.cumsum(np.diff(episode) != 0)]).astype(np.int64)
        held_out = numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    numbers[:skip] = -1
    return numbers, held_out & (numbers >= 0)


def first_share(starts: Rows, share: float | None) -> Rows:
    """The first ``share`` of clip starts, at least one of them; all without a share."""
    return starts if share is None else starts[: max(1, int(len(starts) * share))]


def clip_starts(
    numbers: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    *,
    length: int,
    stride: int,
    preload_ratio: float | None,
    for_evaluation: bool,
) -> Rows:
    """First rows of all clips of ``length`` frames ``stride`` rows apart that lie within one episode of the wanted
    split. ``preload_ratio`` limits them to the first share of the file's rows."""
    span = (length - 1) * stride
    first = np.arange(max(0, len(numbers) - span))
    last = first + span
    whole = (numbers[first] == numbers[last]) & (numbers[first] >= 0) & (held_out[first] == for_evaluation)
    if preload_ratio is not None and not for_evaluation:
        whole &= last < int(len(numbers) * preload_ratio)
    found: Rows = first[whole]
    return found
