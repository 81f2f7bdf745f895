"""The Python API: the examples of its page run, and what they show is what the run did."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiw_fsm
from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.storage.store import Store

PAGE = Path(__file__).parents[1] / "docs/python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def passed(root: Path, tiw: Tiw) -> Path:
    """The working root of a native run that has passed."""
    write_configs(root / "configs", {"loop": LENIENT})
    write_frames(root / "frames.h5")
    assert tiw(root, "run", "--max-mse", "0.9", "--allow-trivial").returncode == 0
    return root


def test_the_examples_of_the_page_run(passed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(passed)
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, str(PAGE), "exec"), names)
    run, walked, world = names["run"], names["walked"], names["world"]
    assert isinstance(world, tiw_fsm.World)
    assert isinstance(run, tiw_fsm.Run)
    assert isinstance(walked, tiw_fsm.Run)
    assert run.state.outcome == "passed"
    assert (walked.state.outcome, walked.state.retunes) == ("passed", 1)
    events = [step["event"] for step in walked.history()]
    assert {"rejected", "out_of_memory", "gate_failed", "retuned", "gate_passed"} <= set(events)


def test_a_looked_at_run_tells_what_the_command_line_tells(simulation: Simulation) -> None:
    simulation.run()
    run = tiw_fsm.open_run(repo_root=simulation.root)
    assert run.state == simulation.state
    assert run.status()["state"] == "PASSED"
    assert [step["event"] for step in run.history()] == simulation.events()
    assert [attempt.passed for attempt in run.verdicts()] == [True]
    assert {gate["stage"] for gate in run.gates(tiw_fsm.Stage.DYNAMICS)} == {"dynamics"}


class Behind(Store):
    """Whose first look is at what an earlier start had committed."""

    looked = False

    def load(self) -> RunState | None:
        found = super().load()
        assert found
        if self.looked:
            return found
        self.looked = True
        return found.evolve(generation=found.generation - 1, config_sha256="0" * 64)


def test_a_world_its_state_and_its_settings_are_of_one_start(passed_root: Path) -> None:
    run = tiw_fsm.Run(Behind(passed_root / "state/default"))
    state, settings, _ = run.newest_world()
    assert state == run.state
    assert settings == run.settings


def test_a_run_that_has_not_begun_and_one_without_models_are_refused(simulation: Simulation) -> None:
    with pytest.raises(tiw_fsm.TiwFsmError, match="has not begun"):
        tiw_fsm.open_run("other", repo_root=simulation.root)
    simulation.run(tiw_fsm.Script(crashes={tiw_fsm.Stage.LATENT: 99}))
    with pytest.raises(tiw_fsm.TiwFsmError, match="latent_actions, dynamics: no checkpoint yet"):
        tiw_fsm.open_run(repo_root=simulation.root).world()


def test_a_configuration_that_was_altered_is_not_taken_for_that_of_the_run(simulation: Simulation) -> None:
    simulation.run()
    run = tiw_fsm.open_run(repo_root=simulation.root)
    assert run.inference.generation_steps == 4
    config = run.store.paths.config
    config.write_text(config.read_text().replace('"generation_steps": 4', '"generation_steps": 5'))
    with pytest.raises(tiw_fsm.TiwFsmError, match="not the configuration of the last start"):
        _ = run.inference


def test_all_names_are_there_and_importing_them_waits_until_they_are_used() -> None:
    for name in tiw_fsm.__all__:
        assert getattr(tiw_fsm, name)
    asked = "import sys, tiw_fsm; sys.exit(any(m in sys.modules for m in ('torch', 'pydantic', 'tiw_fsm.api')))"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
