"""A player's world: it steps as the gate rolls out, bit for bit, and shares nothing with another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.playing import rolled_out
from tiw_fsm.play.opening import Opened
from tiw_fsm.play.world import Frames, Player
from tiw_fsm.tinyworlds.clips import to_pixels

ACTIONS = [0, 3, 3, 1, 2, 0, 1, 2, 3]


def play(player: Player, actions: list[int]) -> Frames:
    return np.concatenate([player.step(action) for action in actions])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prediction_horizon": 2},
        {"context_window": 3},
        {"context_window": 2, "prediction_horizon": 2},
        {"temperature": 1.0, "seed": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("start", [0, 7])
def test_a_game_is_the_rollout_of_its_actions_bit_for_bit(opened: Opened, start: int, changes: dict[str, Any]) -> None:
    """At temperature 0, and at any other by the rollout's own random numbers."""
    game = replace(opened.game, config=opened.game.config.evolve(**changes))
    found = play(Player(game, start), ACTIONS)
    assert len(found) == len(ACTIONS) * game.config.prediction_horizon
    assert np.array_equal(found, rolled_out(game, start, ACTIONS))


@pytest.mark.parametrize("horizon", [1, 2])
def test_following_an_episode_is_the_rollout_by_its_inferred_actions(opened: Opened, horizon: int) -> None:
    game = replace(opened.game, config=opened.game.config.evolve(prediction_horizon=horizon, generation_steps=5))
    player, config = Player(game, 3), game.config
    steps = [player.follow() for _ in range(5)]
    clip = game.clip(int(game.starts[3]), config.frames)
    expected = game.model.rollout(clip, game.model.infer_actions(clip, config), config)
    assert np.array_equal(np.concatenate([step.dream for step in steps if step]), to_pixels(expected[0]))
    assert np.array_equal(
        np.concatenate([step.truth for step in steps if step]), to_pixels(clip[0, config.context_window :])
    )


def test_an_episode_that_is_followed_ends_where_the_recording_does(opened: Opened) -> None:
    game, last = opened.game, opened.game.episodes[1] - 1
    player = Player(game, last)
    assert player.follow() is not None
    assert player.follow() is None
    assert player.steps == 1


def test_following_begins_again_where_something_else_was_played(opened: Opened) -> None:
    game = opened.game
    player, fresh = Player(game, 2), Player(game, 2)
    player.step(1)
    followed, expected = player.follow(), fresh.follow()
    assert followed is not None
    assert expected is not None
    assert np.array_equal(followed.dream, expected.dream)
    assert player.steps == 1


def test_what_is_played_makes_a_difference(opened: Opened) -> None:
    """Else nothing here would prove anything."""
    games = {play(Player(opened.game, 0), [action] * 6).tobytes() for action in range(opened.game.n_actions)}
    assert len(games) == opened.game.n_actions


def test_worlds_share_nothing_that_changes(opened: Opened) -> None:
    """Turn by turn, or one after the other: the same."""
    game = replace(opened.game, config=opened.game.config.evolve(temperature=1.0))
    one, other = Player(game, 0), Player(game, 9)
    turns = [(one.step(action), other.step(3 - action)) for action in ACTIONS]
    assert np.array_equal(np.concatenate([turn[0] for turn in turns]), play(Player(game, 0), ACTIONS))
    assert np.array_equal(
        np.concatenate([turn[1] for turn in turns]), play(Player(game, 9), [3 - action for action in ACTIONS])
    )


def test_what_was_played_is_kept_with_the_actions_that_led_there(opened: Opened) -> None:
    game = opened.game
    player = Player(game, 4)
    found = play(player, ACTIONS)
    window = game.config.context_window
    assert len(player.played.frames) == window + len(ACTIONS)
    assert np.array_equal(np.stack(player.played.frames[:window]), to_pixels(game.clip(int(game.starts[4]), window)[0]))
    assert np.array_equal(np.stack(player.played.frames[window:]), found)
    assert player.played.led[0] == -1
    assert player.played.led[window:] == ACTIONS
    assert np.array_equal(player.last(3), found[-3:])
    player.reset(4)
    assert (player.steps, len(player.played.frames)) == (0, window)
    assert np.array_equal(play(player, ACTIONS), found)


def test_starts_go_round_and_an_action_that_is_not_there_is_refused(opened: Opened) -> None:
    player = Player(opened.game, len(opened.game.starts) + 1)
    assert player.start == 1
    with pytest.raises(IndexError, match="there is no action 4"):
        player.step(4)
