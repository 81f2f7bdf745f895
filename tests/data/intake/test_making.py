"""A frame file made: the same bytes for the same source, whole or not at all, and ready to be trained on."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.data.intake.sources import Held, make, numbered, write_video
from tests.support.amounts import whole_too
from tests.support.configs import write_configs, write_frames
from tests.support.processes import Tiw
from tests.support.waiting import wait_for
from tiw_fsm.data import writing
from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options
from tiw_fsm.errors import DiskRefused, ExitCode
from tiw_fsm.system import durable

PROJECT = Path(__file__).parents[3]
GRID = "MiniGrid-Empty-5x5-v0"


def test_the_same_source_gives_the_same_bytes_wherever_it_lies_and_whatever_the_hash_seed(
    tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for n, folder in enumerate((tmp_path / "here", tmp_path / "some" / "where else")):
        folder.mkdir(parents=True)
        np.savez(folder / "a.npz", frames=numbered(60), actions=np.arange(60) % 3)
        monkeypatch.setenv("PYTHONHASHSEED", str(n))
        source = "a.npz" if n else str(folder / "a.npz")
        assert tiw(folder, "frames", source, "-o", "out/o.h5").returncode == ExitCode.PASSED
        made.append([(folder / "out" / name).read_bytes() for name in ("o.h5", "o.h5.png")])
    assert made[0] == made[1]


def test_the_command_says_what_it_made_and_what_to_do_with_it(tmp_path: Path, tiw: Tiw) -> None:
    video = write_video(tmp_path / "my play.mp4", numbered(100, 48, 64))
    done = tiw(tmp_path, "frames", str(video), "-o", "data/my play.h5", "--size", "56")
    assert done.returncode == ExitCode.PASSED, done.stderr
    for said in (
        "made 100 frames of 56 by 56 pixels (the middle of 64 by 48; `--fit pad` keeps all of it); 3 s of play, 30 "
        "frames a second; 10 episodes, 1 of them held out; ",
        "1 episode was cut into 10 of at most 10 frames",
        "contact sheet: data/my play.h5.png",
        "next: with `frame_size: 56` in training.yaml, `tiw-fsm check --dataset 'data/my play.h5'`",
    ):
        assert said in done.stdout
    with Image.open(tmp_path / "data/my play.h5.png") as sheet:
        assert sheet.width > 8 * 56
    again = tiw(tmp_path, "frames", str(video), "-o", "data/my play.h5")
    assert (again.returncode, "--force writes over it" in again.stderr) == (ExitCode.USAGE, True)
    told = json.loads(tiw(tmp_path, "frames", str(video), "-o", "data/my play.h5", "--force", "--json").stdout)
    assert (told["rows"], told["size"], told["episodes"], told["held_out"], told["fps"]) == (100, 128, 10, 1, 30)
    assert told["actions"] is None


def test_what_was_made_is_ready_to_be_trained_on(tmp_path: Path, tiw: Tiw) -> None:
    """With the sizes of the demo, its actions as a hint included."""
    shutil.copytree(PROJECT / "configs/demo", tmp_path / "configs")
    np.savez(tmp_path / "a.npz", frames=numbered(1500, 16, 16), actions=np.arange(1500) % 4)
    assert tiw(tmp_path, "frames", "a.npz", "-o", "data/mine.h5", "--size", "56").returncode == ExitCode.PASSED
    done = tiw(tmp_path, "check", "--config-dir", "configs", "--dataset", "data/mine.h5")
    assert done.returncode == ExitCode.PASSED, done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--start", "soon"], "--start soon: is no time; give seconds (90) or minutes and seconds (1:30)"),
        (["--start", "0:05", "--end", "4"], "--end 4: has to lie behind --start 0:05"),
        (["--episodes", "one", "--episode-length", "5"], "--episode-length 5: with --episodes one there are none"),
        (["--fps", "0"], "--fps 0: has to be above 0"),
        (["--force", "-o", "o.mp4"], "--output o.mp4: has to end in .h5"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(tmp_path: Path, tiw: Tiw, flags: list[str], said: str) -> None:
    done = tiw(tmp_path, "frames", "play.mp4", *([] if "-o" in flags else ["-o", "o.h5"]), *flags)
    assert (done.returncode, said in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_episodes_too_short_for_a_clip_are_told_of(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=numbered(60), episode=np.arange(60))
    made = making.make(tmp_path / "o.h5", [str(tmp_path / "a.npz")], Options(size=16))
    assert [note for note in made.notes if "no episode is longer than 1 frame, and clips" in note]
    mended = making.make(tmp_path / "p.h5", [str(tmp_path / "a.npz")], Options(size=16, episodes="file"))
    assert not [note for note in mended.notes if "longer" in note]


# --- killed, full, at once --------------------------------------------------------------------------------------


def begun(root: Path) -> subprocess.Popen[bytes]:
    """A process that has written some of a source that takes it an hour."""
    np.lib.format.open_memmap(root / "endless.npy", "w+", "u1", (10_000_000, 8, 8, 3))  # no disk has to hold its zeros
    arguments = ["frames", "endless.npy", "-o", "o.h5", "--size", "32", "--force"]
    process = subprocess.Popen([sys.executable, "-m", "tiw_fsm", *arguments], cwd=root, stderr=subprocess.DEVNULL)
    temporary = root / "o.h5.tmp"
    wait_for("frames in the file", lambda: temporary.exists() and temporary.stat().st_size > 8000, 60)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, whole_too(signal.SIGINT)])
def test_whoever_ends_it_the_old_file_stays_and_the_next_start_works(
    tmp_path: Path, tiw: Tiw, number: signal.Signals
) -> None:
    (tmp_path / "o.h5").write_bytes(b"the old one")
    process = begun(tmp_path)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else ExitCode.INTERRUPTED)
    assert (tmp_path / "o.h5").read_bytes() == b"the old one"
    left = {path.name for path in tmp_path.glob("o.*")}
    assert left == ({"o.h5", "o.h5.tmp"} if number == signal.SIGKILL else {"o.h5"})
    done = tiw(tmp_path, "frames", "endless.npy", "-o", "o.h5", "--force", "--end", "50")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert len(Held(tmp_path / "o.h5").frames) == 50
    assert {path.name for path in tmp_path.glob("o.*")} == {"o.h5", "o.h5.png"}


def test_two_that_write_one_file_do_not_meet(tmp_path: Path, tiw: Tiw) -> None:
    process = begun(tmp_path)
    try:
        done = tiw(tmp_path, "frames", "endless.npy", "-o", "o.h5", "--force")
        assert (done.returncode, "another process is writing it" in done.stderr) == (ExitCode.HELD, True)
    finally:
        process.terminate()
        process.wait(60)


def test_one_that_ended_leaves_the_file_of_one_that_began_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other begins as soon as the first has its name, before that is brought to the disk."""
    path, sync = tmp_path / "o.h5", durable.sync
    with ExitStack() as other:

        def another_begins(synced: Path) -> None:
            sync(synced)
            if path.exists():
                monkeypatch.undo()
                other.enter_context(writing.replacing(path)).attrs["by"] = "the other"

        with writing.replacing(path) as file:
            file.attrs["by"] = "the first"
            monkeypatch.setattr(durable, "sync", another_begins)
        with h5py.File(path) as file:
            assert file.attrs["by"] == "the first"
    with h5py.File(path) as file:
        assert file.attrs["by"] == "the other"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["o.h5", "o.h5.png"])
