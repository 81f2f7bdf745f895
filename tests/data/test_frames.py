"""Frames: which file a dataset means, with which stride, and what is wrong with a file before it is used."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.configs import numbered_frames, write_frames
from tiw_fsm.data import frames, supply
from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options
from tiw_fsm.errors import UsageProblem
from tiw_fsm.tinyworlds.config import DataSource

# --- which file, which stride -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "skip", "stride"),
    [
        ("ZELDA", "zelda_frames.h5", 1000, 4),
        ("PONG", "pong_frames.h5", 0, 4),
        ("PICODOOM", "picodoom_frames.h5", 300, 2),
        ("POLE_POSITION", "pole_position_frames.h5", 0, 4),
        ("SONIC", "sonic_frames.h5", 100, 4),
    ],
)
def test_a_tinyworlds_name_means_its_file_skip_and_stride(name: str, file: str, skip: int, stride: int) -> None:
    found = frames.resolve_dataset(name, Path("/somewhere"), fps=None)
    assert found == DataSource(path=f"/somewhere/data/{file}", skip=skip, stride=stride)
    assert frames.resolve_dataset(name, Path("/somewhere"), fps=20).stride == 3, "fps in the YAML wins"


def test_the_stride_of_a_path_is_that_of_fps_else_of_the_file_else_four(tmp_path: Path) -> None:
    plain, marked = (numbered_frames(tmp_path / name, 3) for name in ("plain.h5", "marked.h5"))
    with h5py.File(marked, "a") as file:
        file.attrs["stride"] = 3
    assert frames.resolve_dataset("plain.h5", tmp_path, fps=None) == DataSource(path=str(plain), skip=0, stride=4)
    assert frames.resolve_dataset("marked.h5", tmp_path, fps=None).stride == 3
    assert frames.resolve_dataset("marked.h5", tmp_path, fps=30).stride == 2
    assert frames.resolve_dataset("missing.h5", tmp_path, fps=None).stride == 4, "inspect reports it"


def test_a_stride_attribute_that_is_no_positive_number_is_refused(tmp_path: Path) -> None:
    path = numbered_frames(tmp_path / "f.h5", 3)
    for nonsense, told in (("fast", "'fast'"), ("1", "'1'"), (0, "0"), (-1, "-1"), ([1, 2], "")):
        with h5py.File(path, "a") as file:
            file.attrs["stride"] = nonsense
        with pytest.raises(UsageProblem, match=f"`stride` is {told}"):
            frames.resolve_dataset("f.h5", tmp_path, fps=None)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageProblem, match="ZELDA, PONG, PICODOOM, POLE_POSITION, SONIC"):
        frames.resolve_dataset("ZELDAA", Path("/"), fps=None)


# --- files that cannot be used ----------------------------------------------------------------------------------


def problems(path: Path, **changes: Any) -> list[str]:
    usual: dict[str, Any] = {"skip": 0, "stride": 1, "frame_size": 16, "training_length": 4, "clips": 2, "length": 6}
    given = usual | changes
    source = DataSource(path=str(path), **{key: given[key] for key in DataSource.model_fields if key in given})
    return frames.inspect(
        source,
        frame_size=given["frame_size"],
        training_length=given["training_length"],
        held_out=supply.HeldOut(given["clips"], given["length"], given.get("share")),
        key_hints=given.get("key_hints", False),
    )


def replaced(name: str, content: Any) -> Callable[[Path], None]:
    """Damage: the dataset ``name`` holds something else."""

    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            if name in file:
                del file[name]
            if content is not None:
                file[name] = content

    return damage


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def grouped(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            if name in file:
                del file[name]
            file.create_group(name)

    return damage


ZEROS = np.zeros((480, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(Path.unlink, "no such file", id="missing"),
        pytest.param(cut_in_half, "copy or record it again", id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), "copy or record it again", id="empty file"),
        pytest.param(lambda path: path.write_text("not frames"), "copy it again; `tiw-fsm frames` makes", id="not h5"),
        pytest.param(replaced("frames", None), "no dataset `frames`", id="no frames"),
        pytest.param(replaced("frames", ZEROS[:0]), "is empty", id="no rows"),
        pytest.param(replaced("frames", ZEROS.astype(np.float32)), "must be uint8", id="float frames"),
        pytest.param(replaced("frames", ZEROS[:, 0]), "must be (N, H, W, 3)", id="rank"),
        pytest.param(replaced("frames", ZEROS[..., :1]), "must be (N, H, W, 3)", id="grey"),
        pytest.param(grouped("frames"), "must be (N, H, W, 3)", id="a group for frames"),
        pytest.param(replaced("frames", ZEROS[:, :8]), "frame_size is 16", id="not square"),
        pytest.param(replaced("episode", np.zeros(7, int)), "one integer per frame", id="few episode ids"),
        pytest.param(replaced("episode", np.zeros(480)), "one integer per frame", id="fractional episode ids"),
        pytest.param(grouped("episode"), "one integer per frame", id="a group for episode ids"),
        pytest.param(replaced("actions", np.zeros(7, int)), "one integer per frame", id="few actions"),
        pytest.param(replaced("actions", np.zeros(7, int)), "take `actions` out", id="few actions, a remedy"),
        pytest.param(replaced("episode", np.zeros(480, int)), "held-out clips", id="one episode only"),
    ],
)
def test_a_damaged_file_is_described_with_a_remedy(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    path = tmp_path / "f.h5"
    write_frames(path)
    assert problems(path) == []
    damage(path)
    found = problems(path)
    assert all(problem.startswith(f"{path}: ") for problem in found)
    assert any(said in problem for problem in found)


@pytest.mark.parametrize(
    ("damage", "able"),
    [
        pytest.param(replaced("frames", None), False, id="nothing"),
        pytest.param(grouped("frames"), False, id="a group"),
        pytest.param(replaced("frames", np.array([b"x"] * 480)), False, id="strings"),
        pytest.param(replaced("frames", ZEROS[:, :4, :4]), False, id="tiny"),
        pytest.param(replaced("frames", ZEROS[:39, :8]), False, id="few"),
        pytest.param(replaced("frames", ZEROS[..., :1]), True, id="grey"),
        pytest.param(replaced("episode", np.arange(480) // 24 * 1.0), True, id="fractional episode ids"),
        pytest.param(replaced("actions", np.eye(4, dtype=int)[np.arange(480) % 4]), True, id="actions one-hot"),
    ],
)
def test_the_command_that_makes_a_file_that_fits_is_told_where_it_does(
    tmp_path: Path, damage: Callable[[Path], None], able: bool
) -> None:
    path = tmp_path / "f.h5"
    write_frames(path)
    damage(path)
    said = problems(path)[0]
    assert ("makes a file of it that fits" in said) == able
    if able:
        command = shlex.split(said.partition("`tiw-fsm frames ")[2].partition("`")[0])
        source, made, size = command[0], Path(command[2]), int(command[4])
        making.make(made, [source], Options(size=size))
        assert problems(made) == []


@pytest.mark.parametrize("keys", [("left",), ("left", "right")])
def test_which_of_several_arrays_is_taken_is_part_of_the_command(tmp_path: Path, keys: tuple[str, ...]) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for key in keys:
            file[key] = ZEROS
    (said,) = problems(tmp_path / "f.h5")
    assert ("--key left`" in said) == (len(keys) > 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame_size": 64}, "frame_size is 64"),
        (
            {"training_length": 25},
            "no training clip of 25 frames, row after row, fits: it takes 25 rows, and the longest episode to train on "
            "has 24 rows; record longer episodes, or lower training.context_length to 24",
        ),
        ({"stride": 12}, "no training clip of 4 frames, 12 rows apart"),
        ({"stride": 12}, "lower training.context_length to 2, or set training.fps higher (60 takes row after row)"),
        ({"skip": 479}, "0 rows behind the first 479, which are skipped; record more frames"),
        ({"preload_ratio": 0.001}, "fits into the first 0.001 of its 480 rows; raise training.preload_ratio"),
        ({"length": 25}, "2 held-out clips of 25 frames"),
        (
            {"length": 25},
            "each takes 25 rows, and the longest held-out episode has 24 rows; record longer episodes, or lower "
            "inference.generation_steps, inference.context_window or inference.prediction_horizon",
        ),
        ({"length": 25, "clips": 1}, "the gate wants 1 held-out clip of 25 frames"),
        ({"length": 24, "clips": 3}, "there are 2; record more or longer episodes (every tenth is held out), or lower"),
        ({"length": 24, "clips": 2, "share": 0.5}, "there is 1; "),
        ({"length": 24, "clips": 2, "share": 0.5}, ", or raise inference.preload_ratio"),
        ({"clips": 1000}, "the gate wants 1000 held-out clips"),
    ],
)
def test_a_sound_file_that_does_not_fit_the_configs_is_described(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_frames(tmp_path / "f.h5")
    assert any(said in problem for problem in problems(tmp_path / "f.h5", **changes))


@pytest.mark.parametrize(
    ("episodes", "length", "said"),
    [
        (2, 40, "of its 2 episodes none is held out, since every tenth is; record 10 or more"),
        (1, 6, "of its 1 episode none is held out, since every tenth is; record 20 or more"),
        (9, 5, "record 10 or more, of 6 rows or more"),
        (20, 1, "and the longest episode to train on has 1 row; record longer episodes"),
    ],
)
def test_what_no_setting_mends_is_answered_with_what_to_record(
    tmp_path: Path, episodes: int, length: int, said: str
) -> None:
    write_frames(tmp_path / "f.h5", episodes=episodes, length=length)
    found = problems(tmp_path / "f.h5")
    assert any(problem.endswith(said) for problem in found), found
    assert not any("preload_ratio" in problem for problem in found)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        pytest.param(None, "has no `actions`", id="none recorded"),
        pytest.param(np.zeros(480, int), "holds 1 different key, which is no hint; record them", id="a single key"),
        pytest.param(np.full(480, -1), "holds 0 different keys, which is no hint; record them", id="all unknown"),
    ],
)
def test_frames_whose_keys_are_no_hint_are_refused_where_one_is_wanted(tmp_path: Path, actions: Any, said: str) -> None:
    path = tmp_path / "f.h5"
    write_frames(path)
    replaced("actions", actions)(path)
    (problem,) = problems(path, key_hints=True)
    assert said in problem
    assert "remove key_hint_weight" in problem
    assert problems(path) == [], "without a hint they are as good as any"


def test_keys_that_are_counted_from_below_are_told_to_be_counted_from_0(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_frames(path)
    replaced("actions", np.arange(480) % 2 - 5)(path)
    (problem,) = problems(path, key_hints=True)
    assert problem.endswith("they begin at -5, and below 0 none is known: count them from 0 on")
    assert problems(path) == []
