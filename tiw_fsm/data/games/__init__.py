"""The games that can be recorded, by name. A game plays, and yields what was seen and pressed; it writes no file."""

from __future__ import annotations

from tiw_fsm.data.games import crafter, planet, walking
from tiw_fsm.data.games.game import Game, Sizes

GAMES = {
    "planet": Game(Sizes(frames=10_240, size=56, episode_length=32, map_size=16), walking.KEYS, planet.begin),
    "crafter": Game(Sizes(frames=16_384, size=72, episode_length=100, map_size=None), crafter.KEYS, crafter.begin),
}
"""The first is recorded unless another is asked for."""
