"""Recording: the same frames for the same seed, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tiw_fsm.data import frames, recording
from tiw_fsm.errors import DiskRefused, UsageProblem


def record_in_new_process(path: Path, hash_seed: str, seed: int = 3) -> None:
    """As the command line does it: one long episode, and a second one that is cut short."""
    arguments = ["record", str(path), "--frames", "230", "--size", "56", "--episode-length", "200"]
    subprocess.run(
        [sys.executable, "-m", "tiw_fsm", *arguments, "--seed", str(seed)],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "crafter.h5"
    record_in_new_process(path, "1")
    return path


def test_the_same_seed_records_the_same_bytes_whatever_the_hash_seed(recorded: Path, tmp_path: Path) -> None:
    record_in_new_process(tmp_path / "again.h5", "2")
    record_in_new_process(tmp_path / "other.h5", "1", seed=4)
    assert frames.sha256(tmp_path / "again.h5") == frames.sha256(recorded)
    assert frames.sha256(tmp_path / "other.h5") != frames.sha256(recorded)


def test_a_recording_holds_frames_episodes_and_moves_and_passes_the_check(recorded: Path) -> None:
    with h5py.File(recorded) as file:
        assert file["frames"].shape == (230, 56, 56, 3)
        assert file["episode"][:].tolist() == [0] * 200 + [1] * 30
        assert set(file["actions"][:].tolist()) <= {0, *recording.MOVES}
        assert file.attrs["seed"] == 3
        changed = np.abs(np.diff(file["frames"][:200].astype(int), axis=0)).mean((1, 2, 3)) > 0
    assert changed.mean() > 0.25, "moves show"
    assert frames.resolve_dataset(str(recorded), Path("/"), fps=None).stride == 1, "Crafter is turn-based"


def test_recording_to_an_impossible_place_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskRefused):
        recording.record(tmp_path / "file" / "x.h5", frames=2, size=56, episode_length=2, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_crafter_the_extra_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(UsageProblem, match=r"pip install 'tiw_fsm\[demo\]'"):
        recording.record(tmp_path / "x.h5", frames=2, size=56, episode_length=2, seed=0)
