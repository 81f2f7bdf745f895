"""The fingerprint is the place that decides the bits: nothing in it changes unnoticed under a run that has begun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiw_fsm
from tests.support.eventful import die_in_dynamics
from tests.support.simulation import Simulation
from tiw_fsm.errors import ExitCode
from tiw_fsm.tinyworlds import determinism

PACKAGE = Path(tiw_fsm.__path__[0])
SWITCHES = {
    "ENVIRONMENT": ('":4096:8"', '":16:8"'),
    "DETERMINISTIC_ALGORITHMS": ("DETERMINISTIC_ALGORITHMS = True", "DETERMINISTIC_ALGORITHMS = False"),
    "MEMORY_EFFICIENT_ATTENTION": ("MEMORY_EFFICIENT_ATTENTION = False", "MEMORY_EFFICIENT_ATTENTION = True"),
    "threads": ("torch.set_num_threads(threads)", "torch.set_num_threads(2 * threads)"),
    "TensorFloat-32 in products": ("matmul.allow_tf32 = allowed", "matmul.allow_tf32 = True"),
    "TensorFloat-32 in convolutions": ("cudnn.allow_tf32 = allowed", "cudnn.allow_tf32 = True"),
}
"""Each switch that makes results come out the same again: its line, and what it might be changed to."""


@pytest.fixture
def begun(simulation: Simulation) -> Simulation:
    """A run that died in the middle of its training."""
    die_in_dynamics(simulation)
    return simulation


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, to change."""
    copied = tmp_path_factory.mktemp("changed") / "tiw_fsm"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    return copied


def go_on(run: Simulation, package: Path) -> subprocess.CompletedProcess[str]:
    """The run's next start, with another package in the place of ours."""
    return subprocess.run(
        [sys.executable, "-m", "tiw_fsm", "run"],
        cwd=run.root,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )


def assert_refused(run: Simulation, package: Path) -> None:
    generation = run.state.generation
    done = go_on(run, package)
    assert done.returncode == ExitCode.CHANGED, done.stderr
    assert "the code of tiw_fsm: " in done.stderr
    assert run.state.generation == generation


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_of_determinism_that_is_thrown_is_noticed(begun: Simulation, copy: Path, switch: str) -> None:
    path = copy / "tinyworlds/determinism.py"
    before, (old, new) = path.read_text(), SWITCHES[switch]
    assert before.count(old) == 1
    path.write_text(before.replace(old, new))
    assert_refused(begun, copy)


def test_every_constant_among_the_switches_is_tried() -> None:
    assert {name for name in vars(determinism) if name.isupper()} <= SWITCHES.keys()


@pytest.mark.parametrize("name", sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("tinyworlds/**/*.py")))
def test_a_file_of_tinyworlds_that_is_touched_is_noticed(begun: Simulation, copy: Path, name: str) -> None:
    with open(copy / name, "a") as file:
        file.write("\n# touched\n")
    assert_refused(begun, copy)


@pytest.mark.parametrize("name", ["new.py", "new/__init__.py"])
def test_a_file_that_is_new_in_tinyworlds_is_noticed(begun: Simulation, copy: Path, name: str) -> None:
    (copy / "tinyworlds" / name).parent.mkdir(exist_ok=True)
    (copy / "tinyworlds" / name).write_text("")
    assert_refused(begun, copy)


def test_a_file_that_is_gone_from_tinyworlds_is_noticed(begun: Simulation, copy: Path) -> None:
    (copy / "tinyworlds/rollout.py").unlink()
    assert_refused(begun, copy)


def test_another_version_of_the_package_is_noticed(begun: Simulation, copy: Path) -> None:
    (copy / "version.py").write_text('__version__ = "99"\n')
    assert_refused(begun, copy)


@pytest.mark.parametrize("name", [None, "cli/looking.py", "reporting/history.py"])
def test_a_copy_goes_on_and_so_does_one_changed_where_no_bits_are_decided(
    begun: Simulation, copy: Path, name: str | None
) -> None:
    if name:
        with open(copy / name, "a") as file:
            file.write("\n# touched\n")
    done = go_on(begun, copy)
    assert done.returncode == ExitCode.PASSED, done.stderr
