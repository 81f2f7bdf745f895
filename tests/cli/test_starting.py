"""With nothing there: what is said where there are no configs, ``init``, and the demo in one command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.configs import LENIENT, TINY, write_configs, write_frames
from tests.support.processes import Tiw
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode

PROJECT = Path(__file__).parent.parent.parent
WITHOUT_CRAFTER = "import sys; sys.modules['crafter'] = None; from tiw_fsm.__main__ import main; main()"
NAMES = {f"{name}.yaml" for name in TINY}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "--engine", "simulated"], ["check"], ["run", "--config-dir", "x"]]
)
def test_where_there_are_no_configs_one_sentence_says_how_to_get_some_and_nothing_is_left(
    tmp_path: Path, tiw: Tiw, arguments: list[str]
) -> None:
    done = tiw(tmp_path, *arguments)
    assert done.returncode == ExitCode.USAGE
    told = (done.stdout + done.stderr).removeprefix("not ready  configs\n")
    assert "`tiw-fsm init`" in told
    assert "`tiw-fsm init --demo`" in told
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flags", "folder"), [([], ""), (["--demo"], "demo"), (["--crafter"], "crafter")])
def test_init_writes_the_configs_of_the_repository_and_they_are_in_order(
    tmp_path: Path, tiw: Tiw, flags: list[str], folder: str
) -> None:
    done = tiw(tmp_path, "init", *flags)
    assert done.returncode == ExitCode.PASSED, done.stderr
    written = files(tmp_path / "configs" / folder)
    assert written == {name: (PROJECT / "configs" / folder / name).read_bytes() for name in NAMES}
    checked = tiw(tmp_path, "check", *(["--config-dir", f"configs/{folder}"] if folder else []))
    assert "ready      configs are aligned" in checked.stdout


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_what_init_writes_says_of_every_key_what_it_is(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", " "))]
    assert {line for line in lines if "#" not in line} <= {"budgets:", "inference:"}, "whose keys are said one by one"


def test_init_goes_over_no_file_unless_it_is_told_to(tmp_path: Path, tiw: Tiw) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "training.yaml").write_text("dataset: mine.h5\n")
    (folder / "loop.yaml").symlink_to("nowhere")
    (folder / "notes").write_text("mine")
    before = files(tmp_path)
    refused = tiw(tmp_path, "init", "mine")
    assert refused.returncode == ExitCode.USAGE
    assert "mine has loop.yaml, training.yaml already; --force" in refused.stderr
    assert files(tmp_path) == before
    assert tiw(tmp_path, "init", "mine", "--force").returncode == ExitCode.PASSED
    assert files(folder).keys() == NAMES | {"notes"}
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["a file"], "is no folder"), (["a file/in"], "is no folder"), (["--demo", "--crafter"], "one")],
)
def test_init_says_what_cannot_be(tmp_path: Path, tiw: Tiw, arguments: list[str], said: str) -> None:
    (tmp_path / "a file").write_text("")
    done = tiw(tmp_path, "init", *arguments)
    assert (done.returncode, said in done.stderr, files(tmp_path)) == (ExitCode.USAGE, True, {"a file": b""})


def test_init_writes_nothing_where_one_of_its_files_cannot_be(tmp_path: Path, tiw: Tiw) -> None:
    (tmp_path / "mine/loop.yaml").mkdir(parents=True)
    (tmp_path / "mine/training.yaml").write_text("dataset: mine.h5\n")
    done = tiw(tmp_path, "init", "mine", "--force")
    assert (done.returncode, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert "mine/loop.yaml is no file" in done.stderr
    assert files(tmp_path) == {"mine/training.yaml": b"dataset: mine.h5\n"}


def demo(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tiw_fsm", "demo"]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def generation(root: Path) -> int:
    path = root / "state/default/state.json"
    return json.loads(path.read_text())["generation"] if path.exists() else -1


def stopped(root: Path, generations: int) -> tuple[int, str]:
    """A demo asked to stop after so many commits: its exit code, and what it said."""
    process, until = demo(root), generation(root) + generations
    wait_for("commits", lambda: generation(root) >= until or process.poll() is not None, 120)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_the_demo_begins_with_nothing_and_goes_on_by_the_same_command(tmp_path: Path) -> None:
    code, said = stopped(tmp_path, 1)
    assert code == ExitCode.INTERRUPTED
    assert "to configs/demo" in said
    assert "recorded 10240 frames" in said
    made = files(tmp_path / "configs") | files(tmp_path / "data")
    before = generation(tmp_path)
    code, said = stopped(tmp_path, 1)
    assert (code, said) == (ExitCode.INTERRUPTED, "")
    assert generation(tmp_path) >= before + 1
    assert files(tmp_path / "configs") | files(tmp_path / "data") == made


def test_a_demo_asked_to_stop_while_it_records_leaves_nothing_half_written(tmp_path: Path) -> None:
    process = demo(tmp_path)
    half = tmp_path / "data/planet_frames.h5.tmp"
    wait_for("a recording", lambda: half.exists() or process.poll() is not None, 60, pause=0.001)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "run again" in said) == (ExitCode.INTERRUPTED, True)
    assert files(tmp_path / "data") == {}


def test_a_demo_that_has_passed_says_how_to_play_it(tmp_path: Path, tiw: Tiw) -> None:
    """With configs and frames of one's own in their places, which stay as they are."""
    lenient = {**LENIENT, "inference": {"max_mse": 0.9, "allow_trivial": True, "clips": 2}}
    write_configs(tmp_path / "configs/demo", {"training": {"dataset": "data/planet_frames.h5"}, "loop": lenient})
    (tmp_path / "data").mkdir()
    write_frames(tmp_path / "data/planet_frames.h5")
    before = files(tmp_path)
    done = tiw(tmp_path, "demo", "--run", "mine")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert "PASSED: the inference gate passed" in done.stdout
    assert "`tiw-fsm play mine` opens the world" in done.stdout.splitlines()[-1]
    assert before.items() <= files(tmp_path).items()
    assert tiw(tmp_path, "demo", "--run", "mine").stdout == done.stdout


