"""`tiw-fsm export`: a folder that is whole or not there, the same each time, of use elsewhere, and read back."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from safetensors import safe_open

import tiw_fsm
from tests.support.native_runs import make_root
from tests.support.simulation import Simulation
from tests.support.waiting import wait_for
from tiw_fsm.data import pictures
from tiw_fsm.errors import ExitCode
from tiw_fsm.export.folder import export as make
from tiw_fsm.worlds.world import World

ACTIONS = [0, 3, 1, 2, 2]
FILES = ("config.json", "model.safetensors", "starts.safetensors", "README.md", "rollouts.png", "rollouts_moving.png")
CHECKPOINT = "dynamics/checkpoints/dynamics_step_59"


def tiw_fsm_process(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tiw_fsm", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def exported(passed_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the run that has passed; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("exported") / "world"
    done = tiw_fsm_process(passed_root, "export", "-o", str(folder))
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert f"Exported run default to {folder}: 18 files" in done.stdout
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """The same on another machine, to be damaged."""
    return shutil.copytree(exported, tmp_path / "elsewhere")


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def played(world: World) -> bytes:
    first = world.reset(count=3, seed=4)
    return first.tobytes() + b"".join(world.step(action).tobytes() for action in ACTIONS)


def test_what_is_loaded_from_an_export_is_the_world_of_the_run(copy: Path, passed_root: Path) -> None:
    """Bit for bit, starts, keys and all, and without the run's frames."""
    world, own = tiw_fsm.load(copy), tiw_fsm.load("default", repo_root=passed_root)
    assert np.array_equal(world.starts, own.starts)
    assert (world.config, world.keys, world.verdict) == (own.config, own.keys, own.verdict)
    assert played(world) == played(own)
    assert tiw_fsm.load(str(copy)).n_actions == own.n_actions  # text with a slash is a folder, too


def test_check_reads_it_back_and_so_does_sha256sum(exported: Path, tmp_path: Path) -> None:
    done = tiw_fsm_process(tmp_path, "check", str(exported))
    assert (done.returncode, done.stdout.count("ready"), done.stdout.count("not ready")) == (ExitCode.PASSED, 4, 0)
    assert "export of run default, passed, 18 files" in done.stdout
    found = json.loads(tiw_fsm_process(tmp_path, "check", str(exported), "--json").stdout)
    assert [finding["problems"] for finding in found] == [[], [], [], []]
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=exported).returncode == 0


