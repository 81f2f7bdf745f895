"""The machine, walked on the simulated engine: every path a run can take, in milliseconds and without torch."""

from __future__ import annotations

import contextlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.configs import write_configs
from tests.support.eventful import die_in_dynamics
from tests.support.simulation import Simulation
from tiw_fsm.engines.protocol import Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import DiskRefused, EngineCrashed, ExitCode, RunChanged, StateDamaged, UsageProblem
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.machine import Machine
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.fsm.table import TABLE, always
from tiw_fsm.reporting.mermaid import mermaid
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage.state_folder import migrated
from tiw_fsm.storage.store import Store, fold

REJECTED = 0.5
GOOD = 0.005


def test_every_state_and_event_ends_in_a_row_without_a_guard_or_is_reopening() -> None:
    """No event can fall through the table: the last row for a state and event always applies."""
    pairs = {(row.source, row.event) for row in TABLE}
    for pair in pairs:
        last = [row for row in TABLE if (row.source, row.event) == pair][-1]
        if pair[1] is not Event.REOPENED:
            assert last.guard is always, pair


def test_every_state_can_be_reached_and_every_working_state_can_be_left() -> None:
    reached = {State.ALIGN}
    while more := {row.target for row in TABLE if row.source in reached} - reached:
        reached |= more
    assert reached == set(State)
    assert {row.source for row in TABLE} >= set(State) - {State.PASSED}


def test_the_library_has_no_transition_that_the_table_has_not(simulation: Simulation) -> None:
    """`transitions` adds to_<state> triggers unless told not to; an unknown event must not move anything."""
    simulation.run()
    run, machine = simulation.state, Machine()
    for trigger in StrEnum("Trigger", {f"to_{state}": f"to_{state}" for state in State}):
        with pytest.raises(AttributeError, match=trigger):
            machine.step(run, trigger)  # type: ignore[arg-type]


def test_graph_names_every_state_and_marks_the_current_one() -> None:
    text = mermaid(State.INFER)
    assert all(state in text for state in State)
    assert "class INFER current" in text


def test_a_run_without_trouble_goes_straight_to_passed(simulation: Simulation) -> None:
    assert simulation.run() == ExitCode.PASSED
    run = simulation.state
    assert (run.state, run.outcome, run.interruptions) == (State.PASSED, "passed", 0)
    assert {stage: p.completed for stage, p in run.stages.items()} == {
        Stage.VIDEO: 20,
        Stage.LATENT: 10,
        Stage.DYNAMICS: 20,
    }
    assert all(p.checkpoint == p.accepted and p.checkpoint is not None for p in run.stages.values())
    assert len(run.reports) == 3
    assert all(Path(path).is_file() for path in run.reports)


def test_a_passed_run_has_nothing_left_to_do(simulation: Simulation) -> None:
    simulation.run()
    generation = simulation.state.generation
    assert simulation.run() == ExitCode.PASSED
    assert simulation.state.generation == generation


def test_the_folded_journal_is_the_state(simulation: Simulation) -> None:
    simulation.run(Script(losses={Stage.VIDEO: [REJECTED, GOOD]}, mse=[0.5, 0.01]))
    told = migrated(fold(simulation.store.journal()), simulation.store.paths.state)
    assert told == simulation.state.model_dump(mode="json", exclude_none=True)


def test_a_rejected_chunk_is_repeated_from_the_accepted_checkpoint_one_step_down_the_ladder(
    simulation: Simulation,
) -> None:
    script = Script(losses={Stage.VIDEO: [GOOD, REJECTED, GOOD]})
    assert simulation.run(script) == ExitCode.PASSED
    tuning = simulation.state.stages[Stage.VIDEO].tuning
    assert (tuning.learning_rate, tuning.gradient_accumulation_steps) == (0.0015, 2)
    assert simulation.state.stages[Stage.VIDEO].retries == 0, "an accepted chunk resets the retries"
    rejected = next(line for line in simulation.store.journal() if line["event"] == "rejected")
    assert (rejected["facts"]["completed"], rejected["changes"]["stages"]["video_tokenizer"]["completed"]) == (20, 10)


