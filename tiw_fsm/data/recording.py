"""Demo frames from a real game: Crafter (Hafner 2021, arXiv:2109.06780; MIT licence), a top-down survival game.

The same seed gives the same file, byte for byte. The picture is Crafter's map without the inventory below it, at
8 pixels a tile, so that one tile is one patch. The game's clock stands at noon: night is drawn with noise that nobody
could predict. The player cannot die and wanders about the middle of a world of its own: easier than the game as it is
played, and learnable in minutes.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tiw_fsm.errors import UsageProblem, disk_errors
from tiw_fsm.system import durable

TILE = 8
STAY = 0
MOVES = (1, 2, 3, 4)
"""Crafter's actions noop, and left, right, up, down."""
REST = 0.7
"""Chance of standing still for a turn, else a random move: after a few turns a copy of the last frame is wrong, yet
most of the map is still in view."""
FULL = {"health": 9, "food": 9, "drink": 9, "energy": 9}
CHUNK_FRAMES = 16

Frames = NDArray[np.uint8]
Moves = NDArray[np.int64]


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
        DiskRefused: ``path`` is as it was before.
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
        try:
            _write(temporary, frames, size, episode_length, seed, on_progress)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            durable.sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _write(path: Path, frames: int, size: int, length: int, seed: int, on_progress: Callable[[int, int], None]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(game=f"Crafter {version('crafter')}", seed=seed, stride=1)
        pixels = file.create_dataset(
            "frames",
            (frames, size, size, 3),
            "u1",
            chunks=(min(CHUNK_FRAMES, frames), size, size, 3),
            compression="gzip",
            compression_opts=1,
            track_times=False,
        )
        actions = file.create_dataset("actions", (frames,), "i8", track_times=False)
        actions.attrs["meaning"] = (
            "the move that leads from this row to the next: 0 none, 1 left, 2 right, 3 up, 4 down"
        )
        episodes = file.create_dataset("episode", (frames,), "i8", track_times=False)
        done = 0
        for number, (frames_seen, moved) in enumerate(_episodes(frames, size, length, seed)):
            rows = slice(done, done + len(frames_seen))
            pixels[rows], actions[rows], episodes[rows] = frames_seen, moved, number
            done += len(frames_seen)
            on_progress(done, frames)


def _episodes(frames: int, size: int, length: int, seed: int) -> Iterator[tuple[Frames, Moves]]:
    """Episodes in order, played by as many processes as may run at once."""
    count = -(-frames // length)
    left = frames
    workers = min(count, len(os.sched_getaffinity(0)))
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for frames_seen, moved in pool.map(_play, [(seed, number, size, length) for number in range(count)]):
            yield frames_seen[:left], moved[:left]
            left -= len(frames_seen)


def _play(job: tuple[int, int, int, int]) -> tuple[Frames, Moves]:
    """One episode in a world of its own: (frames [T, H, W, 3], actions [T])."""
    seed, number, size, length = job
    env = _world(seed * 100_003 + number, size // TILE)
    frame = env.reset()
    random = np.random.default_rng([seed, number])
    frames_seen, moved = np.empty((length, size, size, 3), np.uint8), np.empty(length, np.int64)
    for turn in range(length):
        frames_seen[turn], moved[turn] = frame[:size], random.choice(MOVES) if random.random() >= REST else STAY
        env._player.inventory.update(FULL)
        frame = env.step(moved[turn])[0]
    return frames_seen, moved


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
