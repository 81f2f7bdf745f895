"""Crafter itself (Hafner 2021, arXiv:2109.06780; MIT licence), a top-down survival game with all its creatures.

The picture is the map without the inventory below it, at 8 pixels a tile. The clock stands at noon, for night is drawn
with noise that nobody could predict. The player, who cannot die, carries pickaxes and always acts: walks, digs, cuts
trees, fights. Every episode has a world of its own, and cows, zombies, skeletons and their arrows do as they like.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

import numpy as np

from tiw_fsm.data.games import walking
from tiw_fsm.data.games.game import TILE, Episode, Session, Sizes
from tiw_fsm.data.games.walking import STEPS, draw_key, next_key

AREA = 64
"""Side of a world, cells: Crafter's own."""
KEYS = (*walking.KEYS, "do")
DO = KEYS.index("do")
DO_IT = 0.5
"""Chance that the player does something to what they face, where that would show."""
INVENTORY = {
    "health": 9,
    "food": 9,
    "drink": 9,
    "energy": 9,
    "wood_pickaxe": 1,
    "stone_pickaxe": 1,
    "iron_pickaxe": 1,
}
"""What the player has at every turn: full strength, and what opens every rock."""


class _OrderedSet(dict[Any, None]):
    """A set that iterates in insertion order, as far as Crafter uses one."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


def begin(sizes: Sizes, seed: int) -> Session:
    """The real game, played by as many processes as may run at once."""
    import crafter  # noqa: F401

    worlds = f"{sizes.episodes} worlds of {AREA} × {AREA} cells"
    return Session({"game": f"Crafter {version('crafter')}"}, worlds, _episodes(sizes, seed))


def _episodes(sizes: Sizes, seed: int) -> Iterator[Episode]:
    jobs = [(seed, number, sizes.tiles, sizes.episode_length) for number in range(sizes.episodes)]
    workers = min(len(jobs), len(os.sched_getaffinity(0)))
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_play, jobs)


def _play(job: tuple[int, int, int, int]) -> Episode:
    """One episode in a world of its own."""
    seed, number, tiles, length = job
    env = _world(seed * 100_003 + number, tiles)
    frame, random = env.reset(), np.random.default_rng([seed, number])
    size = tiles * TILE
    frames, keys = np.empty((length, size, size, 3), np.uint8), np.empty(length, np.int64)
    held = draw_key(random)
    for turn in range(length):
        env._player.inventory.update(INVENTORY)
        held, pressed = _press(env, held, random)
        frames[turn], keys[turn] = frame[:size], pressed
        frame = env.step(pressed)[0]
    return Episode(frames, keys)


def _press(env: Any, held: int, random: np.random.Generator) -> tuple[int, int]:
    """The movement key now held, and the key of this turn: that one, or ``DO`` where it would show."""
    from crafter import constants

    player, world = env._player, env._world
    material, creature = world[player.pos + np.array(player.facing)]
    takes = constants.collect.get(material, {"leaves": material})
    if (creature or takes["leaves"] != material) and random.random() < DO_IT:
        return held, DO
    held = next_key(held, player.is_free(player.pos + np.array(STEPS[held])), random)
    while world[player.pos + np.array(STEPS[held])][0] == "lava":  # never all around: the player came from somewhere
        held = draw_key(random)
    return held, held


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
        return NoonEnv((AREA, AREA), view, (tiles * TILE, (tiles + inventory_rows) * TILE), seed=seed, length=None)
    finally:
        engine.World = original
