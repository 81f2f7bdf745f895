"""Trackers beside a run that trains, and is killed: they have everything once, and the run is as without them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.support import tracked
from tests.support.amounts import whole_too
from tests.support.configs import LENIENT, write_configs
from tests.support.native_runs import PASSING, digests, make_root, wait_for_generation
from tests.support.processes import Tiw, children, process_state
from tests.support.run_folder import RunFolder
from tests.support.simulation import Simulation
from tests.support.waiting import wait_for
from tests.support.wandb_server import serving
from tiw_fsm.errors import ExitCode
from tiw_fsm.run.log import make_log
from tiw_fsm.tracking import alongside

BOTH = ["wandb", "tensorboard"]
FAILS = """
def __getattr__(name):
    raise RuntimeError("this version of wandb is broken")
"""
HANGS = """
import threading
threading.Event().wait()
"""
IMPATIENT = """
from tiw_fsm.__main__ import main
from tiw_fsm.tracking import alongside
alongside.STUCK = 0.5
main()
"""
"""The command line, with less to wait for at the end."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COLUMNS", "200")


def want(root: Path, trackers: list[str]) -> None:
    """Say so in loop.yaml."""
    path = root / "configs/loop.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "trackers": trackers}))


def trackers_of(root: Path) -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tiw_fsm", "status", "--json"], cwd=root, capture_output=True, check=True
        ).stdout
    )["trackers"]
    return found


