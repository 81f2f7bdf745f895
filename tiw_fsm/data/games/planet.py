"""A planet: a piece of a map of Crafter's that wraps around at its edges, and a player who walks about on it.

Maps and tiles are Crafter's (Hafner 2021, arXiv:2109.06780; MIT licence). Nothing but the player moves, and the player
stands in the middle of every frame: pressing a key turns the picture below it by one tile, or, where water, a tree or
stone is in the way, turns the player only. A frame is thus a function of a cell and of where the player looks, and a
few hundred frames are all there are: a world that a small model can learn whole, key by key.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.games.game import TILE, Episode, Frames, Session, Sizes
from tiw_fsm.data.games.walking import KEYS, STEPS, draw_key, next_key
from tiw_fsm.errors import UsageProblem

if TYPE_CHECKING:
    from crafter.engine import Textures

AREA = 64
"""Side of the map that a piece is cut from, cells: that of Crafter's own."""
WALKABLE_SHARE = (0.55, 0.75)
"""Of a piece's cells: with fewer there are corridors, with more nothing is in the way."""
REACHABLE_SHARE = 0.97
"""Of the walkable cells, at least: the player is to see the whole planet."""
MOVING_SHARE = 0.5
"""Of an episode's turns, at least: a player walled in by chance begins anew."""

Cell = tuple[int, int]
Mask = NDArray[np.bool_]