def test_a_stage_that_never_passes_ends_in_a_report_after_its_five_retries(simulation: Simulation) -> None:
    script = Script(losses={Stage.LATENT: [REJECTED]})
    assert simulation.run(script) == ExitCode.NOT_PASSED
    assert simulation.events().count("rejected") == 6
    run = simulation.state
    assert (run.state, run.failed_in) == (State.FAILED, State.TRAIN_LATENT)
    assert len(run.reports) == 3


def test_a_loss_that_is_not_finite_is_a_rejected_chunk_and_its_checkpoint_is_not_kept(simulation: Simulation) -> None:
    script = Script(losses={Stage.VIDEO: [None, GOOD]})
    assert simulation.run(script) == ExitCode.PASSED
    first = next(line for line in simulation.store.journal() if line["event"] in ("saved", "rejected"))
    assert first["event"] == "rejected"
    assert "not finite" in first["facts"]["reason"]


def test_crashes_are_counted_apart_from_retries_and_a_checkpoint_resets_them(simulation: Simulation) -> None:
    assert simulation.run(Script(crashes={Stage.VIDEO: 5})) == ExitCode.PASSED
    progress = simulation.state.stages[Stage.VIDEO]
    assert (progress.crashes, progress.retries) == (0, 0)


def test_more_crashes_than_the_budget_end_in_a_report(simulation: Simulation) -> None:
    assert simulation.run(Script(crashes={Stage.VIDEO: 6})) == ExitCode.NOT_PASSED
    assert simulation.state.failed_in is State.TRAIN_VIDEO


def test_out_of_memory_halves_the_batch_and_so_does_a_second_crash_at_the_same_update(simulation: Simulation) -> None:
    simulation.run(Script(out_of_memory={Stage.VIDEO: 1}, crashes={Stage.DYNAMICS: 2}))
    stages = simulation.state.stages
    assert stages[Stage.VIDEO].tuning.batch_size_per_gpu == 2
    assert stages[Stage.DYNAMICS].tuning.batch_size_per_gpu == 2
    assert stages[Stage.LATENT].tuning.batch_size_per_gpu == 4


@pytest.mark.parametrize(("kills", "batch"), [(4, 4), (5, 2)])
def test_kills_from_outside_leave_the_batch_until_the_crash_budget_is_nearly_used_up(
    simulation: Simulation, kills: int, batch: int
) -> None:
    """Five are allowed: the fifth is the last that the run survives."""
    assert simulation.run(Script(killed={Stage.VIDEO: kills})) == ExitCode.PASSED
    assert simulation.state.stages[Stage.VIDEO].tuning.batch_size_per_gpu == batch
    assert [facts["killed_by"] for facts in simulation.journal("killed")] == ["outside"] * kills


def test_a_kill_and_a_crash_at_the_same_update_are_not_two_crashes(simulation: Simulation) -> None:
    assert simulation.run(Script(killed={Stage.VIDEO: 1}, crashes={Stage.VIDEO: 1})) == ExitCode.PASSED
    assert simulation.state.stages[Stage.VIDEO].tuning.batch_size_per_gpu == 4


def test_a_budget_of_two_deaths_is_too_small_to_learn_from_kills(simulation: Simulation) -> None:
    assert simulation.run(Script(killed={Stage.VIDEO: 2}), max_crashes=2) == ExitCode.PASSED
    assert simulation.state.stages[Stage.VIDEO].tuning.batch_size_per_gpu == 4


def test_a_run_that_ends_for_want_of_memory_says_so_and_what_to_lower(simulation: Simulation) -> None:
    assert simulation.run(Script(out_of_memory={Stage.VIDEO: 6})) == ExitCode.NOT_PASSED
    assert "memory did not suffice; lower batch_size_per_gpu" in (simulation.state.reason or "")