def begin(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tiw_fsm", "run", *PASSING],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def feeding(controller: int) -> list[int]:
    """The processes of a run that feed trackers."""
    return [pid for pid in children(controller) if b"tracking/child.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def simulated(root: Path) -> Path:
    """A working root whose run on the simulated engine passes at once."""
    write_configs(root / "configs", {"loop": LENIENT})
    return root


@pytest.mark.parametrize("seed", [0, *(whole_too(seed) for seed in range(1, 20))])
def test_a_run_that_is_killed(tmp_path: Path, undisturbed: dict[str, str], tiw: Tiw, seed: int) -> None:
    """All of it; then, with another tracker beside the first, what feeds them alone, and the controller alone."""
    chance = random.Random(seed)
    root = make_root(tmp_path / "run")
    want(root, BOTH[1:])
    process = begin(root)
    generation = chance.randint(3, 5)
    _wait_for_feeding(root, generation, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    want(root, BOTH)
    process = begin(root)
    _wait_for_feeding(root, generation + 1, process)
    for pid in feeding(process.pid):
        os.kill(pid, signal.SIGKILL)
    generation += chance.randint(3, 5)
    _wait_for_feeding(root, generation, process)
    fed = feeding(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    wait_for("their end", lambda: {process_state(pid) for pid in fed} <= {None, "Z"}, 10)
    process.wait()
    ended = tiw(root, "run", *PASSING)
    assert ended.returncode == ExitCode.PASSED, ended.stderr
    assert digests(tiw, root) == undisturbed
    run = RunFolder(root)
    assert tracked.wandb_rows(root) == tracked.tensorboard_rows(root) == tracked.committed(run)
    assert tracked.wandb_runs(root) == {run.state.run_id}
    assert {name: said["state"] for name, said in trackers_of(root).items()} == dict.fromkeys(BOTH, "up to date")
    assert "trackers         tensorboard up to date; wandb up to date" in tiw(root, "status").stdout


def _wait_for_feeding(root: Path, generation: int, process: subprocess.Popen[str]) -> None:
    wait_for_generation(root, generation, process)
    wait_for("trackers", lambda: feeding(process.pid), 60, 0.002)


def have_instead_of_wandb(package: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be what `import wandb` gives."""
    folder.mkdir()
    (folder / "wandb.py").write_text(package)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def test_a_tracker_that_fails(tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch) -> None:
    root = simulated(tmp_path)
    want(root, BOTH)
    have_instead_of_wandb(FAILS, tmp_path / "broken", monkeypatch)
    ended = tiw(root, "run", "--engine", "simulated", *PASSING)
    assert ended.returncode == ExitCode.PASSED, ended.stderr
    found = trackers_of(root)
    assert (found["tensorboard"]["state"], found["wandb"]["state"]) == ("up to date", "failed")
    assert tracked.tensorboard_rows(root) == tracked.committed(RunFolder(root))
    assert "this version of wandb is broken" in str(found["wandb"]["reason"])
    assert "this version of wandb is broken" in (root / "state/default/trackers.log").read_text()


def test_a_tracker_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = simulated(tmp_path)
    want(root, ["wandb"])
    have_instead_of_wandb(HANGS, tmp_path / "broken", monkeypatch)
    command = [sys.executable, "-c", IMPATIENT, "run", "--engine", "simulated", *PASSING]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ended.returncode == ExitCode.PASSED, ended.stderr
    assert trackers_of(root)["wandb"]["state"] == "failed"
    assert "wandb has not taken everything yet; `tiw-fsm track --run default` catches up" in ended.stderr


def test_use_wandb_of_a_tinyworlds_file(tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no wish of ours: without a key a line says what to do; offline, it is fed.

    A file with keys, or an address, that cannot be read is as none."""
    write_configs(tmp_path / "configs", {"training": {"use_wandb": True}, "loop": LENIENT})
    (tmp_path / "netrc").write_bytes(b"machine \xff\xfe")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    run = ("run", "--engine", "simulated", *PASSING)
    ended = tiw(tmp_path, *run)
    assert ended.returncode == ExitCode.PASSED
    assert "use_wandb is true, and wandb is not fed, for it has no key" in ended.stderr
    assert trackers_of(tmp_path) == {}
    monkeypatch.setenv("WANDB_BASE_URL", "http://[x")
    assert "use_wandb is true, and wandb is not fed, for it has no key" in tiw(tmp_path, "track").stderr
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_MODE", "offline")
    caught_up = tiw(tmp_path, "track")
    assert caught_up.returncode == ExitCode.PASSED, caught_up.stderr
    assert tracked.wandb_rows(tmp_path) == tracked.committed(RunFolder(tmp_path))


@pytest.mark.whole
def test_one_that_has_everything_is_given_time_to_send_it(
    tmp_path: Path, simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package says nothing while it does: longer here than one is waited for that gets no further."""
    assert simulation.run() == ExitCode.PASSED
    settings = simulation.store.settings(simulation.state)
    settings = settings.evolve(loop=settings.loop.evolve(trackers=["wandb"]))
    said = list[str]()
    with serving() as server:
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        trackers = alongside.Trackers(simulation.store)
        trackers.start(settings, make_log(Console(quiet=True), tmp_path / "log.jsonl"))
        trackers.committed()
        generation = simulation.state.generation
        wait_for("all items", lambda: _given(simulation) == generation, 60)
        monkeypatch.setattr(alongside, "STUCK", 0.5)
        server.delay = 2.0
        trackers.close(hurry=False, say=said.append)
    assert not [sentence for sentence in said if "has not taken everything" in sentence]
    assert tracked.losses_in(server.rows) == tracked.committed(simulation)
    assert _given(simulation) == generation


def _given(run: RunFolder) -> int:
    """The generation whose items W&B has been given."""
    return int(run.store.trackers().get("wandb", {"generation": 0})["generation"])


@pytest.mark.whole
def test_a_server_that_does_not_answer(tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch) -> None:
    root = simulated(tmp_path)
    want(root, ["wandb"])
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    ended = tiw(root, "run", "--engine", "simulated", *PASSING)
    assert ended.returncode == ExitCode.PASSED
    assert trackers_of(root)["wandb"]["state"] == "failed"
    said = tiw(root, "track")
    assert said.returncode == ExitCode.USAGE
    assert "connection refused" in said.stderr


def test_a_tracker_that_nobody_knows(tmp_path: Path, tiw: Tiw) -> None:
    root = simulated(tmp_path)
    want(root, ["mlflow"])
    said = tiw(root, "run", "--engine", "simulated")
    assert said.returncode == ExitCode.USAGE
    assert "trackers.0: Input should be 'wandb' or 'tensorboard', not 'mlflow'" in said.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_tracker_that_is_not_installed(tmp_path: Path, command: str) -> None:
    root = simulated(tmp_path)
    want(root, ["tensorboard"])
    code = (
        "import sys; sys.modules['tensorboard'] = None; from tiw_fsm.__main__ import main; "
        f"sys.argv[1:] = [{command!r}, '--engine', 'simulated']; main()"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert said.returncode == ExitCode.USAGE
    assert "tensorboard is not installed: pip install 'tiw_fsm[tensorboard]', or take it out of trackers" in (
        said.stdout + said.stderr
    )
    assert not (root / "state/default/state.json").exists()
