"""All rows are read once before anything trains: what cannot be decoded, or was never stored, is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.support.configs import write_frames
from tests.support.frame_files import blosc, chunked, damage_chunk
from tiw_fsm.data import content, frames, supply
from tiw_fsm.errors import UsageProblem
from tiw_fsm.tinyworlds import used_rows
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import DataSource


def source(path: Path, *, skip: int = 0, preload_ratio: float | None = None) -> DataSource:
    return DataSource(path=str(path), skip=skip, stride=1, preload_ratio=preload_ratio)


def why(path: Path) -> str:
    """Why not all rows can be read."""
    with pytest.raises(UsageProblem) as refused:
        content.digests(source(path))
    assert all(str(path) in problem for problem in refused.value.problems)
    return str(refused.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_frames(tmp_path / "frames.h5")
    return tmp_path / "frames.h5"


@pytest.mark.parametrize(("skip", "ratio"), [(0, None), (30, None), (0, 0.2), (30, 0.5)])
@pytest.mark.parametrize("block", [1, 7 * 768, 1 << 25])
def test_what_is_loaded_has_the_digest_of_what_was_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, skip: int, ratio: float | None, block: int
) -> None:
    expected = content.digests(source(path, skip=skip, preload_ratio=ratio)).content
    monkeypatch.setattr(used_rows, "BLOCK", block)
    loaded = FrameData(source(path, skip=skip, preload_ratio=ratio), torch.device("cpu"))
    assert loaded.digest == expected


def pixel(file: h5py.File) -> None:
    file["frames"][77, 3, 3, 1] ^= 1


def last_pixel(file: h5py.File) -> None:
    file["frames"][-1, -1, -1, -1] ^= 1


def key(file: h5py.File) -> None:
    file["actions"][5] += 1


def cut(file: h5py.File) -> None:
    file["episode"][100] += 1000


def names(file: h5py.File) -> None:
    file["actions"].attrs["names"] = np.array(["up", "down"], h5py.string_dtype())


def two_rows_swapped(file: h5py.File) -> None:
    file["frames"][30:32] = file["frames"][30:32][::-1]


def without_keys(file: h5py.File) -> None:
    del file["actions"]


def one_row_less(file: h5py.File) -> None:
    for name in ("frames", "episode", "actions"):
        held = file[name][:-1]
        del file[name]
        file[name] = held


@pytest.mark.parametrize("change", [pixel, last_pixel, key, cut, names, two_rows_swapped, without_keys, one_row_less])
def test_whatever_training_sees_is_in_the_digest(path: Path, change: Callable[[h5py.File], None]) -> None:
    before = content.digests(source(path)).content
    with h5py.File(path, "r+") as file:
        change(file)
    assert content.digests(source(path)).content != before
    assert FrameData(source(path), torch.device("cpu")).digest != before


def test_how_the_rows_are_stored_is_not_in_it(path: Path) -> None:
    before = content.digests(source(path))
    chunked(path, compression="gzip", shuffle=True)
    after = content.digests(source(path))
    assert (after.content, after.file == before.file) == (before.content, False)


def test_a_filter_that_is_not_installed_is_named_with_what_to_do(path: Path) -> None:
    blosc(path)
    (problem,) = frames.inspect(source(path), frame_size=16, training_length=4, held_out=supply.HeldOut(2, 6))
    for said in ("filter 32001 (blosc)", "pip install hdf5plugin", "HDF5_PLUGIN_PATH", "again with gzip"):
        assert said in problem
    assert "hdf5plugin" in why(path)


@pytest.mark.parametrize(
    "stored",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "fletcher32": True},
        {"fletcher32": True},
        {"compression": "lzf", "fletcher32": True},
        {"compression": "gzip", "rows": 1},
    ],
)
@pytest.mark.parametrize("number", [0, 20, 29])
def test_the_first_row_of_a_damaged_chunk_is_named(path: Path, stored: dict[str, object], number: int) -> None:
    chunked(path, **stored)  # type: ignore[arg-type]
    content.digests(source(path))
    damage_chunk(path, number)
    row = number * int(stored.get("rows", 16))  # type: ignore[call-overload]
    assert f"row {row} cannot be decoded" in why(path)


def test_rows_that_were_never_stored_are_refused(path: Path) -> None:
    """A recording that was cut off after it had been made as long as it should be: HDF5 reads zeros."""
    with h5py.File(path, "r+") as file:
        held = file["frames"][:300]
        del file["frames"]
        file.create_dataset("frames", (480, 16, 16, 3), "u1", chunks=(10, 16, 16, 3))[:300] = held
    assert "18 of its 48 chunks were never written" in why(path)
    with h5py.File(path, "r+") as file:
        del file["frames"]
        file.create_dataset("frames", (480, 16, 16, 3), "u1")
    assert "it was never written" in why(path)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_rows, "BLOCK", 100 * 768)

    def meddle(done: int, total: int) -> None:
        with open(path, "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x07")

    with pytest.raises(UsageProblem, match="was written to while it was read"):
        content.digests(source(path), meddle)


def test_it_is_told_how_far_the_reading_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_rows, "BLOCK", 200 * 768)
    told: list[tuple[int, int]] = []
    content.digests(source(path, preload_ratio=0.1), lambda done, total: told.append((done, total)))
    assert told == [(200, 480), (400, 480), (480, 480)]


@pytest.mark.parametrize(
    ("shape", "chunks", "rows"),
    [
        ((5000, 64, 64, 3), (16, 64, 64, 3), 2736),
        ((5000, 64, 64, 3), (3000, 64, 64, 3), 3000),
        ((50_000, 64, 64, 3), (30_000, 1, 1, 3), 21845),
        ((5, 9000, 9000, 3), None, 1),
    ],
)
def test_blocks_are_whole_chunks_and_of_a_bounded_size(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...] | None, rows: int
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("frames", shape, "u1", chunks=chunks)
        assert used_rows.UsedRows(file, source(tmp_path / "f.h5")).block == rows