def test_a_folder_in_the_place_of_what_is_made_is_told_of_before_anything_is_read(
    tmp_path: Path, tiw: Tiw, name: str
) -> None:
    (tmp_path / name).mkdir()
    np.save(tmp_path / "a.npy", numbered(10))
    done = tiw(tmp_path, "frames", "a.npy", "-o", "o.h5", "--force")
    said = f"{name}: is there, and is no file; move it elsewhere, or name another file\n"
    assert (done.returncode, done.stderr) == (ExitCode.USAGE, said)
    assert {path.name for path in tmp_path.iterdir()} == {name, "a.npy"}


def test_without_its_contact_sheet_nothing_is_made(tmp_path: Path) -> None:
    """Its place is taken while the frames are read."""
    np.save(tmp_path / "a.npy", numbered(60))
    with pytest.raises(DiskRefused, match="Is a directory"):
        making.make(
            tmp_path / "o.h5",
            [str(tmp_path / "a.npy")],
            Options(size=16),
            lambda *_: (tmp_path / "o.h5.png").mkdir(exist_ok=True),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "o.h5.png"]


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a.h5", "a.h5"),
        ("a.h5", "other name.h5"),
        ("shots", "shots/o.h5"),
        ("folder", "a.h5"),
        ("shots", "sheet.h5"),
    ],
)
def test_what_is_made_takes_no_place_in_its_source(tmp_path: Path, tiw: Tiw, source: str, output: str) -> None:
    for folder in ("shots", "folder"):
        (tmp_path / folder).mkdir()
    for n, frame in enumerate(numbered(50)):
        Image.fromarray(frame).save(tmp_path / "shots" / f"{n}.png")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = numbered(50)
    os.link(tmp_path / "a.h5", tmp_path / "other name.h5")
    (tmp_path / "folder" / "linked.h5").symlink_to("../a.h5")
    os.link(tmp_path / "shots" / "0.png", tmp_path / "sheet.h5.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = tiw(tmp_path, "frames", source, "-o", output, "--force", "--size", "16")
    assert (done.returncode, "with --output\n" in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("o" * 300 + ".h5", "is longer than a name can be; shorten it"),
        ("new/" + "o" * 240 + ".h5", "is longer than a name can be; shorten it"),
        ("a.npy/o.h5", "a.npy/o.h5: a.npy is no folder; correct the path"),
        ("nowhere/o.h5", "nowhere is no folder"),
        ("linked.h5", "linked.h5: is a symbolic link to somewhere.h5; name the file itself"),
        (b"caf\xe9.h5", "caf\\udce9.h5: has '\\udce9' in it, which is no UTF-8 text; give another name"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("command", ["frames", whole_too("record")])
def test_a_place_where_no_file_can_be_is_told_of(
    tmp_path: Path, tiw: Tiw, command: str, output: str | bytes, said: str
) -> None:
    np.save(tmp_path / "a.npy", numbered(60))
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "linked.h5").symlink_to("somewhere.h5")
    before = sorted(tmp_path.iterdir())
    done = tiw(tmp_path, command, *(["a.npy", "-o"] if command == "frames" else []), os.fsdecode(output))
    assert (done.returncode, said in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_home_that_no_shell_has_put_in_is_found(tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    np.save(tmp_path / "a.npy", numbered(60))
    assert tiw(tmp_path, "frames", "a.npy", "--output=~/o.h5", "--size", "16").returncode == ExitCode.PASSED
    assert (tmp_path / "home/o.h5").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("kilobytes", [400, whole_too(100), whole_too(1000), whole_too(0)])
def test_a_limit_on_the_size_of_files_is_a_disk_that_refuses(tmp_path: Path, kilobytes: int) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (600, 64, 64, 3), dtype=np.uint8))
    command = shlex.join([sys.executable, "-m", "tiw_fsm", "frames", "a.npy", "-o", "o.h5", "--size", "64"])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {kilobytes}; {command}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, "File too large" in done.stderr) == (ExitCode.DISK, True), done
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


FULL = "mount -t tmpfs -o size={size} none {folder} && {command}; code=$?; ls -A {folder} >&2; exit $code"


@pytest.mark.parametrize("size", ["64k", "1028k", whole_too("4k"), whole_too("1m")])
@pytest.mark.parametrize("command", ["frames a.npy -o full/o.h5", "record full/o.h5 --frames 4096"])
def test_a_disk_that_is_full_half_way_costs_nothing_else(tmp_path: Path, command: str, size: str) -> None:
    """A real file system of that size, in a namespace of its own."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (240, 32, 32, 3), dtype=np.uint8))
    (tmp_path / "full").mkdir()
    tool = shlex.join([sys.executable, "-m", "tiw_fsm", *command.split()])
    script = FULL.format(size=size, folder="full", command=tool)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not permitted here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == ExitCode.DISK, done.stderr
    assert done.stderr == (
        "recording to full/o.h5 failed: No space left on device. Nothing committed was lost; "
        "mend the disk and run again.\n"
    )


# --- datasets that are not frame files --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["play.mp4", "shots", "data", *map(whole_too, ("a.npz", "a.npy", GRID))])
def test_a_dataset_that_frames_have_to_be_made_of_first_is_answered_with_the_command(
    tmp_path: Path, tiw: Tiw, what: str
) -> None:
    write_configs(tmp_path / "configs", {"training": {"dataset": what}})
    if what == "play.mp4":
        write_video(tmp_path / what, numbered(100))
    elif what in ("shots", "data"):
        (tmp_path / what).mkdir()
        for n, frame in enumerate(numbered(100)):
            Image.fromarray(frame).save(tmp_path / what / f"{n}.png")
    elif what.startswith("a."):
        (np.save if what == "a.npy" else np.savez)(tmp_path / what, numbered(100))
    done = tiw(tmp_path, "check")
    command = re.search("`tiw-fsm (frames .*?)`", done.stdout)
    assert (done.returncode, command is not None) == (ExitCode.USAGE, True), done.stdout
    assert command
    arguments = shlex.split(command[1])
    played = ["--frames", "400"] if what == GRID else []
    assert tiw(tmp_path, *arguments, *played).returncode == ExitCode.PASSED
    checked = tiw(tmp_path, "check", "--dataset", arguments[arguments.index("-o") + 1])
    assert checked.returncode == ExitCode.PASSED, checked.stdout


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda frames: frames.transpose(0, 3, 1, 2), id="NCHW"),
        pytest.param(lambda frames: frames.repeat(2, axis=2), id="not square"),
        whole_too(lambda frames: frames.astype(np.float32) / 255, id="float"),
        whole_too(lambda frames: frames[..., :1], id="grey"),
    ],
)
@pytest.mark.parametrize("key", ["frames", whole_too("pictures")])
def test_an_h5_file_of_another_layout_is_answered_with_the_command_that_mends_it(
    root: Path, tiw: Tiw, spoil: object, key: str
) -> None:
    write_frames(root / "frames.h5")
    with h5py.File(root / "frames.h5", "a") as file:
        frames = file["frames"][:]
        del file["frames"]
        file[key] = spoil(frames)  # type: ignore[operator]
    done = tiw(root, "check")
    command = re.search("`tiw-fsm (frames .*?)`", done.stdout)
    assert command, done.stdout
    arguments = shlex.split(command[1])
    assert tiw(root, *arguments).returncode == ExitCode.PASSED
    output = arguments[arguments.index("-o") + 1]
    checked = tiw(root, "check", "--dataset", output)
    assert checked.returncode == ExitCode.PASSED, checked.stdout
    assert Held(Path(output)).episode is not None


def test_an_h5_file_may_be_written_in_capitals(root: Path, tiw: Tiw) -> None:
    os.rename(root / "frames.h5", root / "X.H5")
    assert tiw(root, "check", "--dataset", "X.H5").returncode == ExitCode.PASSED


def test_the_default_size_is_that_of_the_configs(tmp_path: Path) -> None:
    sizes = yaml.safe_load((PROJECT / "configs/training.yaml").read_text())
    np.save(tmp_path / "a.npy", numbered(40))
    assert Options().size == sizes["frame_size"]
    assert make(tmp_path / "o.h5", tmp_path / "a.npy").attrs["stride"] == 1


def test_no_source_waits_for_the_packages_of_another(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(40))
    code = (
        "import sys; from tiw_fsm.cli import app; app(['frames', 'a.npy', '-o', 'o.h5'], standalone_mode=False); "
        "print(sorted({'av', 'cv2', 'scenedetect', 'minari', 'zarr', 'gymnasium', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
