"""Frames: recorded alike for a seed, cut into clips that respect episodes, split honestly, checked before use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.configs import write_frames
from tiw_fsm.data import frames, recording
from tiw_fsm.errors import DiskRefused, UsageProblem
from tiw_fsm.tinyworlds import episodes
from tiw_fsm.tinyworlds.clips import FrameData, draw_batch, generator, to_model, to_unit
from tiw_fsm.tinyworlds.config import DataSource

CPU = torch.device("cpu")


def numbered_frames(path: Path, rows: int, episode: list[int] | None = None) -> Path:
    """A file whose frame n has the brightness n, so that a clip says which rows it holds."""
    with h5py.File(path, "w") as file:
        file["frames"] = np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, 8, 8, 3))
        if episode is not None:
            file["episode"] = np.array(episode)
    return path


def opened(path: Path, *, skip: int = 0, stride: int = 1, preload_ratio: float | None = None) -> FrameData:
    return FrameData(DataSource(path=str(path), skip=skip, stride=stride, preload_ratio=preload_ratio), CPU)


def rows_of(data: FrameData, *, held_out: bool, length: int) -> torch.Tensor:
    """File rows of every clip, [clips, length], read off the pixels."""
    return data.clips(data.clip_starts(length, held_out=held_out), length)[..., 0, 0, 0].long()


# --- recording --------------------------------------------------------------------------------------------------


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
    for nonsense in ("fast", 0, -1, [1, 2]):
        with h5py.File(path, "a") as file:
            file.attrs["stride"] = nonsense
        with pytest.raises(UsageProblem, match="stride"):
            frames.resolve_dataset("f.h5", tmp_path, fps=None)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageProblem, match="ZELDA, PONG, PICODOOM, POLE_POSITION, SONIC"):
        frames.resolve_dataset("ZELDAA", Path("/"), fps=None)


# --- clips and splits -------------------------------------------------------------------------------------------

layouts = st.lists(st.integers(1, 15), min_size=1, max_size=25)
"""Lengths of episodes."""


@given(layouts, st.integers(0, 20), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_clips_lie_within_one_episode_of_their_side_and_none_is_missed(
    lengths: list[int], skip: int, length: int, stride: int, for_evaluation: bool
) -> None:
    episode = np.repeat(np.arange(len(lengths)), lengths)
    numbers, held_out = episodes.split_rows(len(episode), episode, skip)
    found = episodes.clip_starts(
        numbers, held_out, length=length, stride=stride, preload_ratio=None, for_evaluation=for_evaluation
    )
    expected = [
        first
        for first in range(skip, len(episode) - (length - 1) * stride)
        if episode[first] == episode[first + (length - 1) * stride] and (episode[first] % 10 == 9) == for_evaluation
    ]
    assert found.tolist() == expected


@given(st.none() | layouts, st.integers(0, 20), st.none() | st.floats(0.05, 1))
def test_training_and_evaluation_share_no_row(lengths: list[int] | None, skip: int, ratio: float | None) -> None:
    episode = None if lengths is None else np.repeat(np.arange(len(lengths)), lengths)
    rows = 120 if episode is None else len(episode)
    numbers, held_out = episodes.split_rows(rows, episode, skip)
    seen = []
    for side in (False, True):
        starts = episodes.clip_starts(numbers, held_out, length=3, stride=2, preload_ratio=ratio, for_evaluation=side)
        seen.append({int(row) for first in starts for row in range(first, first + 5)})
    assert not seen[0] & seen[1]


def test_every_tenth_episode_in_order_of_appearance_is_held_out_whatever_its_id(tmp_path: Path) -> None:
    ids = [7 * n % 23 for n in range(23)]
    data = opened(numbered_frames(tmp_path / "f.h5", 69, np.repeat(ids, 3).tolist()))
    assert rows_of(data, held_out=True, length=3).tolist() == [[27, 28, 29], [57, 58, 59]]
    assert len(rows_of(data, held_out=False, length=3)) == 21


def test_without_episodes_the_last_tenth_of_the_rows_is_held_out(tmp_path: Path) -> None:
    data = opened(numbered_frames(tmp_path / "f.h5", 120), skip=20)
    assert rows_of(data, held_out=True, length=1).flatten().tolist() == list(range(110, 120))
    assert rows_of(data, held_out=False, length=1).flatten().tolist() == list(range(20, 110))


def test_preload_ratio_keeps_the_first_rows_for_training_and_all_held_out_ones(tmp_path: Path) -> None:
    path = numbered_frames(tmp_path / "f.h5", 200, np.repeat(range(20), 10).tolist())
    data = opened(path, preload_ratio=0.25)
    assert rows_of(data, held_out=False, length=2).max() == 49
    assert rows_of(data, held_out=True, length=10)[:, 0].tolist() == [90, 190]
    assert len(data.frames) == 50 + 20, "rows that nobody asks for take no memory"
    assert torch.equal(data.mean_training_frame(), torch.full((3, 8, 8), 24.5 / 255))


def test_a_clip_is_every_stride_th_row(tmp_path: Path) -> None:
    data = opened(numbered_frames(tmp_path / "f.h5", 40), skip=3, stride=4)
    assert rows_of(data, held_out=False, length=3)[0].tolist() == [3, 7, 11]


def test_rows_are_the_same_in_whatever_pieces_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiw_fsm.tinyworlds.clips.READ_ROWS", 7)
    data = opened(numbered_frames(tmp_path / "f.h5", 200), skip=5, preload_ratio=0.2)
    assert rows_of(data, held_out=False, length=1).flatten().tolist() == list(range(5, 40))
    assert rows_of(data, held_out=True, length=1).flatten().tolist() == list(range(180, 200))


def test_held_out_clips_are_distinct_spread_and_the_same_for_a_seed(tmp_path: Path) -> None:
    write_frames(tmp_path / "f.h5", episodes=40, length=24)
    data = opened(tmp_path / "f.h5")
    chosen = data.held_out_clips(5, 8, seed=0)
    assert chosen.tolist() == data.held_out_clips(5, 8, seed=0).tolist()
    assert chosen.tolist() != data.held_out_clips(5, 8, seed=1).tolist()
    assert len(set(chosen.tolist())) == 8
    assert sorted(set((chosen // 24).tolist())) == [9, 19, 29, 39], "every held-out episode is asked"
    everything = data.clip_starts(5, held_out=True)
    assert data.held_out_clips(5, 1000, seed=0).tolist() == everything.tolist(), "fewer where there are fewer"


def test_a_batch_is_a_pure_function_of_its_key(tmp_path: Path) -> None:
    def batch(*key: int | str) -> list[int]:
        drawn: list[int] = draw_batch(1000, 16, generator(*key)).tolist()
        return drawn

    first = batch(0, "dynamics", 7, 0)
    torch.manual_seed(123)
    assert batch(0, "dynamics", 7, 0) == first
    assert set(first) <= set(range(1000))
    for other in [(1, "dynamics", 7, 0), (0, "video", 7, 0), (0, "dynamics", 8, 0), (0, "dynamics", 7, 1)]:
        assert batch(*other) != first
    assert batch(1, 11) != batch(11, 1) != batch(1, 1, 1)


def test_pixels_survive_the_way_into_the_model_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 1, 16, 16, 3)
    inside = to_model(pixels)
    assert inside.shape == (1, 1, 3, 16, 16)
    assert [float(inside.min()), float(inside.max())] == [-1, 1]
    assert torch.equal((to_unit(inside) * 255).round().byte().permute(0, 1, 3, 4, 2), pixels)
    assert to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


# --- files that cannot be used ----------------------------------------------------------------------------------


def problems(path: Path, **changes: Any) -> list[str]:
    usual: dict[str, Any] = {"skip": 0, "stride": 1, "frame_size": 16, "training_length": 4, "clips": 2, "length": 6}
    given = usual | changes
    source = DataSource(path=str(path), **{key: given[key] for key in DataSource.model_fields if key in given})
    return frames.inspect(
        source,
        frame_size=given["frame_size"],
        training_length=given["training_length"],
        held_out=frames.HeldOut(given["clips"], given["length"]),
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
        pytest.param(lambda path: path.write_text("not frames"), "copy or record it again", id="not h5"),
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
    ("changes", "said"),
    [
        ({"frame_size": 64}, "frame_size is 64"),
        ({"training_length": 25}, "no training clip of 25 frames"),
        ({"stride": 12}, "no training clip of 4 frames, 12 rows apart"),
        ({"skip": 479}, "no training clip"),
        ({"preload_ratio": 0.001}, "raise preload_ratio"),
        ({"length": 25}, "held-out clips of 25 frames"),
        ({"clips": 1000}, "the gate wants 1000 held-out clips"),
    ],
)
def test_a_sound_file_that_does_not_fit_the_configs_is_described(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_frames(tmp_path / "f.h5")
    assert any(said in problem for problem in problems(tmp_path / "f.h5", **changes))