def test_a_run_that_is_not_the_demos_is_left_alone(tmp_path: Path, tiw: Tiw) -> None:
    write_configs(tmp_path / "configs")
    tiw(tmp_path, "run", "--engine", "simulated")
    before = files(tmp_path)
    done = tiw(tmp_path, "demo")
    assert (done.returncode, "run 'default' is none of the demo's" in done.stderr) == (ExitCode.USAGE, True)
    assert files(tmp_path) == before


def test_without_the_game_one_sentence_says_so_before_anything_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_CRAFTER, "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == "the game Crafter is not installed: pip install 'tiw_fsm[demo]'\n"
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_carries_the_configs_and_begins_with_nothing_but_itself(tmp_path: Path) -> None:
    """Built from the sources, unpacked, and used in a folder where there is nothing."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, PROJECT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed, root = tmp_path / "installed", tmp_path / "root"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, installed], check=True)
    assert files(installed / "tiw_fsm/configs") == files(PROJECT / "configs")
    data = {path for path in files(PROJECT / "tiw_fsm") if not path.endswith((".py", ".pyc"))}
    assert data <= files(installed / "tiw_fsm").keys()
    root.mkdir()

    def installed_tiw(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tiw_fsm", *arguments]
        environment = os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)

    for arguments in (
        ["init", "--demo"],
        ["record", "data/planet_frames.h5"],
        ["check", "--config-dir", "configs/demo"],
    ):
        done = installed_tiw(*arguments)
        assert done.returncode == ExitCode.PASSED, done.stderr
    assert files(root / "configs/demo") == files(PROJECT / "configs/demo")
