"""Frames of a game, recorded: the same for the same seed, byte for byte, and whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import h5py

from tiw_fsm.data import writing
from tiw_fsm.data.games import GAMES
from tiw_fsm.data.games.game import TILE, Session, Sizes
from tiw_fsm.data.intake import environment, kinds
from tiw_fsm.errors import UsageProblem

NOT_INSTALLED = "the game Crafter is not installed: pip install 'tiw_fsm[demo]'"


class Recorded(NamedTuple):
    """What was recorded."""

    frames: int
    distinct: int
    """Different frames among them."""
    world: str
    """Where it was played, in words."""


def record(
    path: Path,
    *,
    game: str = next(iter(GAMES)),
    frames: int | None = None,
    size: int | None = None,
    episode_length: int | None = None,
    map_size: int | None = None,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recorded:
    """Write ``frames`` (N, H, W, 3) uint8, ``episode`` (N) and ``actions`` (N) to ``path``.

    ``actions[n]`` is the key that was pressed at row n and leads to row n + 1; the last of an episode leads
    nowhere. The names of the keys are the attribute ``names`` of ``actions``. Sizes left out are the game's own.

    Args:
        game: one of ``GAMES``.
        frames: how many, at least 1.
        size: side of a frame in pixels, an odd number of tiles.
        episode_length: frames per episode, at least 2.
        map_size: side of the world in cells, where the game asks.
        seed: of world and keys, at least 0.
        on_progress: called with (frames done, frames in all).

    Raises:
        UsageProblem: there is no such game, it is not installed, or the sizes cannot be.
        DiskRefused: ``path`` is as it was before.
    """
    if game not in GAMES and environment.is_environment(game):
        raise UsageProblem(f"--game {game} is an environment, which `{kinds.command(game)}` records")
    if game not in GAMES:
        raise UsageProblem(f"--game {game}: there is no such game; there are {' and '.join(GAMES)}")
    sizes = _sizes(game, frames=frames, size=size, episode_length=episode_length, map_size=map_size)
    try:
        session = GAMES[game].begin(sizes, seed)
    except ModuleNotFoundError as exc:
        raise UsageProblem(NOT_INSTALLED) from exc
    with writing.replacing(path) as file:
        distinct = _write(file, session, GAMES[game].keys, sizes, seed, on_progress)
    return Recorded(sizes.frames, distinct, session.world)


def _sizes(game: str, **asked: int | None) -> Sizes:
    """The game's own sizes but for those asked for."""
    given = {name: value for name, value in asked.items() if value is not None}
    sizes = GAMES[game].defaults._replace(**given)
    if sizes.size % TILE or sizes.tiles % 2 == 0:
        raise UsageProblem(f"--size {sizes.size}: must be an odd number of tiles of {TILE} pixels; try 56 or 72")
    if "map_size" in given and GAMES[game].defaults.map_size is None:
        raise UsageProblem(f"--map-size {sizes.map_size}: --game {game} has worlds of its own size; leave it out")
    return sizes


def _write(
    file: h5py.File,
    session: Session,
    keys: Sequence[str],
    sizes: Sizes,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> int:
    """Returns the number of different frames."""
    frames = sizes.frames
    file.attrs.update(session.attrs, seed=seed, stride=1)
    pixels = writing.add_frames(file, sizes.size, frames)
    actions = writing.add_actions(file, frames, keys)
    episodes = writing.add_episode(file, frames)
    done, seen = 0, set[bytes]()
    for number, episode in enumerate(session.episodes):
        kept = min(len(episode.frames), frames - done)
        rows = slice(done, done + kept)
        pixels[rows], actions[rows], episodes[rows] = episode.frames[:kept], episode.keys[:kept], number
        seen.update(blake2b(frame, digest_size=16).digest() for frame in episode.frames[:kept])
        done += kept
        on_progress(done, frames)
    file.attrs["distinct_frames"] = len(seen)
    file.flush()
    return len(seen)
