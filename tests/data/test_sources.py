"""Rows that lie in other files than the one that is named: none is lost, cut short or changed unnoticed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.support.configs import write_frames
from tests.support.frame_files import ELSEWHERE, linked, numbered, raw, virtual
from tests.support.processes import Tiw
from tiw_fsm.data import content, frames, sources, supply
from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.tinyworlds.config import DataSource


def source(path: Path) -> DataSource:
    return DataSource(path=str(path), skip=0, stride=1)


def problems(path: Path) -> list[str]:
    return frames.inspect(source(path), frame_size=16, training_length=4, held_out=supply.HeldOut(2, 6))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    write_frames(tmp_path / "folder/frames.h5")
    return tmp_path / "folder/frames.h5"


def test_a_file_on_its_own_has_the_hash_of_its_bytes(path: Path) -> None:
    assert frames.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_wherever_the_rows_lie_they_are_the_same_rows_and_every_byte_of_them_is_hashed(path: Path, kind: str) -> None:
    plain = content.digests(source(path))
    ELSEWHERE[kind](path)
    assert problems(path) == []
    found = content.digests(source(path))
    assert (found.content, found.file == plain.file) == (plain.content, False)
    part = path.with_name("part3.h5")
    before = part.read_bytes()
    part.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert frames.sha256(path) != found.file
    part.write_bytes(before)
    assert frames.sha256(path) == found.file


@pytest.mark.parametrize("kind", [kind for kind in ELSEWHERE if kind != "raw"])
def test_a_folder_that_is_moved_with_its_sources_has_the_same_hash(path: Path, kind: str) -> None:
    ELSEWHERE[kind](path)
    before = frames.sha256(path)
    moved = path.parent.rename(path.parents[1] / "moved") / path.name
    assert frames.sha256(moved) == before
    (path.parents[1] / "link.h5").symlink_to(moved)
    assert frames.sha256(path.parents[1] / "link.h5") == before


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_lost_source_is_named_and_nothing_is_read_as_zeros(path: Path, kind: str) -> None:
    ELSEWHERE[kind](path)
    lost = path.with_name("part1.h5" if kind == "numbered" else "part3.h5")
    lost.unlink()
    found = problems(path)
    assert found
    assert all(lost.name in problem and "put it back" in problem for problem in found)
    with pytest.raises(UsageProblem, match=lost.name):
        content.digests(source(path))


def test_raw_storage_that_was_cut_short_is_named(path: Path) -> None:
    raw(path)
    part = path.with_name("part3.h5")
    os.truncate(part, part.stat().st_size - 100)
    (problem,) = problems(path)
    assert f"{part}: has " in problem
    assert "cut short" in problem


def test_a_source_that_has_fewer_rows_than_are_taken_of_it_is_named(path: Path) -> None:
    virtual(path)
    with h5py.File(path.with_name("part2.h5"), "r+") as file:
        rows = file["frames"][:7]
        del file["frames"]
        file["frames"] = rows
    (problem,) = problems(path)
    assert "part2.h5: `frames` has shape (7, 16, 16, 3), which is not what" in problem


def test_rows_that_come_from_nowhere_are_refused(path: Path) -> None:
    layout = h5py.VirtualLayout((480, 16, 16, 3), "u1")
    layout[:400] = h5py.VirtualSource("other.h5", "frames", (480, 16, 16, 3))[:400]
    path.rename(path.with_name("other.h5"))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("frames", layout)
    assert any("come from nowhere" in problem for problem in problems(path))


def in_a_circle(path: Path) -> None:
    """Two virtual datasets, each made of the other: HDF5 reads them until its stack ends."""
    for name, other in (("frames.h5", "other.h5"), ("other.h5", "frames.h5")):
        layout = h5py.VirtualLayout((480, 16, 16, 3), "u1")
        layout[:] = h5py.VirtualSource(other, "frames", (480, 16, 16, 3))
        with h5py.File(path.with_name(name), "w") as file:
            file.create_virtual_dataset("frames", layout)


def of_itself(path: Path) -> None:
    layout = h5py.VirtualLayout((480, 16, 16, 3), "u1")
    layout[:] = h5py.VirtualSource(".", "frames", (480, 16, 16, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("frames", layout)


def soft_circle(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["frames"], file["again"] = h5py.SoftLink("/again"), h5py.SoftLink("/frames")


def soft_spiral(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["frames"] = h5py.SoftLink("/frames/frames")


def linked_circle(path: Path) -> None:
    for name, other in (("frames.h5", "other.h5"), ("other.h5", "frames.h5")):
        with h5py.File(path.with_name(name), "w") as file:
            file["frames"] = h5py.ExternalLink(other, "/frames")


@pytest.mark.parametrize("make", [in_a_circle, of_itself, soft_circle, soft_spiral, linked_circle])
def test_rows_that_rest_on_themselves_are_refused(tmp_path: Path, tiw: Tiw, make: object) -> None:
    """In a process of its own: HDF5 would take it with it."""
    make(tmp_path / "frames.h5")  # type: ignore[operator]
    asks = (
        "import sys; from pathlib import Path; from tests.data.test_sources import problems; "
        "print(*problems(Path(sys.argv[1])), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", asks, tmp_path / "frames.h5"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "frames.h5: " in done.stdout


def test_rows_that_rest_on_more_files_than_anybody_has_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    virtual(path)
    monkeypatch.setattr(sources, "MOST_SOURCES", 4)
    assert any("more than 4 datasets" in problem for problem in problems(path))


@pytest.mark.parametrize(
    ("make", "variable"), [(virtual, "HDF5_VDS_PREFIX"), (numbered, "HDF5_VDS_PREFIX"), (linked, "HDF5_EXT_PREFIX")]
)
def test_sources_are_looked_for_where_hdf5_looks(path: Path, tiw: Tiw, make: object, variable: str) -> None:
    make(path)  # type: ignore[operator]
    before = frames.sha256(path)
    beside = path.with_name("sources")
    beside.mkdir()
    for part in [*path.parent.glob("part*.h5"), *path.parent.glob("between.h5")]:
        shutil.move(part, beside)
    assert problems(path) != []
    asks = (
        "import sys; from pathlib import Path; from tests.data.test_sources import problems, frames, content, source; "
        "path = Path(sys.argv[1]); print(problems(path), content.digests(source(path)).file)"
    )
    for prefix in (str(beside), f"/nowhere:{beside}"):
        done = subprocess.run(
            [sys.executable, "-c", asks, path],
            env=os.environ | {variable: prefix},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == f"[] {before}", done.stderr


def test_the_order_of_places_is_that_of_hdf5(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed is what is read: the file beside the one that names it comes before that of the working folder."""
    virtual(path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = frames.sha256(path)
    shutil.copy(path.with_name("part0.h5"), "part3.h5")  # other rows under the name of the last
    assert frames.sha256(path) == before
    assert sources.of(path).files[-1] == path.with_name("part3.h5")
    (tmp_path / "work/part3.h5").unlink()
    path.with_name("part3.h5").rename(tmp_path / "work/part3.h5")
    assert problems(path) == []
    assert frames.sha256(path) == before


def test_check_and_run_refuse_frames_a_part_of_which_is_lost(root: Path, tiw: Tiw) -> None:
    virtual(root / "frames.h5")
    assert tiw(root, "check").returncode == ExitCode.PASSED
    (root / "part3.h5").unlink()
    for command in ("check", "run"):
        done = tiw(root, command)
        assert (done.returncode, "part3.h5 is missing" in done.stdout + done.stderr) == (ExitCode.USAGE, True)
    assert not (root / "state/default/state.json").exists()