def test_a_crash_before_and_one_after_a_checkpoint_and_a_rejected_chunk_leave_the_batch(tmp_path: Path) -> None:
    """The repeated chunk begins where the first crash was, but a checkpoint lay between: it is not the same crash."""
    write_configs(tmp_path / "configs")
    simulation = Simulation(tmp_path)

    class DiesOnce(SimulatedEngine):
        """At the first request of each attempt at the second chunk."""

        died: set[int] = set()

        def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
            if request.stage is Stage.VIDEO and request.start == 10 and request.attempt not in self.died:
                self.died.add(request.attempt)
                raise EngineCrashed("killed")
            return super().train(request, progress)

    losses = {Stage.VIDEO: [GOOD, REJECTED, GOOD]}
    assert simulation.run_with(DiesOnce(Script(losses=losses))) == ExitCode.PASSED
    assert simulation.events().count("crashed") == 2
    assert simulation.state.stages[Stage.VIDEO].tuning.batch_size_per_gpu == 4


def test_a_failed_inference_gate_retunes_dynamics_with_a_falling_rate_until_it_passes(simulation: Simulation) -> None:
    assert simulation.run(Script(mse=[0.5, 0.4, 0.01])) == ExitCode.PASSED
    run = simulation.state
    assert run.retunes == 2
    assert run.stages[Stage.DYNAMICS].completed == 40
    assert run.stages[Stage.DYNAMICS].tuning.learning_rate == pytest.approx(0.0005 * 0.7)
    assert (run.stages[Stage.DYNAMICS].schedule.start, run.stages[Stage.DYNAMICS].schedule.end) == (30, 40)
    assert [attempt.passed for attempt in run.inference.attempts] == [False, False, True]


def test_inference_that_never_passes_uses_its_two_retries_and_fails(simulation: Simulation) -> None:
    assert simulation.run(Script(mse=[0.5])) == ExitCode.NOT_PASSED
    assert len(simulation.state.inference.attempts) == 3
    assert simulation.state.failed_in is State.GATE


def test_an_mse_below_the_maximum_that_does_not_beat_a_baseline_fails(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.029], baselines={"copy_last": 0.028, "mean_frame": 0.04, "blurred_last": 0.05}))
    assert not_met(simulation) == ["skill_above_min", "beats_copy_last", "beats_copy_last_first_step"]


def not_met(simulation: Simulation) -> list[str]:
    return [name for name, held in simulation.state.inference.attempts[0].conditions.items() if not held]


def test_a_world_that_is_deaf_or_frozen_fails_by_that_alone(simulation: Simulation) -> None:
    simulation.run(Script(delta_psnr=[0.4], motion=[0.1]))
    assert not_met(simulation) == ["delta_psnr_above_min", "motion_above_min"]


def test_what_cannot_be_measured_or_is_not_asked_for_is_no_condition(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs", {"loop": {"inference": {"min_motion": "none"}}})
    simulation = Simulation(tmp_path)
    assert simulation.run(Script(delta_psnr=[None], motion=[0.0])) == ExitCode.PASSED
    conditions = simulation.state.inference.attempts[0].conditions
    assert "skill_above_min" in conditions
    assert not {"delta_psnr_above_min", "motion_above_min"} & conditions.keys()


def test_allow_trivial_turns_off_all_but_the_plain_gate(simulation: Simulation) -> None:
    baselines = {"copy_last": 0.001, "mean_frame": 0.001, "blurred_last": 0.001}
    script = Script(mse=[0.029], baselines=baselines, delta_psnr=[0.0], motion=[0.0])
    assert simulation.run(script, allow_trivial=True) == ExitCode.PASSED
    assert simulation.run(Script(mse=[0.031], baselines=baselines)) == ExitCode.PASSED, "it had passed before"


def test_a_raised_budget_reopens_a_failed_run_at_its_gate(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]))
    assert simulation.run(Script(mse=[0.01])) == ExitCode.NOT_PASSED, "without a change nothing is done"
    assert simulation.run(Script(mse=[0.01]), max_inference_retries=3) == ExitCode.PASSED
    assert simulation.state.retunes == 3


def test_a_raised_threshold_judges_the_last_attempt_again_without_training(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.029, 0.0285], baselines={"copy_last": 1.0}), max_mse=0.02)
    saved = simulation.events().count("saved")
    assert simulation.run(max_mse=0.0299, allow_trivial=True) == ExitCode.PASSED
    assert simulation.events().count("saved") == saved


