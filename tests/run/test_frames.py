"""Frames as a run meets them: those that cannot be read are told of before it begins, and never retried for ever; those
that are others than it began with are never trained on. Real files, real processes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.configs import write_configs, write_frames
from tests.support.frame_files import Make, blosc, chunked, damage_chunk, virtual
from tests.support.native_runs import PASSING, make_root, start, wait_for_generation
from tests.support.processes import Tiw, children
from tests.support.run_folder import RunFolder
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode


def undecodable(path: Path) -> None:
    chunked(path, compression="gzip")
    damage_chunk(path)


def in_place_of(make: Make) -> Make:
    def place(path: Path) -> None:
        path.unlink()
        make(path)

    return place


UNREADABLE: dict[str, tuple[Make, str]] = {
    "a filter that is not installed": (blosc, "filter 32001 (blosc)"),
    "a damaged chunk": (undecodable, "row 320 cannot be decoded"),
    "a pipe": (in_place_of(os.mkfifo), "is no regular file"),
    "a folder": (in_place_of(Path.mkdir), "is no regular file"),
    "a device": (in_place_of(lambda path: path.symlink_to("/dev/zero")), "is no regular file"),
    "a file that is gone": (Path.unlink, "no such file"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_check_says_why_frames_cannot_be_read(root: Path, tiw: Tiw, what: str) -> None:
    make, said = UNREADABLE[what]
    make(root / "frames.h5")
    done = tiw(root, "check")
    assert (done.returncode, said in done.stdout) == (ExitCode.USAGE, True), done.stdout


@pytest.mark.parametrize("what", ["a filter that is not installed", "a damaged chunk"])
def test_a_run_on_frames_that_cannot_be_decoded_does_not_begin(root: Path, tiw: Tiw, what: str) -> None:
    """Exit 2, which no scheduler retries."""
    make, said = UNREADABLE[what]
    make(root / "frames.h5")
    done = tiw(root, "run")
    assert (done.returncode, said in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert not (root / "state/default/state.json").exists()


def test_a_file_that_somebody_writes_to_is_named_with_who_it_is(root: Path, tiw: Tiw) -> None:
    holds = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen(
        [sys.executable, "-c", holds, root / "frames.h5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        done = tiw(root, "check")
        assert done.returncode == ExitCode.USAGE
        for said in ("open for writing elsewhere", f"by process {writer.pid}", "HDF5_USE_FILE_LOCKING"):
            assert said in done.stdout
    finally:
        writer.communicate("")
    assert tiw(root, "check").returncode == ExitCode.PASSED


REFUSES = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t pread(int fd, void *into, size_t count, off_t offset)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (count > 4096 && strstr(path, "frames.h5")) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, into, count, offset);
}
ssize_t pread64(int fd, void *into, size_t count, off_t offset) { return pread(fd, into, count, offset); }
"""
"""A disk that cannot read the rows of frames.h5."""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_disk_that_fails_to_read_is_still_the_disks_fault(root: Path) -> None:
    (root / "refuses.c").write_text(REFUSES)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "refuses.so", "refuses.c"], cwd=root, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tiw_fsm", "check"],
        cwd=root,
        env=os.environ | {"LD_PRELOAD": str(root / "refuses.so")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "Input/output error" in done.stderr) == (ExitCode.DISK, True), (done.stdout, done.stderr)


# --- between two starts -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed in its training, whose frames lie in several files, and are compressed."""
    root = make_root(tmp_path_factory.mktemp("begun") / "root")
    virtual(root / "frames.h5")
    for part in root.glob("part*.h5"):
        with h5py.File(part) as file:
            rows = file["frames"][:]
        with h5py.File(part, "w") as file:
            file.create_dataset("frames", data=rows, chunks=(12, 16, 16, 3), compression="gzip")
    process = start(root, *PASSING)
    wait_for_generation(root, 3, process)
    process.kill()
    process.communicate()
    return root


@pytest.mark.whole
def test_sources_that_are_lost_changed_or_damaged_meanwhile_stop_the_next_start(begun: Path, tiw: Tiw) -> None:
    part = begun / "part2.h5"
    whole, generation = part.read_bytes(), RunFolder(begun).state.generation
    part.unlink()
    done = tiw(begun, "run")
    assert (done.returncode, "part2.h5 is missing" in done.stderr) == (ExitCode.USAGE, True)
    assert "part2.h5 is missing" in tiw(begun, "verify").stdout
    part.write_bytes(whole)
    with h5py.File(part, "r+") as file:
        file["frames"][5, 5, 5, 0] ^= 1
    assert tiw(begun, "verify").returncode == ExitCode.DAMAGED
    done = tiw(begun, "run")
    assert (done.returncode, "the frames file: SHA-256" in done.stderr) == (ExitCode.CHANGED, True)
    part.write_bytes(whole)
    damage_chunk(part, 4)
    done = tiw(begun, "run", "--accept-changes")
    assert (done.returncode, "row 288 cannot be decoded" in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert RunFolder(begun).state.generation == generation
    part.write_bytes(whole)
    assert tiw(begun, "verify").returncode == ExitCode.PASSED


# --- while it runs ----------------------------------------------------------------------------------------------


def gone(path: Path) -> None:
    path.unlink()


def larger(path: Path) -> None:
    path.unlink()
    write_frames(path, size=24)


MEANWHILE: dict[str, tuple[Callable[[Path], None], ExitCode, str]] = {
    "a damaged chunk": (undecodable, ExitCode.CHANGED, "the frames in use are not those the run began with"),
    "frames of another size": (larger, ExitCode.CHANGED, "the frames in use are not those the run began with"),
    "a file that is gone": (gone, ExitCode.USAGE, "no such file"),
}


def test_frames_that_go_bad_under_a_living_run_end_it_and_count_as_no_death(tmp_path: Path, whole_bench: bool) -> None:
    """The child is killed and its successor finds something else, again and again: only the kills are counted."""
    root = make_root(tmp_path / "root")
    path = root / "frames.h5"
    whole = path.read_bytes()
    tried = list(MEANWHILE.values())[: None if whole_bench else 1]
    for n, (spoil, code, said) in enumerate(tried):
        process = start(root, *PASSING)
        wait_for_generation(root, 2 + 2 * n, process)
        wait_for("a child", lambda process=process: children(process.pid), 20)  # type: ignore[misc]
        spoil(path)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, said in stderr) == (code, True), stderr
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    deaths = [len(RunFolder(root).journal(event)) for event in ("killed", "crashed", "out_of_memory")]
    assert deaths == [len(tried), 0, 0], "one for each kill, and none for the frames"


