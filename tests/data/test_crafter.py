"""The real game: every turn something is done, and every episode is in a world of its own."""

from __future__ import annotations

import numpy as np
from crafter import constants, engine

from tests.data.conftest import Seen


def test_nobody_stands_about(crafter: Seen) -> None:
    assert crafter.names[5] == "do"
    assert set(crafter.actions.tolist()) == {1, 2, 3, 4, 5}
    changed = (crafter.frames[crafter.turns] != crafter.frames[crafter.turns + 1]).any((1, 2, 3))
    assert changed.mean() > 0.85


def test_every_episode_has_a_world_of_its_own(crafter: Seen) -> None:
    firsts = [crafter.frames[np.argmax(crafter.episode == number)].tobytes() for number in range(3)]
    assert len(set(firsts)) == 3


def test_it_is_always_noon(crafter: Seen) -> None:
    """Whatever no creature stands on is drawn in Crafter's own colours, which any dusk would tint."""
    textures = engine.Textures(constants.root / "assets")
    materials = {textures.get(name, (8, 8))[..., :3].transpose(1, 0, 2).tobytes() for name in constants.materials}
    for frame in crafter.frames[::10]:
        tiles = frame.reshape(9, 8, 9, 8, 3).swapaxes(1, 2).reshape(81, 8, 8, 3)
        assert np.mean([tile.tobytes() in materials for tile in tiles]) > 0.9
