"""What is asked of sources of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fit = Literal["crop", "pad", "stretch"]
Episodes = Literal["file", "dones", "cuts", "one"]


@dataclass(frozen=True)
class Options:
    """What is asked of the sources.

    Attributes:
        size: side of the frames that are made, pixels; that of configs/, which is TinyWorlds' own, so that they fit.
        fit: what of a picture that is no square goes into one.
        fps: frames per second to take of a video; all if None.
        stride: every so many-th frame is taken.
        start: where to begin: seconds of a video, rows of anything else.
        end: where to end, likewise; that one is not taken any more.
        clock: whether one of them was given as minutes and seconds, so that both are times.
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
    clock: bool = False
    key: str | None = None
    episodes: Episodes | None = None
    frames: int = 10_240
    episode_length: int | None = None
    seed: int = 5
    wrappers: tuple[str, ...] = ()
