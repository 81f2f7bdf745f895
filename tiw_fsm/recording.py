"""Demo frames from a real game: Crafter (Hafner 2021, arXiv:2109.06780; MIT licence), a top-down survival game.

The same seed gives the same file, byte for byte. The picture is Crafter's map without the inventory below it, at
8 pixels a tile, so that one tile is one patch. The game's clock stands at noon: night is drawn with noise that nobody
could predict.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tiw_fsm.errors import UsageProblem, disk_errors

TILE = 8
MOVES = (1, 2, 3, 4)
"""Crafter's actions left, right, up, down. Each turn takes one of them at random: a copy of the last frame is soon
wrong, yet most of the map stays in view."""


class _OrderedSet(dict[Any, None]):
    """A set that iterates in insertion order, as far as Crafter uses one."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


def record(
    path: Path,
    *,
    frames: int,
    size: int,
    episode_length: int,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write ``frames`` (N, H, W, 3) uint8, ``episode`` (N) and ``actions`` (N) to ``path``.

    ``actions[n]`` is the move that leads from row n to row n + 1; the last one of an episode leads nowhere.

    Args:
        size: side of a frame in pixels, an odd number of tiles.
        episode_length: frames per episode, each in a world of its own.
        on_progress: called with (frames done, frames in all).

    Raises:
        UsageProblem: Crafter is not installed, or the sizes cannot be.
        DiskRefused: nothing is left under ``path``, unless it was there before.
    """
    if size % TILE or size // TILE % 2 == 0:
        raise UsageProblem(f"--size {size}: must be an odd number of tiles of {TILE} pixels; try 56 or 72")
    try:
        import crafter  # noqa: F401
    except ImportError as exc:
        raise UsageProblem("the game Crafter is not installed: pip install 'tiw_fsm[demo]'") from exc
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors("recording to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            file.attrs.update(game="Crafter 1.8.3", seed=seed, stride=1)
            pixels = file.create_dataset("frames", (frames, size, size, 3), "u1", track_times=False)
            actions = file.create_dataset("actions", (frames,), "i8", track_times=False)
            episodes = file.create_dataset("episode", (frames,), "i8", track_times=False)
            done = 0
            for number, (seen, moved) in enumerate(_episodes(frames, size, episode_length, seed)):
                rows = slice(done, done + len(seen))
                pixels[rows], actions[rows], episodes[rows] = seen, moved, number
                done += len(seen)
                on_progress(done, frames)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)


def _episodes(frames: int, size: int, length: int, seed: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Episodes in order, played by as many processes as there are processors."""
    count = -(-frames // length)
    left = frames
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for seen, moved in pool.map(_play, [(seed, number, size, length) for number in range(count)]):
            yield seen[:left], moved[:left]
            left -= len(seen)


def _play(job: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One episode in a world of its own: (frames [T, H, W, 3], actions [T])."""
    seed, number, size, length = job
    env = _world(seed * 100_003 + number, size // TILE)
    random = np.random.default_rng([seed, number])
    seen: list[NDArray[np.uint8]] = []
    moved: list[int] = []
    frame = env.reset()
    while len(seen) < length:
        seen.append(frame[:size])
        moved.append(int(random.choice(MOVES)))
        env._player.inventory.update(health=9, food=9, drink=9, energy=9)  # a walk, not a fight for life
        frame = env.step(moved[-1])[0]
    return np.stack(seen), np.array(moved)


def _world(seed: int, tiles: int) -> Any:
    """A Crafter at noon whose creatures are kept in an order that does not depend on memory addresses."""
    from crafter import Env, constants, engine

    class NoonEnv(Env):  # type: ignore[misc]
        def _update_time(self) -> None:
            self._world.daylight = 1.0

    class OrderedWorld(engine.World):  # type: ignore[misc]
        def reset(self, seed: int | None = None) -> None:
            super().reset(seed)
            self._chunks: defaultdict[Any, _OrderedSet] = defaultdict(_OrderedSet)

    original, engine.World = engine.World, OrderedWorld
    try:
        inventory_rows = -(-len(constants.items) // tiles)
        view = (tiles, tiles + inventory_rows)
        return NoonEnv(view=view, size=(tiles * TILE, (tiles + inventory_rows) * TILE), seed=seed, length=None)
    finally:
        engine.World = original
