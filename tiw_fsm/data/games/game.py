"""What a game is to the recording: sizes that it has by default, keys, and episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TILE = 8
"""Pixels of a tile's side."""

Frames = NDArray[np.uint8]
Keys = NDArray[np.int64]


class Sizes(NamedTuple):
    """How much of a game is recorded, and how large."""

    frames: int
    size: int
    """Side of a frame, pixels: an odd number of tiles, so that the player's is the middle one."""
    episode_length: int
    """Frames."""
    map_size: int | None
    """Side of the world, cells; None where the game has its own."""

    @property
    def episodes(self) -> int:
        """How many there are; the last one may be cut short."""
        return -(-self.frames // self.episode_length)

    @property
    def tiles(self) -> int:
        """Tiles in a row of a frame."""
        return self.size // TILE


class Episode(NamedTuple):
    """One episode: what was seen, and what was pressed."""

    frames: Frames
    """uint8 [T, H, W, 3]."""
    keys: Keys
    """[T], places in the game's ``keys``: ``keys[t]`` was pressed at frame t and leads to frame t + 1."""


@dataclass(frozen=True)
class Session:
    """A game that stands ready.

    Attributes:
        attrs: what is stored with the frames.
        world: where it is played, in words.
        episodes: in order, each of the length asked for, as many as there are.
    """

    attrs: Mapping[str, int | str]
    world: str
    episodes: Iterator[Episode]


@dataclass(frozen=True)
class Game:
    """A game that can be recorded.

    Attributes:
        defaults: the sizes it is recorded in unless others are asked for.
        keys: names of what can be pressed; the place of one is its number in ``actions``.
        begin: makes a session of given sizes and a seed. It raises ``UsageProblem`` for sizes that cannot be, and
            ``ModuleNotFoundError`` where the game is not installed.
    """

    defaults: Sizes
    keys: tuple[str, ...]
    begin: Callable[[Sizes, int], Session]
