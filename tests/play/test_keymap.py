"""Which key presses which action: by recorded keys, else by how the picture moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from tiw_fsm.data import recording
from tiw_fsm.play.keymap import KEYS, assign, meaning, propose, shifts
from tiw_fsm.play.world import Game
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig
from tiw_fsm.tinyworlds.fsq import FiniteScalarQuantizer
from tiw_fsm.worlds.held_out import key_actions

MOVES = {0: (0, 0), 1: (0, 8), 2: (0, -8), 3: (8, 0), 4: (-8, 0)}
"""How Crafter's picture moves, pixels down and right, where the player moves none, left, right, up, down."""


@pytest.fixture(scope="module")
def crafter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of a real game, of a player who waits now and then and presses nothing in vain."""
    path = tmp_path_factory.mktemp("crafter") / "frames.h5"
    recording.record(path, frames=640, size=56, episode_length=32, seed=0)
    with h5py.File(path, "a") as file:
        frames, actions, episode = (file[name][:] for name in ("frames", "actions", "episode"))
        told = [n for n in range(len(frames) - 1) if (frames[n] != frames[n + 1]).any()]
        rows = np.repeat(told, np.random.default_rng(0).geometric(0.3, len(told)))
        leaves = np.append(rows[1:] != rows[:-1], True)  # the last of the turns at one place
        for name, content in (
            ("frames", frames[rows]), ("actions", np.where(leaves, actions[rows], 0)), ("episode", episode[rows])
        ):  # fmt: skip
            names = file[name].attrs.get("names")
            del file[name]
            file[name] = content
            if names is not None:
                file[name].attrs["names"] = names
    return path


class Seer:
    """Latent actions that are what really happened, by another number: an encoder that knows the pairs of frames."""

    def __init__(self, path: Path, numbers: Sequence[int]) -> None:
        self.quantizer = FiniteScalarQuantizer(3, 2)
        with h5py.File(path) as file:
            self._known = {
                before.tobytes() + after.tobytes(): numbers[int(action)]
                for before, after, action in zip(
                    file["frames"][:-1], file["frames"][1:], file["actions"][:-1], strict=True
                )
            }

    def encode(self, clips: Tensor) -> Tensor:
        frames = ((clips + 1) * 127.5).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
        found = [
            [self._known[before.tobytes() + after.tobytes()] for before, after in pairwise(clip)] for clip in frames
        ]
        return self.quantizer.latents_from_indices(torch.tensor(found))


@dataclass
class Model:
    actions: Any
    use_actions: bool = True


def data_of(path: Path) -> FrameData:
    return FrameData(DataSource(path=str(path), skip=0, stride=1), torch.device("cpu"))


def game(path: Path, numbers: Sequence[int]) -> Game:
    model: Any = Model(Seer(path, numbers))
    return Game(model, data_of(path), InferenceConfig())


def test_the_shift_of_real_frames_is_that_of_the_players_moves(crafter: Path) -> None:
    """Where the move was free; a player who walks against a wall moves nothing."""
    with h5py.File(crafter) as file:
        frames, actions, episode = (file[name][:] for name in ("frames", "actions", "episode"))
    pairs = [n for n in range(len(frames) - 1) if episode[n] == episode[n + 1]]
    found = shifts(frames[pairs], frames[[n + 1 for n in pairs]])
    for action, moved in MOVES.items():
        mine = found[actions[pairs] == action]
        assert np.mean((mine == moved).all(1)) > 0.6
        assert np.abs(mine.mean(0) - moved).max() < 3


@pytest.mark.parametrize("axis", [0, 1])
def test_the_shift_of_a_real_frame_is_found_to_the_pixel(crafter: Path, axis: int) -> None:
    with h5py.File(crafter) as file:
        frames = file["frames"][::100]
    for by in (-5, -2, 0, 1, 7):
        moved = np.roll(frames, by, axis=1 + axis)
        expected = [by, 0] if axis == 0 else [0, by]
        assert np.mean((shifts(frames, moved) == expected).all(1)) > 0.8  # a field of grass looks the same everywhere


def test_arrows_press_what_is_inferred_where_their_keys_were_recorded(crafter: Path) -> None:
    with h5py.File(crafter, "a") as file:
        file["actions"].attrs["names"] = ["noop", "move_left", "move_right", "move_up", "move_down"]
    seen = game(crafter, [6, 2, 0, 7, 1])
    found = propose(seen)
    by_name = {"noop": 6, "move_left": 2, "move_right": 0, "move_up": 7, "move_down": 1}
    assert key_actions(seen.model, seen.data, seen.config) == by_name  # what `tiw_fsm.load` gives
    assert found.known_by == "keys"
    assert found.keys == {"wait": 6, "left": 2, "right": 0, "up": 7, "down": 1}
    assert found.told[2] == "100% move_left"
    assert found.told[3] == "never inferred"
    assert found.uses[6] == pytest.approx(0.7, abs=0.08)
    assert (found.name(2), found.name(3)) == ("left", "4")


def test_where_no_keys_are_recorded_arrows_press_what_moves_the_picture(crafter: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.h5"
    with h5py.File(crafter) as file, h5py.File(bare, "w") as copy:
        copy["frames"], copy["episode"] = file["frames"][:], file["episode"][:]
    seen = game(crafter, [6, 2, 0, 7, 1])
    found = propose(Game(seen.model, data_of(bare), seen.config))
    assert key_actions(seen.model, data_of(bare), seen.config) == {}
    assert found.known_by == "motion"
    assert found.keys == {"wait": 6, "left": 2, "right": 0, "up": 7, "down": 1}
    assert found.told[2].startswith("picture moves +")


def test_keys_without_names_say_nothing_of_directions(crafter: Path) -> None:
    with h5py.File(crafter, "a") as file:
        file["actions"].attrs["names"] = []
    assert propose(game(crafter, [6, 2, 0, 7, 1])).known_by == "motion"


def test_actions_that_do_not_tell_keys_apart_are_shared(crafter: Path) -> None:
    with h5py.File(crafter, "a") as file:
        file["actions"].attrs["names"] = ["none", "left", "right", "up", "down"]
    found = propose(game(crafter, [0, 1, 1, 2, 2]))
    assert found.keys == {"wait": 0, "left": 1, "right": 1, "up": 2, "down": 2}
    assert sorted(map(sorted, found.shared())) == [["down", "up"], ["left", "right"], ["wait"]]


def test_a_collapsed_action_tells_nothing(crafter: Path) -> None:
    found = propose(game(crafter, [3, 3, 3, 3, 3]))
    assert found.keys == {}
    assert found.known_by == "nothing"
    assert found.uses[3] == 1


def test_the_best_pairs_are_assigned_first_and_nothing_speaks_for_nothing() -> None:
    scores = np.zeros((3, len(KEYS)))
    scores[0, :2] = 5, 4
    scores[1, 0] = 3
    assert assign(scores) == {"left": 0, "right": 0}
    scores[1, 1] = 1
    assert assign(scores) == {"left": 0, "right": 1}
    assert assign(np.zeros((2, len(KEYS)))) == {}


@pytest.mark.parametrize(
    ("name", "key"),
    [("left", "left"), ("Move_Right", "right"), ("noop", "wait"), ("none", "wait"), ("3", None), ("upgrade", None)],
)
def test_names_of_recorded_keys_are_understood(name: str, key: str | None) -> None:
    assert meaning(name) == key
