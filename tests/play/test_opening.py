"""What `tiw-fsm play` says of what it cannot play, and of what it can; and that no run is disturbed by it."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch

from tests.support.configs import LENIENT, write_configs
from tests.support.native_runs import PASSING, make_root, start, wait_for_generation
from tests.support.playing import served
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tests.support.waiting import wait_for
from tiw_fsm.api import open_run
from tiw_fsm.errors import ExitCode
from tiw_fsm.play.keymap import KeyMap
from tiw_fsm.play.opening import Opened, all_the_same, open_game, warnings
from tiw_fsm.stages import Stage

WITHOUT = "import sys; sys.modules['{}'] = None; from tiw_fsm.__main__ import main; sys.argv[1:] = {}; main()"


def everything(root: Path) -> dict[str, tuple[str, int]]:
    """Every file of the run: its hash, and when it was last written."""
    files = [path for folder in ("state", "results") for path in (root / folder).rglob("*") if path.is_file()]
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


@contextmanager
def without(path: Path) -> Iterator[None]:
    """The file is gone within the block."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.replace(path)


def refused(tiw: Tiw, root: Path, *arguments: str, code: ExitCode = ExitCode.USAGE) -> str:
    """What is said, in one line, where nothing is changed."""
    before = everything(root)
    done = tiw(root, "play", "--no-browser", "--port", "0", *arguments, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert everything(root) == before
    return done.stderr


def test_a_run_that_has_not_begun(passed_root: Path, tiw: Tiw) -> None:
    assert "The run has not begun: `tiw-fsm run --run other` begins it." in refused(tiw, passed_root, "other")
    assert "cannot be the name of a folder" in refused(tiw, passed_root, "../default")
    assert not (passed_root / "state/other").exists()


def test_a_run_that_is_still_in_its_first_stage(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root")
    write_configs(root / "configs", {"loop": LENIENT, "video_tokenizer": {"n_updates": 100_000}})
    process = start(root, *PASSING)
    wait_for_generation(root, 4, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    told = "latent_actions, dynamics: no checkpoint yet; let the run go on until it has one of each"
    assert told in refused(tiw, root)


def test_a_simulated_run(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    said = refused(tiw, simulation.root)
    assert "run 'default' was simulated and has no model to play: begin one with" in said


def test_frames_that_are_gone(passed_root: Path, tiw: Tiw) -> None:
    with without(passed_root / "frames.h5"):
        assert "frames.h5: no such file; make it of" in refused(tiw, passed_root)


def test_frames_without_episodes_or_keys_are_played_all_the_same(passed_root: Path) -> None:
    path = passed_root / "frames.h5"
    with h5py.File(path) as file:
        rows = file["frames"][:]
    with without(path):
        with h5py.File(path, "w") as file:
            file["frames"] = rows
            file.attrs["stride"] = 1
        game = open_game(open_run(repo_root=passed_root), "cpu").game
    assert len(game.starts) == 48 - 2
    assert game.episodes == [0]


def test_a_checkpoint_that_was_altered(passed_root: Path, tiw: Tiw) -> None:
    state = open_run(repo_root=passed_root).state
    ref = state.stages[Stage.DYNAMICS].checkpoint
    assert ref is not None
    path = Path(ref.path) / "model_state_dict.pt"
    assert path.exists(), sorted(Path(ref.path).iterdir())
    content = path.read_bytes()
    with without(path):
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        said = refused(tiw, passed_root, code=ExitCode.DAMAGED)
    assert "Nothing was overwritten" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there(passed_root: Path, tiw: Tiw) -> None:
    assert "device cuda: this machine has no CUDA device" in refused(tiw, passed_root, "--device", "cuda")


def test_a_port_that_somebody_has(passed_root: Path, tiw: Tiw) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(tiw, passed_root, "--port", port)
    assert f"cannot listen at 127.0.0.1 port {port} (Address already in use): give another with --port" in said


def test_a_host_that_is_not_here(passed_root: Path, tiw: Tiw) -> None:
    assert "cannot listen at 192.0.2.1 port" in refused(tiw, passed_root, "--host", "192.0.2.1")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "websockets", "av"])
def test_an_extra_that_is_not_installed(passed_root: Path, package: str) -> None:
    code = WITHOUT.format(package, ["play", "--port", "0"])
    done = subprocess.run([sys.executable, "-c", code], cwd=passed_root, capture_output=True, text=True)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == f"the page needs {package}: pip install 'tiw_fsm[play]' (`--terminal` plays without)\n"


def test_no_terminal_to_play_in(passed_root: Path, tiw: Tiw) -> None:
    assert "--terminal wants a terminal to read keys from" in refused(tiw, passed_root, "--terminal")


def test_playing_changes_no_file_of_the_run(passed_root: Path) -> None:
    before = everything(passed_root)
    with served(passed_root) as server:
        assert server.end()[0] == 0
    assert everything(passed_root) == before


def test_a_run_at_work_is_played_and_goes_on(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    write_configs(
        root / "configs", {"loop": {**LENIENT, "checkpoint_interval": 20}, "dynamics": {"n_updates": 100_000}}
    )
    process = start(root, *PASSING)
    try:
        folder = root / "state/default/state.json"
        wait_for("dynamics", lambda: folder.exists() and "dynamics_step_" in folder.read_text(), 120)
        run = open_run(repo_root=root)
        opened = open_game(run, "cpu")
        done, target = opened.updates["dynamics"]
        assert 0 < done < target == 100_000
        assert opened.verdict == "The inference gate has not judged it yet; the run is in TRAIN_DYNAMICS."
        before = run.state.generation
        wait_for("the run to go on", lambda: run.state.generation > before + 2, 60)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_model_that_its_gate_refused_is_played_and_the_page_says_so(opened: Opened, passed_root: Path) -> None:
    assert opened.verdict.startswith("Inference gate, attempt 1: passed (MSE 0.")
    assert opened.verdict.endswith("at most 0.9 wanted).")


def test_what_makes_no_difference_is_said_plainly(opened: Opened) -> None:
    game, map_of = opened.game, KeyMap({"left": 1, "right": 1}, "keys", [0.5, 0.5, 0, 0], [""] * 4)
    assert not all_the_same(game)
    assert warnings(game, map_of) == [
        "Some keys press the same action, because the model does not tell them apart: left, right."
    ]
    collapsed = KeyMap({}, "nothing", [1.0, 0, 0, 0], [""] * 4)
    assert [said.partition(":")[0] for said in warnings(game, collapsed)] == [
        "The model infers one and the same action on all held-out clips",
        "Neither recorded keys nor motion say what the arrows should press",
    ]
    without_actions = replace(game, model=replace(game.model, use_actions=False))
    assert all_the_same(without_actions)
    assert warnings(without_actions, map_of)[0].startswith("These dynamics were trained without actions")
