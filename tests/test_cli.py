"""The command line as users and scripts meet it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.states import State

INSPECT = "import sys; from tiw_fsm.cli import app; app(sys.argv[1:], standalone_mode=False); "
ABSENT = "assert '{}' not in sys.modules"
DOES_WITHOUT = [
    *((command, "torch") for command in ("status", "graph", "check", "history", "verify", "report", "schedule cron")),
    ("status", "pydantic"),
    ("status", "numpy"),
    ("status", "starlette"),
    ("schedule cron", "pydantic"),
]
"""What a command that answers at once, and often, does not wait for."""


def inspect(root: Path, command: str, code: str) -> subprocess.CompletedProcess[str]:
    """A command, and ``code`` afterwards in its process."""
    arguments = [sys.executable, "-c", INSPECT + code, *command.split()]
    return subprocess.run(arguments, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize(("command", "package"), DOES_WITHOUT)
def test_commands_that_inspect_never_import_what_takes_long(simulation: Simulation, command: str, package: str) -> None:
    simulation.run()
    done = inspect(simulation.root, command, ABSENT.format(package))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", sorted({package for _, package in DOES_WITHOUT}))
def test_an_import_of_it_by_a_command_would_be_noticed(simulation: Simulation, package: str) -> None:
    done = inspect(simulation.root, "status", f"import {package}; {ABSENT.format(package)}")
    assert "AssertionError" in done.stderr


def test_a_terminal_that_lacks_letters_gets_its_answer_all_the_same(
    simulation: Simulation, tiw: Tiw, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation.run()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = tiw(simulation.root, "status")
    assert (done.returncode, "PASSED" in done.stdout, "█" in done.stdout) == (ExitCode.PASSED, True, False)


@pytest.fixture
def nobody() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def unread(root: Path, nobody: int, *arguments: str) -> int:
    """How a command ends whose words nobody reads."""
    command = [sys.executable, "-m", "tiw_fsm", *arguments]
    return subprocess.run(command, cwd=root, stdout=nobody, stderr=nobody, timeout=60).returncode


def test_a_run_whose_words_nobody_reads_goes_on_to_its_end(simulation: Simulation, nobody: int) -> None:
    """As when the `tee` behind it, or the journal it speaks to, is gone."""
    write_configs(simulation.root / "configs", {"loop": {"on_finish": "touch told"}})
    assert unread(simulation.root, nobody, "run", "--engine", "simulated") == ExitCode.PASSED
    assert simulation.state.state is State.PASSED
    assert (simulation.root / "told").exists()
    assert unread(simulation.root, nobody, "history") == ExitCode.PASSED


@pytest.mark.parametrize("reader", ["status", "history", "graph", "report", "verify", "schedule cron"])
def test_a_reader_of_a_run_that_never_began_says_how_to_begin_it_and_leaves_nothing(
    tmp_path: Path, tiw: Tiw, reader: str
) -> None:
    done = tiw(tmp_path, *reader.split(), "--run", "mine")
    assert done.returncode == ExitCode.PASSED
    assert "`tiw-fsm run --run mine` begins it" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_graph_marks_the_state_the_run_is_in(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    assert "class PASSED current" in tiw(simulation.root, "graph").stdout


def test_the_simulated_engine_runs_from_the_command_line(tmp_path: Path, tiw: Tiw) -> None:
    write_configs(tmp_path / "configs")
    done = tiw(tmp_path, "run", "--engine", "simulated")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert "PASSED: the inference gate passed" in done.stdout
    assert "skill" in done.stdout
    again = tiw(tmp_path, "run")
    assert (again.returncode, again.stdout) == (ExitCode.PASSED, done.stdout)


def test_on_finish_is_told_the_outcome_once_and_cannot_change_it(tmp_path: Path, tiw: Tiw) -> None:
    command = 'echo "$TIW_RUN $TIW_OUTCOME $TIW_EXIT_CODE $TIW_MSE" >> told; test -f "$TIW_REPORT"; exit 7'
    write_configs(tmp_path / "configs", {"loop": {"on_finish": command}})
    done = tiw(tmp_path, "run", "--engine", "simulated")
    assert done.returncode == ExitCode.PASSED
    assert "on_finish ended with 7" in done.stderr
    assert tiw(tmp_path, "run").returncode == ExitCode.PASSED
    assert (tmp_path / "told").read_text() == "default passed 0 0.01\n"