def test_a_stage_failure_is_reopened_where_it_failed(simulation: Simulation) -> None:
    losses = {Stage.VIDEO: [REJECTED]}
    simulation.run(Script(losses=losses))
    assert simulation.run(Script(), max_train_retries=6) == ExitCode.PASSED


def test_a_changed_target_is_refused_and_listed_then_accepted_when_told_to(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]))
    write_configs(simulation.root / "configs", {"dynamics": {"n_updates": 60}, "loop": {"budgets": {"max_crashes": 6}}})
    with pytest.raises(RunChanged, match=r"dynamics\.n_updates: 20 → 60"):
        simulation.run()
    assert simulation.run(Script(mse=[0.01]), accept_changes=True, max_inference_retries=4) == ExitCode.PASSED


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"use_moe": True}])
def test_what_no_checkpoint_can_follow_is_refused_whatever_is_accepted(
    simulation: Simulation, change: dict[str, Any]
) -> None:
    die_in_dynamics(simulation)
    write_configs(simulation.root / "configs", {"dynamics": change})
    with pytest.raises(RunChanged, match=rf"cannot follow a change of .*dynamics\.{next(iter(change))}"):
        simulation.run(accept_changes=True)


def test_flags_typed_at_the_first_start_hold_for_later_plain_starts(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=0, target_updates=10)
    assert simulation.run() == ExitCode.NOT_PASSED
    assert simulation.state.stages[Stage.VIDEO].target == 10
    assert len(simulation.state.inference.attempts) == 1


def test_misaligned_configs_change_nothing(simulation: Simulation) -> None:
    write_configs(simulation.root / "configs", {"dynamics": {"num_blocks": 3}})
    with pytest.raises(UsageProblem, match="num_blocks"):
        simulation.run()
    assert simulation.store.load() is None


def test_state_json_stays_small_however_long_the_run(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=40)
    assert simulation.store.paths.state.stat().st_size < 20 * 1024
    assert len(simulation.state.inference.attempts) == 8


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class MortalStore(Store):
    """A store whose process dies just before one of its commits, if told to."""

    commits_left: int | None = None

    def commit(self, *arguments: Any) -> RunState:
        if self.commits_left == 0:
            raise Killed
        if self.commits_left is not None:
            self.commits_left -= 1
        return super().commit(*arguments)


@settings(max_examples=10, deadline=None)
@given(deaths=st.lists(st.integers(0, 12), max_size=6))
def test_wherever_the_runner_dies_the_run_ends_with_the_same_checkpoints(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int]
) -> None:
    """A commit that never happens is a death just before it; the next start must end where an undisturbed run ends."""
    digests = []
    for plan in ([], deaths):
        root = tmp_path_factory.mktemp("run")
        write_configs(root / "configs")
        simulation = Simulation(root)
        simulation.store = store = MortalStore(simulation.store.paths.folder)
        for store.commits_left in plan:
            with contextlib.suppress(Killed):
                simulation.run()
        store.commits_left = None
        assert simulation.run() == ExitCode.PASSED
        digests.append({stage: p.checkpoint.sha256 for stage, p in simulation.state.stages.items() if p.checkpoint})
    assert digests[0] == digests[1]


def test_a_failed_run_reopened_on_other_hardware_can_be_read_again(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]))
    code = simulation.run(Script(mse=[0.01], device="another device"), max_inference_retries=3)
    assert code == ExitCode.PASSED
    assert [entry.what for entry in simulation.state.inexact] == ["device: simulated → another device"]


