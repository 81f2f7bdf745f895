"""The clips that a frame file has to train and to judge on, and why there are too few. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.h5 import reading
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.tinyworlds.episodes import HELD_OUT_EVERY, Rows, clip_starts, first_share, split_rows

SOURCE_FPS = 60
CLOSER = f"set training.fps higher ({SOURCE_FPS} takes row after row)"
LEAST_JUDGED = 3
"""Frames of the shortest clip that can be judged: a context of two, and one that is predicted."""


class HeldOut(NamedTuple):
    """The clips that a run is judged on."""

    clips: int
    length: int
    """Frames of a clip."""
    share: float | None = None
    """Of the clips there are, from the first on; all if None."""


class Supply(NamedTuple):
    """What a file has to train and to judge on.

    Attributes:
        episodes: None where the file has none recorded.
        judged: clips to judge on.
        seconds: of play; None where nothing says how fast the rows follow one another.
    """

    rows: int
    episodes: int | None
    held_out: int
    """Episodes of them; rows where there are none."""
    stride: int
    training: int
    """Clips to train on."""
    judged: int
    seconds: float | None

    def __str__(self) -> str:
        play = "" if self.seconds is None else f", {self.seconds:,.0f} s of play"
        episodes = "no episodes, the last rows held out"
        if self.episodes is not None:
            episodes = f"{self.episodes:,} episodes, {self.held_out:,} of them held out"
        return (
            f"{self.rows:,} rows{play}, {episodes}; with stride {self.stride} {self.training:,} clips to train on, "
            f"{self.judged:,} to judge on"
        )


def of(source: DataSource, *, training_length: int, held_out: HeldOut) -> Supply:
    """What a ``source`` with which nothing is wrong has.

    Args:
        training_length: frames of a training clip.
        held_out: what the gate wants.

    Raises:
        UsageProblem: it cannot be read.
        DiskRefused: the operating system failed to read it.
    """
    rows = _rows(source)
    return Supply(
        rows=len(rows.numbers),
        episodes=len(np.unique(rows.numbers[rows.numbers >= 0])) if rows.in_episodes else None,
        held_out=len(np.unique(rows.numbers[rows.held_out])),
        stride=source.stride,
        training=len(rows.clips(training_length, source.stride, source.preload_ratio)),
        judged=len(rows.to_judge(held_out.length, source.stride, held_out.share)),
        seconds=rows.rate and len(rows.numbers) / rows.rate,
    )


def problems(source: DataSource, *, training_length: int, held_out: HeldOut) -> list[str]:
    """Why a ``source`` whose rows are sound has no clip to train on or too few to judge on, each with its remedy.

    Takes and raises what ``of`` does.
    """
    rows = _rows(source)
    return _training_problems(rows, source, training_length) + _gate_problems(rows, source, held_out)


class _Rows(NamedTuple):
    """How the rows of a file are split."""

    numbers: Rows
    """Of the episode of each row; -1 where it is skipped."""
    held_out: NDArray[np.bool_]
    in_episodes: bool
    """Whether the file has episodes recorded."""
    rate: float | None

    def clips(self, length: int, stride: int, preload_ratio: float | None = None) -> Rows:
        """First rows of the clips to train on."""
        return self._starts(length=length, stride=stride, preload_ratio=preload_ratio, for_evaluation=False)

    def to_judge(self, length: int, stride: int, share: float | None = None) -> Rows:
        """First rows of the clips to judge on, or of the first ``share`` of them."""
        starts = self._starts(length=length, stride=stride, preload_ratio=None, for_evaluation=True)
        return first_share(starts, share)

    def _starts(self, **wanted: Any) -> Rows:
        return clip_starts(self.numbers, self.held_out, **wanted)

    def longest(self, of: NDArray[np.bool_]) -> int:
        """Rows of the longest episode among some rows."""
        return int(np.bincount(self.numbers[of & (self.numbers >= 0)], minlength=1).max())


def _rows(source: DataSource) -> _Rows:
    path = Path(source.path)
    with reading(path), h5py.File(path, "r") as file:
        count = int(file["frames"].shape[0])
        episode = file["episode"][:] if "episode" in file else None
        rate = _rate(file.attrs)
    return _Rows(*split_rows(count, episode, source.skip), episode is not None, rate)


def _rate(attributes: Mapping[str, object]) -> float | None:
    """Rows a second: as the file says, else as the usual stride supposes; None of a recording by turns."""
    told = attributes.get("fps")
    if isinstance(told, int | float | np.number) and math.isfinite(told) and told > 0:
        return float(told)
    return None if "stride" in attributes else SOURCE_FPS


def _training_problems(rows: _Rows, source: DataSource, length: int) -> list[str]:
    """Why there is no clip to train on."""
    stride, ratio = source.stride, source.preload_ratio
    if len(rows.clips(length, stride, ratio)):
        return []
    said = f"{source.path}: no training clip of {_many(length, 'frame')}, {_apart(stride)}, fits"
    if len(rows.clips(length, stride)):
        return [
            f"{said} into the first {ratio:g} of its {_many(len(rows.numbers), 'row')}; raise training.preload_ratio"
        ]
    longest = rows.longest(~rows.held_out)
    whole = "longest episode to train on" if rows.in_episodes else "part to train on, all but the last tenth,"
    skipped = f" behind the first {source.skip}, which are skipped" if source.skip else ""
    remedies = ["record longer episodes" if rows.in_episodes and longest else "record more frames"]
    if (fitting := (longest - 1) // stride + 1) > 1:
        remedies.append(f"lower training.context_length to {fitting}")
    if stride > 1 and length <= longest:
        remedies.append(CLOSER)
    return [
        f"{said}: it takes {_many(_span(length, stride), 'row')}, and the {whole} has {_many(longest, 'row')}"
        f"{skipped}; {', or '.join(remedies)}"
    ]


def _gate_problems(rows: _Rows, source: DataSource, wanted: HeldOut) -> list[str]:
    """Why there are too few clips to judge on."""
    found = len(rows.to_judge(wanted.length, source.stride, wanted.share))
    if found >= wanted.clips:
        return []
    takes = _span(wanted.length, source.stride)
    episodes, longest = int(rows.numbers.max()) + 1, rows.longest(rows.held_out)
    remedies = []
    if rows.in_episodes and 0 < episodes < HELD_OUT_EVERY:
        each = rows.longest(~rows.held_out) - takes + 1
        least = HELD_OUT_EVERY * (math.ceil(wanted.clips / each) if each > 0 else 1)
        why = f", and of its {_many(episodes, 'episode')} none is held out, since every tenth is"
        remedies = [f"record {least} or more" + ("" if each > 0 else f", of {_many(takes, 'row')} or more")]
    elif not found and rows.in_episodes:
        why = f": each takes {_many(takes, 'row')}, and the longest held-out episode has {_many(longest, 'row')}"
        remedies = ["record longer episodes"]
    elif not found:
        why = f": each takes {_many(takes, 'row')}, and the last tenth, which is held out, has {_many(longest, 'row')}"
        remedies = ["record more frames"]
    else:
        more = "more or longer episodes (every tenth is" if rows.in_episodes else "more frames (the last tenth is"
        why = f", and there {'is' if found == 1 else 'are'} {found}"
        remedies = [f"record {more} held out)", "lower loop.inference.clips"]
    if len(rows.to_judge(LEAST_JUDGED, source.stride, wanted.share)) >= wanted.clips:
        remedies.append("lower inference.generation_steps, inference.context_window or inference.prediction_horizon")
    if source.stride > 1 and len(rows.to_judge(wanted.length, 1, wanted.share)) >= wanted.clips:
        remedies.append(CLOSER)
    if len(rows.to_judge(wanted.length, source.stride)) >= wanted.clips:
        remedies.append("raise inference.preload_ratio")
    return [
        f"{source.path}: the gate wants {_many(wanted.clips, 'held-out clip')} of {_many(wanted.length, 'frame')}, "
        f"{_apart(source.stride)}{why}; {', or '.join(remedies)}"
    ]


def _span(length: int, stride: int) -> int:
    """Rows from a clip's first frame to its last."""
    return (length - 1) * stride + 1


def _apart(stride: int) -> str:
    return "row after row" if stride == 1 else f"{stride} rows apart"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
