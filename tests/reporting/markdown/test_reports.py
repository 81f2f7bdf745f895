"""The three reports and the loss curves, written by runs on the simulated engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from tests.reporting.markdown.reading import KINDS, report, rows, section
from tests.support.configs import write_configs
from tests.support.eventful import EVENTFUL, GOOD, REJECTED, die_in_dynamics
from tests.support.simulation import Simulation
from tiw_fsm.config.settings import load_settings
from tiw_fsm.engines import registry
from tiw_fsm.engines.protocol import InferRequest, Progress
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting import advice, curves, journal
from tiw_fsm.reporting.html.loss import figure
from tiw_fsm.reporting.markdown import reports, runtime
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths


class DetailedEngine(SimulatedEngine):
    """Adds the figures that only a real rollout has."""

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        return (
            super()
            .infer(request, progress)
            .evolve(
                mse_per_step=[0.0111, 0.0222],
                baselines_per_step={"copy_last": [0.0333, 0.0444]},
                mse_with_context=0.00777,
                mse_random_actions=0.0888,
            )
        )


def links(simulation: Simulation, text: str) -> list[Path]:
    folder = simulation.root / "docs" / "action"
    return [folder / unquote(target) for target in re.findall(r"\]\(([^)]+)\)", text)]


@pytest.fixture
def eventful(simulation: Simulation) -> Simulation:
    assert simulation.run(EVENTFUL) == ExitCode.PASSED
    return simulation


def test_the_training_report_names_every_gate_with_its_decision_and_metrics(eventful: Simulation) -> None:
    text = report(eventful, "auto-training-loop-report")
    for stage in Stage:
        told = journal.chunk_gates(eventful.store.journal(), stage)
        expected = [(str(g["completed"]), str(g["attempt"]), g["decision"], g["reason"]) for g in told]
        shown = rows(section(section(text, stage), "Gates"))
        assert [(r["updates"], r["attempt"], r["decision"], r["reason"]) for r in shown] == expected
        finals = [float(r["final"]) for r in rows(section(section(text, stage), "Metrics at the gates"))]
        assert finals == [g["metrics"]["final"] for g in told]


def test_a_rejected_gate_shows_its_resume_point_and_the_patch_it_applied(eventful: Simulation) -> None:
    gates = rows(section(section(report(eventful, "auto-training-loop-report"), "video_tokenizer"), "Gates"))
    (rejected,) = (row for row in gates if row["decision"] == "retune")
    assert rejected["updates"] == "20"
    assert "learning_rate 0.003 → 0.0015" in rejected["config patch applied"]
    assert "gradient_accumulation_steps 1 → 2" in rejected["config patch applied"]
    assert rejected["resumes from"] == f"`{Path(journal.chunk_gates(eventful.store.journal())[0]['checkpoint']).name}`"
    assert gates[0]["config patch applied"] == "none"
    assert "learning_rate 0.003 → 0.0015" in section(
        report(eventful, "train-to-inference-retrospective"), "Rejected chunks"
    )


def test_a_first_chunk_that_is_rejected_resumes_from_the_beginning(simulation: Simulation) -> None:
    simulation.run(Script(losses={Stage.VIDEO: [REJECTED, GOOD]}))
    gates = rows(section(section(report(simulation, "auto-training-loop-report"), "video_tokenizer"), "Gates"))
    assert gates[0]["resumes from"] == "the beginning"


def test_a_gate_without_a_valid_checkpoint_is_told_as_restart_stage(simulation: Simulation) -> None:
    engine, asked = SimulatedEngine(), iter(["torn", "torn"])
    engine.problems = lambda *arguments: list(filter(None, [next(asked, "")]))  # type: ignore[method-assign]
    simulation.run_with(engine)
    gates = rows(section(section(report(simulation, "auto-training-loop-report"), "video_tokenizer"), "Gates"))
    assert (gates[0]["decision"], gates[0]["resumes from"]) == ("restart_stage", "the beginning")
    assert gates[0]["reason"] == "no valid checkpoint: torn"


def test_the_runtime_report_has_every_attempt_and_condition(eventful: Simulation) -> None:
    text = report(eventful, "train-to-inference-report")
    attempts = journal.attempts(eventful.store.journal())
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    for attempt in attempts:
        conditions = {row["condition"]: row["met"] for row in rows(section(text, f"Attempt {attempt.number}"))}
        assert conditions == {name: "yes" if held else "**no**" for name, held in attempt.conditions.items()}


def test_the_runtime_report_has_every_training_call_and_event(eventful: Simulation) -> None:
    text = report(eventful, "train-to-inference-report")
    calls = rows(section(text, "Training calls"))
    video = [(c["from update"], c["to update"], c["decision"]) for c in calls if c["stage"] == "video_tokenizer"]
    assert video == [("0", "10", "continue"), ("10", "20", "retune"), ("10", "20", "continue")]
    assert [c["process deaths"] for c in calls if c["stage"] != "video_tokenizer"] == ["1", "1", "0", "0", "0"]
    events = {row["event"]: row for row in rows(section(text, "Events"))}
    assert "scripted: latent_actions crash" in events["crashed"]["what"]
    assert events["out_of_memory"]["config patch applied"] == "batch_size_per_gpu 4 → 2"


def test_an_interrupted_run_tells_of_it(simulation: Simulation) -> None:
    die_in_dynamics(simulation)
    simulation.run()
    events = rows(section(report(simulation, "train-to-inference-report"), "Events"))
    assert [(row["event"], row["where"]) for row in events] == [("started", "TRAIN_DYNAMICS")]
    assert "had died" in events[0]["what"]


def test_each_retune_says_what_it_changed_and_what_it_did(eventful: Simulation) -> None:
    first, second = rows(section(report(eventful, "train-to-inference-retrospective"), "Retunes"))
    assert (first["MSE"], second["MSE"]) == ("0.25 → 0.0625", "0.0625 → 0.0123456")
    assert (first["final loss"], second["final loss"]) == ("2 → 1.75", "1.75 → 1.5")
    assert first["what it changed"] == "learning_rate 0.003 → 0.0005, target 20 → 30"
    assert second["what it changed"] == "learning_rate 0.0005 → 0.00035, target 30 → 40"


def test_figures_equal_those_in_the_file_they_link_to(simulation: Simulation) -> None:
    simulation.run_with(DetailedEngine(Script(mse=[0.0123456])))
    attempt = section(report(simulation, "train-to-inference-report"), "Attempt 1")
    (path,) = (path for path in links(simulation, attempt) if path.name == "attempt_1.json")
    result = json.loads(path.read_text())
    figures = re.findall(r"\| ([0-9.e-]+) \| ([^|]*) \| `(\w+)` \|", attempt)
    assert {key: float(value) for value, _, key in figures} == {
        key: result[key] for key in runtime.meanings_of_figures() if result.get(key) is not None
    }
    assert {"mse", "mse_with_context", "mse_random_actions", "tokenizer_mse"} <= {key for *_, key in figures}
    assert {key: within for _, within, key in figures if within} == {"delta_psnr": "6 to 6"}
    steps = rows(attempt[attempt.index("| generated frame") :])
    assert [float(row["MSE"]) for row in steps] == result["mse_per_step"]
    assert [float(row["copy_last"]) for row in steps] == result["baselines_per_step"]["copy_last"]


def test_final_losses_at_the_gates_equal_those_in_the_metrics_file(eventful: Simulation) -> None:
    text = section(report(eventful, "auto-training-loop-report"), "dynamics")
    (path,) = {path for path in links(eventful, text) if path.name == "metrics.jsonl"}
    losses = {(r["attempt"], r["update"] + 1): r["loss"] for r in map(json.loads, path.read_text().splitlines())}
    for row in rows(section(text, "Metrics at the gates")):
        assert losses[int(row["attempt"]), int(row["updates"])] == float(row["final"])


@pytest.mark.parametrize("kind", KINDS)
def test_links_are_relative_and_lead_to_files(eventful: Simulation, kind: str) -> None:
    text = report(eventful, kind)
    found = links(eventful, text)
    assert len(found) > 5
    assert [path for path in found if not path.exists()] == []
    assert not re.search(r"\]\((/|\w+:)", text)
    assert re.search(r"!\[Loss curves\]\(train-to-inference-curves-\w+\.svg\)", text)


def test_links_work_in_a_folder_whose_name_needs_quoting(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path / "my models (new)")
    write_configs(simulation.root / "configs")
    simulation.run(run_root=str(tmp_path / "my results (new)"))
    found = [path for kind in KINDS for path in links(simulation, report(simulation, kind))]
    assert any("my results (new)" in str(path.resolve()) for path in found)
    assert [path for path in found if not path.exists()] == []


def test_attempts_pictures_are_embedded(eventful: Simulation) -> None:
    runtime, looking_back = (report(eventful, kind) for kind in KINDS[:2])
    assert len(re.findall(r"!\[Attempt \d, ground truth against prediction\]", runtime)) == 3
    (embedded,) = re.findall(r"!\[Best attempt \(3\)[^\]]*\]\(([^)]+)\)", looking_back)
    best = eventful.state.inference.best_attempt
    assert best is not None
    assert best.png is not None
    assert (eventful.root / "docs" / "action" / embedded).resolve() == Path(best.png).resolve()


BUDGETS: dict[str, tuple[State, dict[str, Any]]] = {
    "max_train_retries": (State.TRAIN_VIDEO, {"losses": {Stage.VIDEO: [REJECTED]}}),
    "max_inference_retries": (State.GATE, {"mse": [0.5]}),
    "max_crashes": (State.TRAIN_LATENT, {"crashes": {Stage.LATENT: 99}}),
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_failed_run_says_which_budget_and_what_to_try(simulation: Simulation, budget: str) -> None:
    state, script = BUDGETS[budget]
    assert simulation.run(Script(**script), **{budget: 1}) == ExitCode.NOT_PASSED
    text = report(simulation, "train-to-inference-retrospective")
    why = section(text, "Why it failed")
    assert f"is used up in {state}" in why
    assert f"`{budget}` allows 1" in why
    assert f"--{budget.replace('_', '-')} above 1" in section(text, "What to try next")
    assert any(f"--{budget.replace('_', '-')} above 1" in step for step in advice.next_steps(simulation.state))


def test_starts_without_progress_are_told_by_their_own_budget(simulation: Simulation) -> None:
    die_in_dynamics(simulation)
    assert simulation.run(max_stalled_starts=0) == ExitCode.NOT_PASSED
    text = report(simulation, "train-to-inference-retrospective")
    assert "over 0 starts in a row without progress" in section(text, "Why it failed")
    assert "--max-stalled-starts above 0" in section(text, "What to try next")
    assert "1 starts in a row" in section(report(simulation, "train-to-inference-report"), "Events")


def test_a_crashed_inference_is_told_by_its_own_budget(simulation: Simulation) -> None:
    simulation.run(Script(inference_crashes=99), max_crashes=2)
    text = report(simulation, "train-to-inference-retrospective")
    assert "2 process deaths in a row, and `max_crashes` allows 2" in section(text, "Why it failed")
    assert "scripted: inference crash" in section(report(simulation, "train-to-inference-report"), "Events")


def test_a_failure_in_training_gives_the_last_gates_reason(simulation: Simulation) -> None:
    simulation.run(Script(losses={Stage.VIDEO: [REJECTED]}), max_train_retries=1)
    why = section(report(simulation, "train-to-inference-retrospective"), "Why it failed")
    assert "final 0.5 > 0.02" in why
    assert "never came to the inference gate" in why


def test_a_loss_that_is_not_finite_and_a_stage_without_metrics_can_be_reported(simulation: Simulation) -> None:
    simulation.run(Script(losses={Stage.VIDEO: [None]}), max_train_retries=0)
    text = report(simulation, "auto-training-loop-report")
    assert "is not finite" in section(section(text, "video_tokenizer"), "Gates")
    assert "None." in section(section(text, "dynamics"), "Gates")


def test_unmet_conditions_are_named(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.035]), max_inference_retries=0)
    text = report(simulation, "train-to-inference-retrospective")
    assert "not met: mse_within_max, skill_above_min, beats_copy_last" in section(text, "Why it failed")


def test_a_tokenizer_floor_above_the_maximum_is_said_everywhere(simulation: Simulation) -> None:
    baselines = {"copy_last": 0.3, "mean_frame": 0.4, "blurred_last": 0.2}
    simulation.run(Script(mse=[0.5], baselines=baselines), max_inference_retries=0)
    text = report(simulation, "train-to-inference-retrospective")
    floor = "MSE 0.25, above the maximum of 0.03, so no dynamics can pass"
    assert floor in advice.verdict_line(simulation.state.inference.attempts[-1].model_dump())
    assert floor in section(text, "Why it failed")
    assert floor in section(text, "What to try next")


def test_a_tokenizer_floor_above_a_baseline_that_must_be_beaten_is_said(simulation: Simulation) -> None:
    baselines = {"copy_last": 0.02, "mean_frame": 0.04, "blurred_last": 0.02}
    simulation.run(Script(mse=[0.05], baselines=baselines), max_inference_retries=0)
    advice = section(report(simulation, "train-to-inference-retrospective"), "What to try next")
    assert "MSE 0.025, above copy_last of 0.02, so no dynamics can pass" in advice
    assert "train the tokenizer longer" in advice
    assert "train dynamics longer" not in advice, "that is of no use yet"


def test_a_tokenizer_floor_below_the_maximum_is_no_excuse(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.035]), max_inference_retries=0)
    assert "no dynamics can pass" not in report(simulation, "train-to-inference-retrospective")


def test_a_pass_that_is_trivial_and_allow_trivial_are_said(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.029], baselines={"copy_last": 0.02, "mean_frame": 0.02}), allow_trivial=True)
    text = report(simulation, "train-to-inference-retrospective")
    assert "passed the plain gate; no better than copying" in section(text, "Why it passed")
    assert "--allow-trivial" in section(text, "Why it passed")
    assert "passed the plain gate; no better than copying" in section(text, "What to try next")
    assert [row["judged by"] for row in rows(section(text, "Inference attempts"))] == ["the plain gate"]


def test_a_pass_with_skill_has_no_such_note(eventful: Simulation) -> None:
    text = report(eventful, "train-to-inference-retrospective")
    assert "no better than copying" not in text
    assert "--allow-trivial" not in text
    assert "nothing: the model passed with skill" in section(text, "What to try next")


def test_the_alignment_table_is_there(eventful: Simulation) -> None:
    table = rows(section(report(eventful, "train-to-inference-retrospective"), "Config alignment"))
    assert ("embed_dim", "24") in [(row["key"], row["value"]) for row in table]
    assert all(re.search(r"\.yaml:\d+", row["where"]) for row in table)


def test_stretches_that_are_not_bitwise_are_said(simulation: Simulation) -> None:
    die_in_dynamics(simulation)
    simulation.run(Script(device="another"))
    run = simulation.state
    assert run.inexact
    for kind in KINDS:
        assert all(i.what in report(simulation, kind) for i in run.inexact)
        assert "no longer bitwise" in report(simulation, kind)


def rewrite(simulation: Simulation, run: RunState) -> list[Path]:
    settings = load_settings(
        {"engine": "simulated"}, run="default", repo_root=simulation.root, engine=registry.find("simulated")
    )
    paths = RunPaths(Path(settings.run_root), Path(settings.repo_root))
    return reports.write(run, simulation.store.journal(), settings, paths, simulation.store.paths)


def test_writing_again_replaces_and_gives_the_same_bytes(eventful: Simulation) -> None:
    folder = eventful.root / "docs" / "action"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rewrite(eventful, eventful.state.evolve(updated_at="2031-01-01T00:00:00Z"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(before) == 4


SVG = "{http://www.w3.org/2000/svg}"


def test_the_curves_are_an_svg_with_a_panel_per_trained_stage(eventful: Simulation) -> None:
    (path,) = (eventful.root / "docs" / "action").glob("train-to-inference-curves-*.svg")
    drawing = ElementTree.parse(path).getroot()
    panels = drawing.findall(f"{SVG}g[@class='panel']")
    assert [panel.get("data-stage") for panel in panels] == list(Stage)
    for panel in panels:
        curve = panel.find(f".//{SVG}polyline[@class='line loss kept']")
        assert curve is not None
        assert len(curve.get("points", "").split()) > 2
    metrics = RunPaths(Path(eventful.root / "results" / "default"), eventful.root).metrics
    read = curves.read(metrics(Stage.VIDEO).read_bytes().splitlines())
    one = figure("default", {Stage.VIDEO: curves.Losses(read)}, {})
    assert one is not None
    alone = ElementTree.fromstring(one)
    (width, height), (all_width, all_height) = (svg.attrib["viewBox"].split()[2:] for svg in (alone, drawing))
    assert (width, 3 * int(height)) == (all_width, int(all_height))
    assert "prefers-color-scheme:dark" in path.read_text()
    assert not re.search(r"https?:|url\(|@import", path.read_text().replace(SVG[1:-1], ""))


def test_status_does_not_wait_for_a_drawing_library() -> None:
    code = "import sys, tiw_fsm.reporting.status; print([m for m in ('jinja2', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
