"""Recording: the same frames for the same seed, whole or not at all; a player in the middle who acts at every turn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from crafter import constants, engine

from tests.data.conftest import Seen
from tests.support.amounts import whole_too
from tiw_fsm.cli import app
from tiw_fsm.data import frames, recording
from tiw_fsm.data.games import GAMES
from tiw_fsm.errors import UsageProblem

SHORT = {"planet": ["--frames", "90"], "crafter": ["--frames", "110", "--size", "56", "--episode-length", "100"]}
"""For each game two episodes or more, the last one cut short."""


def record_in_new_process(path: Path, game: str, *, hash_seed: str, seed: int = 3) -> str:
    """As the command line does it; returns what it prints."""
    return subprocess.run(
        [sys.executable, "-m", "tiw_fsm", "record", str(path), "--game", game, *SHORT[game], "--seed", str(seed)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    ).stdout


@pytest.mark.parametrize("game", ["planet", whole_too("crafter")])
def test_the_same_seed_records_the_same_bytes_whatever_the_hash_seed(game: str, tmp_path: Path) -> None:
    record_in_new_process(tmp_path / "one.h5", game, hash_seed="1")
    record_in_new_process(tmp_path / "again.h5", game, hash_seed="2")
    record_in_new_process(tmp_path / "other.h5", game, hash_seed="1", seed=4)
    assert frames.sha256(tmp_path / "again.h5") == frames.sha256(tmp_path / "one.h5")
    assert frames.sha256(tmp_path / "other.h5") != frames.sha256(tmp_path / "one.h5")


def test_the_command_says_what_was_recorded_and_what_to_do_with_it(tmp_path: Path) -> None:
    path = tmp_path / "planet.h5"
    said = record_in_new_process(path, "planet", hash_seed="1", seed=5)
    with h5py.File(path) as file:
        distinct = len(np.unique(file["frames"][:].reshape(90, -1), axis=0))
        assert file.attrs["distinct_frames"] == distinct
    assert said == (
        f"recorded 90 frames, {distinct} of them different, of a planet of 16 × 16 cells, 141 of them to walk on to "
        f"{path}; `tiw-fsm run --dataset {path}` trains on them.\n"
    )
    assert "already there; --force" in record_in_new_process(path, "planet", hash_seed="1", seed=6)


@pytest.mark.parametrize("flag", ["frames", "size", "map_size", "episode_length"])
def test_the_help_names_the_sizes_that_a_game_has_by_default(flag: str) -> None:
    parameters = typer.main.get_command(app).commands["record"].params  # type: ignore[attr-defined]
    (said,) = [parameter.help for parameter in parameters if parameter.name == flag]
    planet, crafter = (getattr(GAMES[game].defaults, flag) for game in ("planet", "crafter"))
    assert said.endswith(f"[default: {planet}" + (f"; crafter: {crafter}]." if crafter not in (planet, None) else "]."))


@pytest.mark.parametrize("game", GAMES)
def test_a_recording_holds_frames_episodes_and_named_keys(game: str, tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    said = []
    recorded = recording.record(
        path,
        game=game,
        frames=10,
        size=40,
        episode_length=4,
        seed=3,
        on_progress=lambda done, total: said.append((done, total)),
    )
    assert recorded.frames == 10
    assert said == [(4, 10), (8, 10), (10, 10)]
    with h5py.File(path) as file:
        assert (file["frames"].shape, file["frames"].dtype) == ((10, 40, 40, 3), np.uint8)
        assert file["episode"][:].tolist() == [0] * 4 + [1] * 4 + [2] * 2
        assert (file.attrs["seed"], "Crafter" in file.attrs["game"]) == (3, True)
        names = list(map(str, file["actions"].attrs["names"]))
        assert names[:5] == ["none", "left", "right", "up", "down"]
        assert all(f"{number} {name}" in file["actions"].attrs["meaning"] for number, name in enumerate(names))
        assert file["actions"][:].min() > 0
        assert file["actions"][:].max() < len(names)
    assert frames.resolve_dataset(str(path), Path("/"), fps=None).stride == 1, "Crafter is turn-based"


@pytest.mark.parametrize("game", GAMES)
def test_the_player_is_in_the_middle_of_every_frame_and_looks_where_the_last_key_says(
    game: str, request: pytest.FixtureRequest
) -> None:
    seen: Seen = request.getfixturevalue(game)
    textures = engine.Textures(constants.root / "assets")
    sprites = [textures.get(f"player-{way}", (8, 8)).transpose(1, 0, 2) for way in seen.names[1:5]]
    edge = seen.frames.shape[1] // 2 - 4
    middles = seen.frames[:, edge : edge + 8, edge : edge + 8]
    looks = np.stack([(middles == sprite[..., :3])[:, sprite[..., 3] == 255].all((1, 2)) for sprite in sprites], 1)
    assert looks.any(1).all()
    moves = seen.turns[seen.actions[seen.turns] <= 4]
    assert looks[moves + 1, seen.actions[moves] - 1].all()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"game": "tetris"}, "--game tetris: there is no such game; there are planet and crafter"),
        ({"size": 60}, "--size 60: .*odd number of tiles of 8 pixels; try 56 or 72"),
        ({"size": 64, "game": "crafter"}, "--size 64: .*odd number of tiles"),
        ({"map_size": 6}, "--map-size 6: smaller than the 7 tiles in view .*make it 7 or more"),
        ({"map_size": 64}, "--map-size 64: .* --seed 5, 64 cells wide, .*; take 7 to 24"),
        ({"map_size": 65}, "--map-size 65: .*; take 7 to 24"),
        ({"map_size": 16, "game": "crafter"}, "--map-size 16: --game crafter has worlds of its own size; leave it out"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_its_remedy(asked: dict[str, int | str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=said):
        recording.record(tmp_path / "x.h5", **asked, frames=2, episode_length=2, seed=5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_recording_to_an_impossible_place_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageProblem, match="file is no folder; correct the path"):
        recording.record(tmp_path / "file" / "x.h5", frames=2, episode_length=2, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("game", GAMES)
def test_without_crafter_the_extra_to_install_is_named(
    game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(UsageProblem, match=r"pip install 'tiw_fsm\[demo\]'"):
        recording.record(tmp_path / "x.h5", game=game, frames=2, episode_length=2, seed=0)