class Planet:
    """A square map without edges: to the right of its last column lies its first, below its last row its first.

    Args:
        materials: Crafter's names of what each cell is made of, [n, n], rows from the top.

    Attributes:
        walkable: bool [n, n].
        reachable: bool [n, n], the largest set of walkable cells that are connected, around the edges too.
    """

    def __init__(self, materials: NDArray[np.str_]) -> None:
        from crafter import constants

        self.materials = materials
        self.walkable: Mask = np.isin(materials, constants.walkable)
        self.reachable = largest_connected(self.walkable)
        self._rendered: dict[tuple[Cell, int, int], Frames] = {}

    @property
    def size(self) -> int:
        """Cells of a side."""
        return len(self.materials)

    @cached_property
    def picture(self) -> Frames:
        """The whole planet without the player, uint8 [n · 8, n · 8, 3]."""
        rows = [np.concatenate([_tile(name)[..., :3] for name in row], axis=1) for row in self.materials]
        return np.concatenate(rows)

    def step(self, cell: Cell, key: int) -> Cell:
        """The cell (row, column) that a key leads to from ``cell``, which is ``cell`` where the way is blocked."""
        right, down = STEPS[key]
        ahead = (cell[0] + down) % self.size, (cell[1] + right) % self.size
        return ahead if self.walkable[ahead] else cell

    def frame(self, cell: Cell, key: int, tiles: int) -> Frames:
        """What is seen with the player on ``cell`` after ``key``, which is where they look: uint8 [tiles · 8, ..., 3].

        Not to be written to: it is drawn once and handed out again.
        """
        if (cell, key, tiles) not in self._rendered:
            around = TILE * (np.array(cell)[:, None] - tiles // 2) + np.arange(TILE * tiles)
            frame = self.picture[np.ix_(*(around % (TILE * self.size)))]
            middle = slice(TILE * (tiles // 2), TILE * (tiles // 2 + 1))
            frame[middle, middle] = _over(_tile(f"player-{KEYS[key]}"), frame[middle, middle])
            self._rendered[cell, key, tiles] = frame
        return self._rendered[cell, key, tiles]

    def walk(self, length: int, tiles: int, random: np.random.Generator) -> Episode:
        """An episode of ``length`` frames from anywhere, most of whose turns move the player."""
        cells = [(int(row), int(column)) for row, column in np.argwhere(self.reachable)]
        while True:
            facing = held = draw_key(random)
            cell = self.step(cells[random.integers(len(cells))], facing)
            frames = np.empty((length, TILE * tiles, TILE * tiles, 3), np.uint8)
            keys, moved = np.empty(length, np.int64), np.zeros(length, bool)
            for turn in range(length):
                frames[turn] = self.frame(cell, facing, tiles)
                held = next_key(held, self.step(cell, held) != cell, random)
                ahead = self.step(cell, held)
                keys[turn], moved[turn], cell, facing = held, ahead != cell, ahead, held
            if moved[:-1].mean() >= MOVING_SHARE:
                return Episode(frames, keys)


def find_planet(seed: int, map_size: int) -> Planet:
    """The most varied piece (by the entropy of its materials) of the map of ``seed`` that is fit for walking.

    Fit is a piece without lava, of whose cells 55 to 75 % can be walked on, nearly all of them connected.

    Raises:
        UsageProblem: there is none.
    """
    from crafter import constants

    world = _map(seed)
    if map_size <= AREA:
        shares = {name: _counts(world == name, map_size) / map_size**2 for name in constants.materials}
        walkable = sum(shares[name] for name in constants.walkable)
        fit = (walkable >= WALKABLE_SHARE[0]) & (walkable <= WALKABLE_SHARE[1]) & (shares["lava"] == 0)
        stacked = np.stack(list(shares.values()))
        variety = -(stacked * np.log(np.maximum(stacked, 1e-9))).sum(0)
        for place in np.argsort(-variety, axis=None, kind="stable"):
            row, column = np.unravel_index(place, variety.shape)
            if fit[row, column]:
                planet = Planet(world[row : row + map_size, column : column + map_size])
                if planet.reachable.sum() >= REACHABLE_SHARE * planet.walkable.sum():
                    return planet
    raise UsageProblem(
        f"--map-size {map_size}: the map of --seed {seed}, {AREA} cells wide, has no piece of that size without lava "
        "that can be walked about on; take 7 to 24, which were found with every seed tried, or try another seed"
    )


def begin(sizes: Sizes, seed: int) -> Session:
    """A planet that is walked about on."""
    assert sizes.map_size is not None
    if sizes.map_size < sizes.tiles:
        raise UsageProblem(
            f"--map-size {sizes.map_size}: smaller than the {sizes.tiles} tiles in view (--size {sizes.size}); make it "
            f"{sizes.tiles} or more"
        )
    planet = find_planet(seed, sizes.map_size)

    def episodes() -> Iterator[Episode]:
        random = np.random.default_rng(seed)
        for _ in range(sizes.episodes):
            yield planet.walk(sizes.episode_length, sizes.tiles, random)

    cells = f"{planet.size} × {planet.size} cells, {planet.reachable.sum()} of them to walk on"
    return Session(
        {"game": f"planet of Crafter {version('crafter')}", "map_size": planet.size},
        f"a planet of {cells}",
        episodes(),
    )


def largest_connected(walkable: Mask) -> Mask:
    """The largest set of connected cells of a torus, bool [n, n]."""
    left, largest = walkable.copy(), np.zeros_like(walkable)
    while left.sum() > largest.sum():
        found, grown = np.zeros_like(left), np.zeros_like(left)
        grown.flat[left.argmax()] = True
        while (grown != found).any():
            found = grown
            around = [np.roll(found, step, axis) for step in (-1, 1) for axis in (0, 1)]
            grown = left & np.logical_or.reduce([found, *around])
        left &= ~found
        if found.sum() > largest.sum():
            largest = found
    return largest


def _counts(mask: Mask, side: int) -> NDArray[np.int64]:
    """How many of its cells each square of ``side`` cells has in ``mask``, by the square's first row and column."""
    total = np.pad(mask.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    columns = total[:, side:] - total[:, :-side]
    counts: NDArray[np.int64] = columns[side:] - columns[:-side]
    return counts


def _map(seed: int) -> NDArray[np.str_]:
    """The map that Crafter makes of a seed: names of materials [64, 64], rows from the top. It takes a second."""
    from crafter import constants, engine, objects, worldgen

    world = engine.World((AREA, AREA), constants.materials, (12, 12))
    world.reset(seed)
    player = objects.Player(world, (AREA // 2, AREA // 2))
    world.add(player)
    worldgen.generate_world(world, player)
    return np.array([[world[column, row][0] for column in range(AREA)] for row in range(AREA)])


@cache
def _textures() -> Textures:
    from crafter import constants, engine

    return engine.Textures(constants.root / "assets")


def _tile(name: str) -> Frames:
    """Crafter's picture of a thing, uint8 [8, 8, 3 or 4], rows from the top."""
    tile: Frames = _textures().get(name, (TILE, TILE)).transpose(1, 0, 2)
    return tile


def _over(tile: Frames, ground: Frames) -> Frames:
    """A tile with an alpha channel over another, as Crafter computes it."""
    alpha, colour, below = (np.float32(part) / 255 for part in (tile[..., 3:], tile[..., :3], ground))
    blended: Frames = np.uint8(255 * (alpha * colour + (1 - alpha) * below))  # type: ignore[assignment]
    return blended
