"""A planet: keys turn it by a tile, it has no edges, and all of it that can be walked on can be reached."""

from __future__ import annotations

import numpy as np
import pytest
from crafter import constants, engine, objects
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.data.conftest import Seen
from tiw_fsm.data.games.planet import Cell, Planet, find_planet
from tiw_fsm.tinyworlds.episodes import split_rows

KEYS = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}
"""Cells to the right and down: left, right, up, down."""
TILES = 7
CELLS = st.tuples(st.integers(0, 15), st.integers(0, 15))


@pytest.fixture(scope="module")
def default() -> Planet:
    return find_planet(seed=5, map_size=16)


def without_player(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames [N, 56, 56, 3] whose middle tile is black."""
    blank = frames.copy()
    blank[:, 24:32, 24:32] = 0
    return blank


def shifted_agree(before: NDArray[np.uint8], after: NDArray[np.uint8], right: int, down: int) -> bool:
    """Whether ``after`` is ``before`` with all that is in both moved by a tile, the player's tile aside."""
    tiles = np.arange(TILES)
    rows, columns = (tiles[(tiles + by >= 0) & (tiles + by < TILES)] for by in (down, right))
    for row in rows:
        for column in columns:
            if (3, 3) in ((row, column), (row + down, column + right)):
                continue
            new = after[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            old = before[8 * (row + down) :, 8 * (column + right) :][:8, :8]
            if (new != old).any():
                return False
    return True


def test_a_key_turns_the_world_by_one_tile_the_other_way_or_the_player_only(planet: Seen) -> None:
    blank = without_player(planet.frames)
    stayed = 0
    for row in planet.turns:
        if (blank[row] == blank[row + 1]).all():
            stayed += 1
        else:
            assert shifted_agree(planet.frames[row], planet.frames[row + 1], *KEYS[planet.actions[row]])
    assert 0.1 < stayed / len(planet.turns) < 0.4


def test_no_episode_is_mostly_standing_and_every_key_is_held(planet: Seen) -> None:
    blank = without_player(planet.frames)
    for number in range(planet.episode[-1] + 1):
        views = blank[planet.episode == number]
        assert (views[1:] != views[:-1]).any((1, 2, 3)).mean() >= 0.5
    share = np.bincount(planet.actions) / len(planet.actions)
    assert share[0] == 0
    assert share[1:].min() > 0.2


def test_what_is_held_out_was_seen_but_not_walked(planet: Seen) -> None:
    """The same places by other ways: to be foretold by who knows the planet, not by who knows the episodes."""
    _, held_out = split_rows(len(planet.frames), planet.episode, 0)
    seen = {frame.tobytes() for frame in planet.frames[~held_out]}
    assert np.mean([frame.tobytes() in seen for frame in planet.frames[held_out]]) > 0.98
    walks = planet.actions.reshape(-1, 32)
    held_out_walks = held_out.reshape(-1, 32)[:, 0]
    trained_on = {walk.tobytes() for walk in walks[~held_out_walks]}
    assert not any(walk.tobytes() in trained_on for walk in walks[held_out_walks])


def test_the_default_planet_has_a_bit_of_everything(default: Planet) -> None:
    made_of = set(np.unique(default.materials).tolist())
    assert made_of == {"grass", "sand", "path", "water", "tree", "stone", "coal", "iron", "diamond"}
    assert default.picture.shape == (128, 128, 3)
    assert 0.55 <= default.walkable.mean() <= 0.75


def test_the_whole_planet_is_recorded(planet: Seen, default: Planet) -> None:
    """Of each cell that can be reached at least one frame."""
    blank = {frame.tobytes() for frame in without_player(planet.frames)}
    cells = [(int(row), int(column)) for row, column in np.argwhere(default.reachable)]
    there = [without_player(default.frame(cell, 1, TILES)[None])[0].tobytes() in blank for cell in cells]
    assert all(there)


@pytest.mark.parametrize(("seed", "map_size"), [(0, 7), (1, 12), (2, 24)])
def test_a_planet_is_found_for_other_seeds_and_sizes(seed: int, map_size: int) -> None:
    found = find_planet(seed, map_size)
    assert found.materials.shape == (map_size, map_size)
    assert "lava" not in found.materials
    assert found.reachable.sum() >= 0.97 * found.walkable.sum()


@settings(max_examples=30, deadline=None)
@given(cell=CELLS, key=st.sampled_from([*KEYS]), tiles=st.sampled_from([5, 7]))
def test_a_frame_is_what_crafter_would_draw_of_an_endless_world(
    default: Planet, cell: Cell, key: int, tiles: int
) -> None:
    """A planet laid out three by three in a world of Crafter's, drawn by Crafter around the cell in the middle one."""
    materials = np.tile(default.materials, (3, 3))
    world = engine.World((48, 48), constants.materials, (12, 12))
    world.daylight = 1.0
    for row, column in np.ndindex(48, 48):
        world[column, row] = materials[row, column]
    player = objects.Player(world, (16 + cell[1], 16 + cell[0]))
    player.facing = KEYS[key]
    world.add(player)
    drawn = engine.LocalView(world, engine.Textures(constants.root / "assets"), [tiles, tiles])(player, (8, 8))
    assert (default.frame(cell, key, tiles) == drawn.transpose(1, 0, 2)).all()


@st.composite
def planets(draw: st.DrawFn) -> Planet:
    """Grass and water, at random."""
    size = draw(st.integers(2, 9))
    grass = draw(st.lists(st.booleans(), min_size=size**2, max_size=size**2))
    return Planet(np.where(np.reshape(grass, (size, size)), "grass", "water"))


def reached(planet: Planet, start: Cell) -> set[Cell]:
    """Cells that keys lead to."""
    found, ahead = {start}, [start]
    while ahead:
        new = {planet.step(ahead[-1], key) for key in KEYS} - found
        ahead.pop()
        found |= new
        ahead += new
    return found


@settings(max_examples=200, deadline=None)
@given(planet=planets())
def test_what_is_reachable_is_what_keys_lead_to_and_no_other_place_is_larger(planet: Planet) -> None:
    reachable = {(int(row), int(column)) for row, column in np.argwhere(planet.reachable)}
    walkable = {(int(row), int(column)) for row, column in np.argwhere(planet.walkable)}
    assert bool(reachable) == bool(walkable)
    assert all(reached(planet, cell) == reachable for cell in reachable)
    assert all(len(reached(planet, cell)) <= len(reachable) for cell in walkable)


@settings(max_examples=50, deadline=None)
@given(planet=planets(), key=st.sampled_from([*KEYS]), start=CELLS)
def test_as_many_steps_as_the_planet_is_wide_lead_back_to_the_same_frame(planet: Planet, key: int, start: Cell) -> None:
    """With the way made free; no earlier step does, unless it looks the same there."""
    line, across = (start[0] % planet.size, start[1] % planet.size), KEYS[key][0] != 0
    materials = planet.materials.copy()
    materials[(line[0], slice(None)) if across else (slice(None), line[1])] = "grass"
    open_planet = Planet(materials)
    cell, visited = line, []
    for _ in range(planet.size):
        visited.append(cell)
        cell = open_planet.step(cell, key)
    assert cell == line
    assert len(set(visited)) == planet.size
    assert (open_planet.frame(cell, key, 1) == open_planet.frame(line, key, 1)).all()
