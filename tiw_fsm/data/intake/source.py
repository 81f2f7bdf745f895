"""What a source of frames is to the intake: what was asked of it, and what it yields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.errors import UsageProblem

Picture = NDArray[np.uint8]
"""One frame in colour: [H, W, 3], rows from the top."""
UNKNOWN = -1
"""An action that nobody recorded."""
LEAST_SIDE = 8
"""Pixels of a picture's side, at least: what is smaller is a board, a vector or a mask."""
Fit = Literal["crop", "pad", "stretch"]
Episodes = Literal["file", "dones", "cuts", "one"]


class Shot(NamedTuple):
    """One frame of a source."""

    picture: Picture
    episode: int = 0
    """Another number than that of the frame before begins another episode."""
    action: int = UNKNOWN
    """What was pressed at this frame, and leads to the next one."""
    seconds: float | None = None
    """When it was shown, from the source's beginning; None where nobody knows."""


@dataclass(frozen=True)
class Options:
    """What is asked of the sources.

    Attributes:
        size: side of the frames that are made, pixels.
        fit: what of a picture that is no square goes into one.
        fps: frames per second to take of a video; all if None.
        stride: every so many-th frame is taken.
        start: where to begin: seconds of a video, rows of anything else.
        end: where to end, likewise; that one is not taken any more.
        key: which array, observation or dataset holds the pictures.
        episodes: what begins another one; None leaves it to the source.
        frames: how many an environment plays.
        episode_length: frames that an episode has at most.
        seed: of an environment and the keys pressed in it.
        wrappers: ``module:Class`` of what an environment is wrapped in, the innermost first.
    """

    size: int = 128
    fit: Fit = "crop"
    fps: float | None = None
    stride: int = 1
    start: float = 0.0
    end: float | None = None
    key: str | None = None
    episodes: Episodes | None = None
    frames: int = 10_240
    episode_length: int | None = None
    seed: int = 5
    wrappers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A source that stands ready.

    Attributes:
        name: what it is called, without the folder it lies in.
        shots: its frames, in order. It raises ``UsageProblem`` or ``DiskRefused`` where they end early.
        expected: how many there will be, as far as is known.
        fps: frames per second at which they were shown, if known.
        keys: names of the actions by number; none where they have no names, None where there are no actions.
        has_dones: whether it knows where its episodes end.
        notes: what its owner may not expect, a clause each.
    """

    name: str
    shots: Iterator[Shot]
    expected: int | None = None
    fps: float | None = None
    keys: tuple[str, ...] | None = None
    has_dones: bool = False
    notes: tuple[str, ...] = ()


@contextmanager
def needing(what: str, extra: str | None) -> Iterator[None]:
    """Within the block packages are imported that an extra brings.

    Raises:
        UsageProblem: they are not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if extra is None:
            raise
        raise UsageProblem(f"{what} needs the package {exc.name}: pip install 'tiw_fsm[{extra}]'") from exc
