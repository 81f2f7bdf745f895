"""What the reports tell of the worlds that were judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reporting.markdown.reading import KINDS, report, rows, section
from tests.reporting.worlds import HintedEngine, aged_journal, aged_state
from tests.support.eventful import EVENTFUL
from tests.support.simulation import Simulation
from tiw_fsm.config.settings import load_settings
from tiw_fsm.engines import registry
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting.markdown import reports
from tiw_fsm.storage.paths import RunPaths


@pytest.fixture
def eventful(simulation: Simulation) -> Simulation:
    assert simulation.run(EVENTFUL) == ExitCode.PASSED
    return simulation


def test_the_retrospective_has_the_figures_of_every_attempt(eventful: Simulation) -> None:
    told = rows(section(report(eventful, "train-to-inference-retrospective"), "Inference attempts"))
    assert [row["attempt"] for row in told] == ["1", "2", "3"]
    for row in told:
        assert (row["ΔPSNR"], row["motion"], row["actions"]) == ("6.0 dB [6.0, 6.0]", "1.00", "4 of 4")
        assert (row["unseen"], row["judged by"]) == ("50 %", "the gate of a world")


def test_skill_and_control_of_each_frame_are_in_the_runtime_report(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.01], delta_psnr=[3.25]))
    attempt = section(report(simulation, "train-to-inference-report"), "Attempt 1")
    told = rows(attempt[attempt.index("| generated frame") :])
    assert [(row["skill"], row["ΔPSNR, dB"]) for row in told] == [("0.5", "3.25")] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_used_recorded_keys_says_so_in_every_report(simulation: Simulation, kind: str) -> None:
    simulation.run_with(HintedEngine())
    assert "- recorded keys: a hint to the latent actions in training" in report(simulation, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_recorded_keys_does_not_speak_of_them(simulation: Simulation, kind: str) -> None:
    simulation.run()
    assert "recorded keys" not in report(simulation, kind)


def test_reports_of_a_run_that_an_older_version_judged_say_by_which_gate(eventful: Simulation) -> None:
    lines = aged_journal(eventful.store.journal())
    settings = load_settings(
        {"engine": "simulated"}, run="default", repo_root=eventful.root, engine=registry.find("simulated")
    )
    paths = RunPaths(Path(settings.run_root), Path(settings.repo_root))
    run = RunState.model_validate_json(json.dumps(aged_state(eventful.state.model_dump(mode="json"))))
    reports.write(run, lines, settings, paths, eventful.store.paths)
    text = report(eventful, "train-to-inference-retrospective")
    assert "; passed the gate of MSE and baselines." in section(text, "Why it passed")
    assert {row["judged by"] for row in rows(section(text, "Inference attempts"))} == {"the gate of MSE and baselines"}
    assert "| generated frame |" in report(eventful, "train-to-inference-report")
