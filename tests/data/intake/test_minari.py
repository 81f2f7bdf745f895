"""Minari's recordings as sources; made by Minari itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from tests.data.intake.sources import make
from tiw_fsm.errors import UsageProblem

RNG = np.random.default_rng(0)
SEEN = RNG.integers(0, 256, (12, 6, 16, 16, 3), dtype=np.uint8)
PRESSED = RNG.integers(0, 4, (12, 5))
PICTURES = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
KEYS = gymnasium.spaces.Discrete(4)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def record(name: str, observed: Any, space: gymnasium.Space[Any], actions: Any = PRESSED, keys: Any = KEYS) -> None:
    buffers = [
        EpisodeBuffer(
            id=n,
            observations=observed(n),
            actions=actions[n],
            rewards=np.zeros(5),
            terminations=np.arange(5) == 4,
            truncations=np.zeros(5, bool),
        )
        for n in range(12)
    ]
    minari.create_dataset_from_buffers(name, buffers, observation_space=space, action_space=keys)


@pytest.mark.filterwarnings("ignore")
def test_a_recording_is_taken_by_its_id_or_its_folder_with_actions_and_episodes(tmp_path: Path) -> None:
    record("try/it-v0", lambda n: SEEN[n], PICTURES)
    held = make(tmp_path / "o.h5", "minari:try/it-v0")
    assert held.lengths == [6] * 12
    assert np.abs(held.frames.astype(int) - SEEN.reshape(-1, 16, 16, 3)).mean() < 30  # Minari stores JPEG
    assert held.actions is not None
    assert (held.actions.reshape(12, 6)[:, :5] == PRESSED).all()
    assert (held.actions.reshape(12, 6)[:, 5] == -1).all()
    assert (make(tmp_path / "p.h5", tmp_path / "minari/try/it-v0").frames == held.frames).all()


@pytest.mark.filterwarnings("ignore")
def test_a_picture_among_several_observations_is_found(tmp_path: Path) -> None:
    space = gymnasium.spaces.Dict(camera=PICTURES, speed=gymnasium.spaces.Box(0, 1, (2,), np.float64))
    speed = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
    record("try/dict-v0", lambda n: {"camera": SEEN[n], "speed": np.zeros((6, 2))}, space, np.zeros((12, 5, 2)), speed)
    held = make(tmp_path / "o.h5", "minari:try/dict-v0")
    assert (len(held.frames), held.actions) == (72, None)


@pytest.mark.filterwarnings("ignore")
def test_a_recording_without_pictures_or_not_on_this_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = gymnasium.spaces.Box(0, 1, (4,), np.float64)
    record("try/flat-v0", lambda n: np.zeros((6, 4)), flat)
    with pytest.raises(UsageProblem, match="its observations are no pictures"):
        make(tmp_path / "o.h5", "minari:try/flat-v0")
    with pytest.raises(
        UsageProblem, match=r"is not on this machine .*`minari download atari/pong/expert-v0` brings it"
    ):
        make(tmp_path / "o.h5", "minari:atari/pong/expert-v0")
    with pytest.raises(UsageProblem, match="minari: names no recording; put its id behind"):
        make(tmp_path / "o.h5", "minari:")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UsageProblem, match=r"pip install 'tiw_fsm\[arrays\]'"):
        make(tmp_path / "o.h5", "minari:try/flat-v0")
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_recording_is_told_of_and_not_what_was_to_be_made_of_it(tmp_path: Path) -> None:
    record("try/damaged-v0", lambda n: SEEN[n], PICTURES)
    path = tmp_path / "minari/try/damaged-v0/data/main_data.hdf5"
    whole = path.read_bytes()
    cut_short = [whole[: len(whole) * tenths // 10] for tenths in (1, 5, 9)]
    places = np.random.default_rng(0).integers(0, len(whole), 40).tolist()
    garbled = [whole[:place] + bytes([255]) * 200 + whole[place + 200 :] for place in places]
    refused: list[str] = []
    for content in cut_short + garbled:
        path.write_bytes(content)
        try:
            make(tmp_path / "o.h5", "minari:try/damaged-v0")
        except UsageProblem as exc:
            refused += exc.problems
        else:  # what nobody reads was hit
            assert content in garbled
    assert len(refused) > len(cut_short)
    assert all(said.startswith("minari:try/damaged-v0: ") and "download it again" in said for said in refused)