def test_starts_without_progress_end_in_a_report_and_an_interruption_costs_nothing(tmp_path: Path) -> None:
    """Each start dies before its first checkpoint; one that makes progress clears the count."""
    write_configs(tmp_path / "configs", {"loop": {"budgets": {"max_stalled_starts": 3}}})
    simulation = Simulation(tmp_path)
    simulation.store = store = MortalStore(simulation.store.paths.folder)
    for store.commits_left in (2, 1, 1, 2, 1, 1, 1):
        with pytest.raises(Killed):
            simulation.run()
    store.commits_left = None
    assert (simulation.state.interruptions, simulation.state.stalled_starts) == (6, 3)
    assert simulation.run() == ExitCode.NOT_PASSED
    run = simulation.state
    assert (run.budget_used, run.failed_in, len(run.reports)) == ("max_stalled_starts", State.TRAIN_VIDEO, 3)
    assert simulation.run(max_stalled_starts=10) == ExitCode.PASSED


def test_a_retune_by_cause_goes_back_to_the_tokenizer_when_it_cannot_reconstruct(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs", {"loop": {"retune_policy": "cause"}})
    simulation = Simulation(tmp_path)
    assert simulation.run(Script(mse=[0.5, 0.035, 0.01])) == ExitCode.PASSED
    completed = {stage: progress.completed for stage, progress in simulation.state.stages.items()}
    assert completed == {Stage.VIDEO: 30, Stage.LATENT: 10, Stage.DYNAMICS: 40}
    retuned = [list(line["facts"]["stages"]) for line in simulation.store.journal() if line["event"] == "retuned"]
    assert retuned == [["video_tokenizer", "dynamics"], ["dynamics"]]


def test_a_retune_by_cause_goes_back_to_collapsed_actions(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs", {"loop": {"retune_policy": "cause"}})
    simulation = Simulation(tmp_path)
    assert simulation.run(Script(mse=[0.04, 0.01], unique_actions=[1, 4])) == ExitCode.PASSED
    completed = {stage: progress.completed for stage, progress in simulation.state.stages.items()}
    assert completed == {Stage.VIDEO: 20, Stage.LATENT: 20, Stage.DYNAMICS: 30}


@pytest.mark.parametrize("stage", Stage)
def test_each_ladder_is_the_documented_one(simulation: Simulation, stage: Stage) -> None:
    """Two rejected chunks: rate, accumulation and log_interval after them, floors and the chunk's cap included."""
    script = Script(losses={stage: [None, None, STAGES[stage].typical_loss]})
    assert simulation.run(script) == ExitCode.PASSED
    tuning = simulation.state.stages[stage].tuning
    rate, accumulation = {
        Stage.VIDEO: (0.003 * 0.5**2, 3),
        Stage.LATENT: (0.003 * 0.8**2, 1),
        Stage.DYNAMICS: (0.003 * 0.2**2, 1),
    }[stage]
    assert tuning.learning_rate == pytest.approx(rate)
    assert tuning.gradient_accumulation_steps == accumulation
    assert tuning.log_interval == 10, "the floor is above the chunk, which caps it"


def test_a_chunk_without_a_valid_checkpoint_restarts_from_the_accepted_one(simulation: Simulation) -> None:
    class Spoiler(SimulatedEngine):
        """Its second tokenizer checkpoint rots on the disk before it is judged."""

        spoiled = False

        def problems(self, stage: Stage, config: Any, folder: Path, sha256: str | None) -> list[str]:
            if not self.spoiled and folder.name == "video_tokenizer_step_19":
                self.spoiled = True
                (folder / "model_state_dict.pt").write_bytes(b"rotten")
            return super().problems(stage, config, folder, sha256)

    assert simulation.run_with(Spoiler()) == ExitCode.PASSED
    rejected = next(line for line in simulation.store.journal() if line["event"] == "rejected")
    assert rejected["facts"]["decision"] == "restart_stage"
    assert rejected["changes"]["stages"]["video_tokenizer"]["completed"] == 10
    folder = simulation.root / "results/default/video_tokenizer/checkpoints"
    assert {path.name for path in folder.iterdir()} >= {"video_tokenizer_step_19.set-aside-1"}


def test_a_run_that_could_not_write_its_reports_writes_them_when_it_can(tmp_path: Path) -> None:
    """However often it was started meanwhile: the work is done, only the reports are missing."""
    write_configs(tmp_path / "configs", {"loop": {"budgets": {"max_stalled_starts": 1}}})
    (tmp_path / "docs").write_text("in the way")
    simulation = Simulation(tmp_path)
    for _ in range(4):
        with pytest.raises(DiskRefused):
            simulation.run()
    assert simulation.state.state is State.REPORT
    (tmp_path / "docs").unlink()
    assert simulation.run() == ExitCode.PASSED


def test_an_accepted_target_leaves_finished_stages_alone(simulation: Simulation) -> None:
    simulation.store = store = MortalStore(simulation.store.paths.folder)
    store.commits_left = 12
    with pytest.raises(Killed):
        simulation.run(Script(mse=[0.5, 0.01]))
    assert simulation.state.state is State.TRAIN_DYNAMICS
    store.commits_left = None
    assert simulation.run(Script(mse=[0.5, 0.01]), accept_changes=True, target_updates=30) == ExitCode.PASSED
    completed = {stage: progress.completed for stage, progress in simulation.state.stages.items()}
    assert completed == {Stage.VIDEO: 20, Stage.LATENT: 10, Stage.DYNAMICS: 40}


def test_an_ended_run_does_not_answer_for_other_settings(simulation: Simulation) -> None:
    simulation.run()
    with pytest.raises(RunChanged, match="has ended"):
        simulation.run(target_updates=500)


def test_a_lost_metrics_file_is_damage_and_nothing_is_overwritten(simulation: Simulation) -> None:
    simulation.store = store = MortalStore(simulation.store.paths.folder)
    store.commits_left = 2
    with pytest.raises(Killed):
        simulation.run()
    store.commits_left = None
    metrics = simulation.root / "results/default/video_tokenizer/metrics.jsonl"
    metrics.unlink()
    with pytest.raises(StateDamaged, match=r"metrics\.jsonl is damaged"):
        simulation.run()
    assert not metrics.exists()


def test_a_stage_that_begins_anew_warms_up_anew(simulation: Simulation) -> None:
    """Both checkpoints of a retuned stage rot: it starts from nothing, with no rate below zero."""

    class Rot(SimulatedEngine):
        rotten = False

        def problems(self, stage: Stage, config: Any, folder: Path, sha256: str | None) -> list[str]:
            if not self.rotten and folder.name == "dynamics_step_29":
                for path in folder.parent.glob("dynamics_step_*"):
                    (path / "model_state_dict.pt").write_bytes(b"rotten")
                self.rotten = True
            return super().problems(stage, config, folder, sha256)

    assert simulation.run_with(Rot(Script(mse=[0.5, 0.01]))) == ExitCode.PASSED
    rows = (simulation.root / "results/default/dynamics/metrics.jsonl").read_text().splitlines()
    again = [row for row in map(json.loads, rows) if row["attempt"] == 4]
    assert again[0]["update"] == 0
    assert all(row["learning_rate"] > 0 for row in again)


class RotsOnce(SimulatedEngine):
    """The tokenizer's first checkpoint rots on the disk before it is judged."""

    def problems(self, stage: Stage, config: Any, folder: Path, sha256: str | None) -> list[str]:
        if folder.name == "video_tokenizer_step_9" and folder.exists():
            (folder / "model_state_dict.pt").write_bytes(b"rotten")
        return super().problems(stage, config, folder, sha256)


def test_a_run_that_failed_for_want_of_a_valid_checkpoint_is_reopened_by_a_raised_budget(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs", {"loop": {"budgets": {"max_train_retries": 0}}})
    simulation = Simulation(tmp_path)
    assert simulation.run_with(RotsOnce()) == ExitCode.NOT_PASSED
    assert simulation.run(max_train_retries=1) == ExitCode.PASSED


def test_a_run_without_a_valid_checkpoint_still_gets_its_report(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs", {"loop": {"budgets": {"max_train_retries": 0}}})
    (tmp_path / "docs").write_text("in the way")
    simulation = Simulation(tmp_path)
    with pytest.raises(DiskRefused):
        simulation.run_with(RotsOnce())
    (tmp_path / "docs").unlink()
    assert simulation.run() == ExitCode.NOT_PASSED
    assert len(simulation.state.reports) == 3