OF_BEFORE = """
import sys
from tiw_fsm.run import fingerprint

take = fingerprint.take
fingerprint.take = lambda *arguments: take(*arguments).evolve(content=None)
sys.argv = ["tiw-fsm", *sys.argv[1:]]
from tiw_fsm.__main__ import main

main()
"""
"""The tool as it was when a state did not know the digest of the frames' content."""


def test_a_state_that_does_not_know_the_content_learns_it_at_the_next_start(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root")
    process = subprocess.Popen([sys.executable, "-c", OF_BEFORE, "run", *PASSING], cwd=root, stderr=subprocess.PIPE)
    state = root / "state/default/state.json"
    wait_for("a commit in training", lambda: state.exists() and RunFolder(root).state.generation > 2, 60, pause=0.002)
    process.kill()
    process.communicate()
    before = RunFolder(root).state.fingerprint
    assert before is not None
    assert before.content is None
    done = tiw(root, "run")
    assert (done.returncode, "bitwise" in done.stderr) == (ExitCode.PASSED, False), done.stderr
    after = RunFolder(root).state.fingerprint
    assert after is not None
    assert after.content is not None
    assert after.evolve(content=None) == before


# --- what there is ----------------------------------------------------------------------------------------------


def test_check_and_run_say_what_the_frames_have(tmp_path: Path, tiw: Tiw) -> None:
    write_configs(tmp_path / "configs")
    write_frames(tmp_path / "frames.h5", episodes=20, length=24)
    with h5py.File(tmp_path / "frames.h5", "a") as file:
        file.attrs.pop("stride", None)
        file.attrs["fps"] = 12
    told = "480 rows, 40 s of play, 20 episodes, 2 of them held out; with stride 4 216 clips to train on, "
    assert f"frames.h5: {told}" in tiw(tmp_path, "check", "--dataset", "./frames.h5").stdout


@pytest.mark.parametrize("label", ["dones", "is_first"])
def test_what_begins_episodes_and_is_not_read_is_refused_with_the_command_that_reads_it(
    tmp_path: Path, tiw: Tiw, label: str
) -> None:
    write_configs(tmp_path / "configs")
    write_frames(tmp_path / "frames.h5", episodes=20, length=24)
    with h5py.File(tmp_path / "frames.h5", "a") as file:
        begins = np.diff(file["episode"][:], prepend=-1) != 0
        del file["episode"]
        file[label] = begins if label == "is_first" else np.roll(begins, -1)
    checked = tiw(tmp_path, "check")
    told = checked.stdout.partition(f"`{label}` tells where episodes begin")[2]
    assert (checked.returncode, told != "") == (ExitCode.USAGE, True), checked.stdout
    command = told.partition("`tiw-fsm ")[2].partition("`")[0]
    assert tiw(tmp_path, *shlex.split(command)).returncode == 0
    made = "frames-episodes.h5"
    assert "20 episodes, 2 of them held out" in tiw(tmp_path, "check", "--dataset", f"./{made}").stdout


def test_a_run_that_has_begun_without_its_episodes_may_go_on(passed_root: Path, tmp_path: Path, tiw: Tiw) -> None:
    """As an older version let it begin."""
    root = shutil.copytree(passed_root, tmp_path / "root")
    with h5py.File(root / "frames.h5", "a") as file:
        file["dones"] = np.diff(file["episode"][:], append=-1) != 0
        del file["episode"]
    assert tiw(root, "check").returncode == ExitCode.PASSED
    assert tiw(root, "check", "--run", "another").returncode == ExitCode.USAGE


NO_FRAMES = {
    "data/x.zip": "since it is none; if it should be, copy it again; `tiw-fsm frames` makes",
    " ": "is no name",
    "data/x.npy": "`tiw-fsm frames data/x.npy -o data/x.h5 --size 16` makes one of it",
    "mine.h5": "make it of a video, pictures, arrays or an environment with `tiw-fsm frames SOURCE -o ",
    "data/planet_frames.h5": "record it with `tiw-fsm record ",
    "data/zelda_frames.h5": "fetch it with `tiw-fsm download ZELDA`",
    "MAZE": "or give the path of an h5 file, which `tiw-fsm frames` makes of other frames",
}


@pytest.mark.parametrize("dataset", NO_FRAMES)
def test_a_dataset_that_is_none_is_answered_with_the_way_to_one(tmp_path: Path, tiw: Tiw, dataset: str) -> None:
    write_configs(tmp_path / "configs")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x.zip").write_bytes(b"PK")
    done = tiw(tmp_path, "check", "--dataset", dataset)
    assert (done.returncode, NO_FRAMES[dataset] in done.stdout) == (ExitCode.USAGE, True), done.stdout