def test_the_same_run_exports_the_same_bytes_and_no_path_of_this_machine(
    exported: Path, passed_root: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    make(tiw_fsm.open_run(repo_root=passed_root), again, force=False, allow_failed=False)
    assert content(again) == content(exported)
    for path in again.rglob("*"):
        if path.is_file():
            assert str(passed_root).encode() not in path.read_bytes(), path


def test_provenance_is_in_the_config_and_in_the_weights(exported: Path, passed_root: Path) -> None:
    run = tiw_fsm.open_run(repo_root=passed_root).state
    config = json.loads((exported / "config.json").read_text())
    assert (config["run"], config["passed"], config["provenance"]["run_id"]) == ("default", True, run.run_id)
    assert config["provenance"]["config_sha256"] == run.config_sha256
    assert config["attempt"]["mse"] == run.inference.attempts[-1].mse
    for stage, progress in run.stages.items():
        assert progress.checkpoint is not None
        assert config["provenance"]["checkpoints"][stage]["sha256"] == progress.checkpoint.sha256
    with safe_open(exported / "model.safetensors", "pt") as file:
        told = json.loads(file.metadata()["tiw_fsm"])
        assert {name.partition(".")[0] for name in file.keys()} == set(tiw_fsm.Stage)  # noqa: SIM118
    assert told["provenance"] == config["provenance"]


def test_the_card_shows_verdict_baselines_conditions_and_pictures_that_are_there(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: tiw_fsm\npipeline_tag: ")
    page = MarkdownIt().enable("table").render(card.partition("\n---\n")[2])
    shown = re.findall(r'<img src="([^"]+)"', page)
    assert shown == ["rollouts_moving.png", "rollouts.png"]
    assert all(pictures.is_png(str(exported / name)) for name in shown)
    for told in ("PASSED", "MSE of copy_last", "mse_within_max", "passed the plain gate", "load(", "run: default, id"):
        assert told in page
    assert not re.findall(r"[`|]{2}|\\`", page)


def altered(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "altered": altered,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "gone": lambda path: path.unlink(),
    "a folder": made_a_folder,
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, f"{CHECKPOINT}/model_state_dict.pt", f"{CHECKPOINT}/manifest.json"])
def test_a_file_that_is_not_what_was_exported_is_named_and_nothing_is_loaded(copy: Path, name: str, how: str) -> None:
    DAMAGE[how](copy / name)
    with pytest.raises(tiw_fsm.TiwFsmError) as refused:
        tiw_fsm.load(copy)
    assert str(copy / name) in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_check_names_the_file_that_was_altered(copy: Path, tmp_path: Path) -> None:
    altered(copy / "model.safetensors")
    (copy / "starts.safetensors").unlink()
    done = tiw_fsm_process(tmp_path, "check", "elsewhere")
    assert done.returncode == ExitCode.USAGE
    assert re.findall(r"^not ready +(\S+)", done.stdout, re.MULTILINE) == [
        "elsewhere/model.safetensors",
        "elsewhere/starts.safetensors",
    ]
    assert "it is missing; export it again, or fetch the folder anew" in done.stdout


LISTS = {
    "outside": ("0" * 64 + "  ../secret\n", "not every line is a hash and the name of a file"),
    "absolute": ("0" * 64 + "  /etc/passwd\n", "not every line is a hash and the name of a file"),
    "no list": ("hello\n", "not every line is a hash and the name of a file"),
    "empty": ("", "SHA256SUMS does not list it"),
    "binary": ("\0\1", "it is no text"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_sums_that_is_none_is_refused(copy: Path, kind: str) -> None:
    written, said = LISTS[kind]
    (copy / "SHA256SUMS").write_text(written)
    with pytest.raises(tiw_fsm.TiwFsmError, match=said):
        tiw_fsm.load(copy)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"format": 1', '"format":\n2', "of format 2, this version reads 1: use the version that wrote it"),
        ('"format": 1', '"format": 2', "of format 2, this version reads 1: use the version that wrote it"),
        ('"n_actions": 4', '"n_actions": "many"', "no configuration of an export: .*n_actions"),
        ("{", "[", "no configuration of an export: the whole"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(copy: Path, before: str, after: str, said: str) -> None:
    _alter(copy, before, after)
    with pytest.raises(tiw_fsm.TiwFsmError, match=said):
        tiw_fsm.load(copy)


def test_a_recorded_key_may_be_called_format(copy: Path) -> None:
    _alter(copy, '"keys": {}', '"keys": {"format": 3}')
    assert tiw_fsm.load(copy).keys["format"] == 3


def _alter(copy: Path, before: str, after: str) -> None:
    """Change the configuration of an export, and its sum with it."""
    config = copy / "config.json"
    old = hashlib.sha256(config.read_bytes()).hexdigest()
    config.write_text(config.read_text().replace(before, after))
    sums = copy / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(config.read_bytes()).hexdigest()))


@pytest.fixture(scope="module")
def failed(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working root of the run `mine`, which begins from the export by the command that the card has, and fails."""
    root = make_root(tmp_path_factory.mktemp("failed") / "root")
    command = re.search(r"```bash\ntiw-fsm (run .*)\n```", (exported / "README.md").read_text())
    assert command
    words = command[1].replace("FOLDER", str(exported)).split()
    done = tiw_fsm_process(root, *words, "--max-mse", "1e-9", "--max-inference-retries", "0")
    assert done.returncode == ExitCode.NOT_PASSED, done.stderr
    return root


def test_another_run_begins_from_an_export_which_is_not_touched(failed: Path, exported: Path) -> None:
    state = tiw_fsm.open_run("mine", repo_root=failed).state
    assert all(progress.warm_start or progress.checkpoint for progress in state.stages.values())
    assert tiw_fsm.load(exported).n_actions == 4


def test_a_world_that_has_not_passed_is_exported_only_when_asked_for_and_says_so(failed: Path) -> None:
    run, folder = tiw_fsm.open_run("mine", repo_root=failed), failed / "exports/mine"
    with pytest.raises(tiw_fsm.TiwFsmError, match="has not passed its inference gate; allow_failed=True") as refused:
        tiw_fsm.load("mine", repo_root=failed)
    assert "not met: mse_within_max" in str(refused.value)
    with pytest.raises(tiw_fsm.TiwFsmError, match="has not passed its inference gate; --allow-failed"):
        make(run, folder, force=False, allow_failed=False)
    assert not folder.parent.exists()
    done = tiw_fsm_process(failed, "export", "mine", "--allow-failed", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["passed"], told["folder"]) == (ExitCode.PASSED, False, "exports/mine")
    assert "**It has not passed its inference gate.**" in (folder / "README.md").read_text()
    assert "not passed, 18 files" in tiw_fsm_process(failed, "check", "exports/mine").stdout
    with pytest.raises(tiw_fsm.TiwFsmError, match="has not passed its inference gate; allow_failed=True"):
        tiw_fsm.load(folder)
    world = tiw_fsm.load(folder, allow_failed=True)
    assert "not passed" in world.verdict
    assert played(world) == played(tiw_fsm.load("mine", repo_root=failed, allow_failed=True))


def test_a_run_without_a_world_is_refused(simulation: Simulation) -> None:
    done = tiw_fsm_process(simulation.root, "export", "other")
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert "The run has not begun" in done.stderr
    simulation.run()
    for allowed in (False, True):
        with pytest.raises(tiw_fsm.TiwFsmError, match="was simulated and has no model"):
            make(tiw_fsm.open_run(repo_root=simulation.root), simulation.root / "x", force=False, allow_failed=allowed)
    assert not (simulation.root / "x").exists()


def test_what_is_there_is_replaced_only_if_it_is_an_export_and_with_force(
    passed_root: Path, copy: Path, tmp_path: Path
) -> None:
    run = tiw_fsm.open_run(repo_root=passed_root)
    (copy / "rollouts.png").unlink()
    with pytest.raises(tiw_fsm.TiwFsmError, match="elsewhere is already there: --force exports it again"):
        make(run, copy, force=False, allow_failed=False)
    make(run, copy, force=True, allow_failed=False)
    assert (copy / "rollouts.png").exists()
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"meow")
    link = tmp_path / "link"
    link.symlink_to(other)
    for path, said in ((other, "no export, so it is left"), (link, "no folder"), (other / "cat.png", "no folder")):
        with pytest.raises(tiw_fsm.TiwFsmError, match=said):
            make(run, path, force=True, allow_failed=False)
    assert sorted(tmp_path.iterdir()) == sorted([copy, other, link])
    assert (other / "cat.png").read_bytes() == b"meow"


def test_killed_on_its_way_it_leaves_nothing_under_its_name(passed_root: Path, tmp_path: Path) -> None:
    folder, half = tmp_path / "out/world", tmp_path / "out/.world.new"
    command = [sys.executable, "-m", "tiw_fsm", "export", "-o", str(folder)]
    process = subprocess.Popen(command, cwd=passed_root, stdout=subprocess.DEVNULL)
    wait_for("the half of it", lambda: half.exists() or folder.exists(), 60, pause=0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if folder.exists():  # it was quicker
        assert tiw_fsm.load(folder).n_actions == 4
    assert tiw_fsm_process(passed_root, "export", "-o", str(folder), "--force").returncode == ExitCode.PASSED
    assert [path.name for path in folder.parent.iterdir()] == ["world"]


def test_a_disk_that_takes_no_more_leaves_nothing(passed_root: Path, tmp_path: Path) -> None:
    limited = f"ulimit -f 100; exec {sys.executable} -m tiw_fsm export -o {tmp_path}/out/world"
    done = subprocess.run(["bash", "-c", limited], cwd=passed_root, capture_output=True, text=True)
    assert done.returncode == ExitCode.DISK, done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
