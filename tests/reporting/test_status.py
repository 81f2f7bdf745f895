"""What ``tiw-fsm status`` says, to people and to scripts, of runs of every kind."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.worlds import aged_state
from tests.support.configs import merged
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.run_state import Inexact
from tiw_fsm.reporting.status import ATTEMPT_KEYS, INEXACT_KEYS, STAGE_KEYS, status
from tiw_fsm.storage.state_folder import Document, StateFolder, written
from tiw_fsm.values.plain import JsonObject

DOCUMENT = Path(__file__).parents[2] / "docs/status.md"


def test_status_tells_all_that_the_state_holds_of_what_it_shows(simulation: Simulation) -> None:
    """Status reads the state as JSON, without its types: what the types know, and what is null, must not get lost."""
    simulation.run(Script(mse=[0.5, 0.01]))
    found, run = status(StateFolder(simulation.store.paths.folder)), simulation.state
    document = run.model_dump(mode="json")
    assert run.inference.best_attempt is not None
    best, attempts = run.inference.best_attempt.model_dump(mode="json"), document["inference"]["attempts"]
    judged = {"gate": "world"}
    assert found["inference"] == {"attempts": [attempt | judged for attempt in attempts], "best": best | judged}
    assert found["fingerprint"] == document["fingerprint"]
    assert set(INEXACT_KEYS) == Inexact.model_fields.keys()
    for key in document.keys() & found.keys() - {"inference", "fingerprint", "stages"}:
        assert found[key] == document[key], key
    for stage, progress in document["stages"].items():
        assert found["stages"][stage].items() >= {key: progress[key] for key in STAGE_KEYS}.items()


def test_whoever_looks_at_a_run_is_not_taken_for_its_runner(simulation: Simulation) -> None:
    simulation.run()
    with open(simulation.store.paths.lock, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as a status at the same instant has it
        assert not status(StateFolder(simulation.store.paths.folder))["alive"]
        fcntl.flock(other, fcntl.LOCK_EX)
        assert status(StateFolder(simulation.store.paths.folder))["alive"]


class Ending(StateFolder):
    """A run that ends just when somebody has read its state."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ended = self.paths.state.read_bytes()
        self.paths.state.write_bytes(self.paths.previous.read_bytes())
        self._runner = os.open(self.paths.lock, os.O_RDONLY)
        fcntl.flock(self._runner, fcntl.LOCK_EX)

    def told(self) -> tuple[Document | None, list[str]]:
        found = super().told()
        if self._ended:
            self.paths.state.write_bytes(self._ended)
            os.close(self._runner)
            self._ended = b""
        return found


def test_a_run_that_ends_while_status_looks_has_not_died(simulation: Simulation) -> None:
    simulation.run()
    found = status(Ending(simulation.store.paths.folder))
    assert (found["alive"], found["outcome"], found["stopped"]["why"]) == (False, "passed", "the run has ended")


STRANGE: dict[str, JsonObject] = {
    "no configuration": {"loop": None},
    "a budget that is none": {"loop": {"budgets": 5}},
    "a word for a list": {"reports": 5},
    "a word for a checkpoint": {"stages": {"dynamics": {"checkpoint": "x"}}},
    "no tuning": {"stages": {"dynamics": {"tuning": None}}},
    "more than a number can be": {"stages": {"dynamics": {"target": math.inf}}},
    "an empty attempt": {"inference": {"attempts": [{}]}},
}


@pytest.mark.parametrize("what", STRANGE)
def test_status_of_a_state_that_holds_something_else_says_so(simulation: Simulation, tiw: Tiw, what: str) -> None:
    simulation.run()
    found = simulation.store.document()
    assert found is not None
    strange = merged(found.state, STRANGE[what])
    simulation.store.paths.state.write_bytes(written(strange, found.journal))
    done = tiw(simulation.root, "status")
    assert (done.returncode, "`tiw-fsm verify" in done.stderr) == (ExitCode.DAMAGED, True)
    assert "state.json is damaged" in tiw(simulation.root, "verify").stdout.replace("\n", " ")


@pytest.mark.parametrize("strange", [{"bytes": "x", "sha256": ""}, {"bytes": -5, "sha256": ""}, None])
def test_a_state_that_names_no_journal_is_damaged_and_the_one_before_it_counts(
    simulation: Simulation, tiw: Tiw, strange: Any
) -> None:
    simulation.run()
    paths = simulation.store.paths
    before = simulation.store.previous()
    assert before is not None
    document = json.loads(paths.state.read_bytes())
    vouched = {**document, "journal": strange}
    del vouched["checksum"]
    digest = hashlib.sha256(json.dumps(vouched, sort_keys=True).encode()).hexdigest()
    paths.state.write_text(json.dumps({**vouched, "checksum": digest}))
    found = json.loads(tiw(simulation.root, "status", "--json").stdout)
    assert (found["generation"], len(found["damage"])) == (before.generation, 1)
    for command in ("status", "runs"):
        told = tiw(simulation.root, command).stdout
        assert told.count("state.json is damaged: it does not say on which journal it stands. This is the gener") == 1
    assert "does not say on which journal it stands" in tiw(simulation.root, "verify").stdout.replace("\n", " ")
    assert tiw(simulation.root, "run").returncode == ExitCode.PASSED


@pytest.mark.parametrize("word", [{"time": "now"}, {"time": [], "exit_code": {}, "message": None}])
def test_a_word_of_a_refused_start_that_is_none_is_not_told(simulation: Simulation, tiw: Tiw, word: JsonObject) -> None:
    simulation.run()
    simulation.store.paths.refused.write_text(json.dumps(word))
    done = tiw(simulation.root, "status")
    assert (done.returncode, "refused" in done.stdout) == (ExitCode.PASSED, False)


def test_status_of_a_run_that_never_began_answers(tmp_path: Path, tiw: Tiw) -> None:
    done = tiw(tmp_path, "status", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (ExitCode.PASSED, None)


STATUS = {
    "run",
    "state",
    "outcome",
    "reason",
    "alive",
    "runner",
    "flags",
    "stopped",
    "next",
    "command",
    "refused",
    "damage",
    "stages",
    "inference",
    "retunes",
    "budgets",
    "used",
    "interruptions",
    "recent_interruptions",
    "checkpoint_age_seconds",
    "inexact",
    "processes",
    "hosts",
    "fingerprint",
    "reports",
    "trackers",
    "generation",
    "created_at",
    "updated_at",
}
STATUS_OF_A_STAGE = {
    "target",
    "completed",
    "checkpoint",
    "accepted",
    "retries",
    "crashes",
    "tuning",
    "verdict",
    "picture",
    "updates_per_second",
    "eta_seconds",
    "batch",
}
"""What scripts may rely on, as docs/status.md has it."""


def test_status_as_json_has_the_fields_scripts_rely_on(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.5, 0.01]))
    found = json.loads(tiw(simulation.root, "status", "--json").stdout)
    assert found.keys() == STATUS
    assert (found["state"], found["outcome"], found["alive"], found["damage"]) == ("PASSED", "passed", False, [])
    assert list(found["stages"]) == ["video_tokenizer", "latent_actions", "dynamics"]
    for stage in found["stages"].values():
        assert stage.keys() == STATUS_OF_A_STAGE
        assert {"path", "update", "sha256"} == stage["checkpoint"].keys()
        assert Path(stage["checkpoint"]["path"]).is_absolute()
    first, second = found["inference"]["attempts"]
    assert first.keys() == second.keys() == {*ATTEMPT_KEYS, "gate"}
    assert (first["passed"], second["passed"]) == (False, True)
    assert {"copy_last", "mean_frame", "blurred_last"} == first["baselines"].keys()


def test_status_says_what_happens_next(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.5]))
    done = tiw(simulation.root, "status")
    assert "max_inference_retries is used up in GATE; raise it and run again" in done.stdout


def test_every_field_of_the_status_is_documented() -> None:
    documented = set(re.findall(r"^\| `(?:stages\.<stage>\.)?(\w+)", DOCUMENT.read_text(), re.MULTILINE))
    assert documented == STATUS | STATUS_OF_A_STAGE
    told = DOCUMENT.read_text().partition("| field of an attempt |")[2]
    assert set(re.findall(r"`inference\.attempts\[\]\.(\w+)`", told)) == {*ATTEMPT_KEYS, "gate"}


def rows(shown: str) -> dict[str, str]:
    """What status says to people, by the names at the beginnings of its lines."""
    return dict(re.findall(r"^(\w+) +(.*)$", shown, re.MULTILINE))


def test_the_figures_stand_in_a_line_of_their_own(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.01], delta_psnr=[3.2], motion=[0.98], key_agreement=[0.4]))
    told = rows(tiw(simulation.root, "status").stdout)
    assert told["inference"].startswith("inference gate, attempt 1: PASSED, MSE 0.0100 (max 0.03; ")
    assert told["figures"] == (
        "skill +0.50 [+0.50, +0.50], ΔPSNR 3.2 dB [3.2, 3.2], motion 0.98, actions 4 of 4, keys 0.40, unseen 50 %"
    )
    assert told["next"] == "nothing: the world model passed its gate"


def test_a_pass_of_the_plain_gate_is_told_as_that(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.029]), allow_trivial=True)
    found = json.loads(tiw(simulation.root, "status", "--json").stdout)
    assert [attempt["gate"] for attempt in found["inference"]["attempts"]] == ["plain"]
    told = tiw(simulation.root, "status").stdout
    assert rows(told)["next"] == "nothing: the world model passed the plain gate"
    assert "no better than copying" in told


def test_a_run_that_an_older_version_judged_stays_passed_by_that_versions_gate(
    simulation: Simulation, tiw: Tiw
) -> None:
    simulation.run()
    found = simulation.store.document()
    assert found is not None
    simulation.store.paths.state.write_bytes(written(aged_state(found.state), found.journal))
    told = json.loads(tiw(simulation.root, "status", "--json").stdout)
    (attempt,) = told["inference"]["attempts"]
    assert (told["state"], attempt["gate"], attempt["motion"]) == ("PASSED", "baselines", None)
    assert attempt.keys() == {*ATTEMPT_KEYS, "gate"}
    shown = rows(tiw(simulation.root, "status").stdout)
    assert shown["figures"] == "skill +0.50"
    assert shown["next"] == "nothing: the world model passed the gate of MSE and baselines"


def test_an_attempt_that_measured_nothing_was_judged_by_no_gate(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[math.nan]), max_inference_retries=0)
    (attempt,) = json.loads(tiw(simulation.root, "status", "--json").stdout)["inference"]["attempts"]
    assert (attempt["mse"], attempt["gate"], attempt["passed"]) == (None, None, False)


def test_status_says_who_runs_it_and_how_fast_and_afterwards_why_nobody_does(root: Path, tiw: Tiw) -> None:
    command = [sys.executable, "-m", "tiw_fsm", "run", "--target-updates", "100000"]
    run = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while (found := json.loads(tiw(root, "status", "--json").stdout)).get("generation", 0) < 6:
            assert run.poll() is None
    finally:
        run.kill()
        run.wait()
    assert (found["alive"], found["runner"]["pid"], found["stopped"]) == (True, run.pid, None)
    progress = found["stages"]["video_tokenizer"]
    assert progress["updates_per_second"] > 0
    assert progress["eta_seconds"] > 0
    dead = tiw(root, "status").stdout
    assert f"process {run.pid} on " in dead
    assert "died without warning" in dead
    assert "tiw-fsm run --run default" in dead
    with open(root / "state/default/lock") as lock:  # as a new start does, seconds before it says who it is
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = json.loads(tiw(root, "status", "--json").stdout)
        assert (begun["alive"], begun["runner"], begun["stopped"]) == (True, None, None)
        assert "(running again)" in tiw(root, "status").stdout


def test_status_reads_a_copied_state_folder(simulation: Simulation, tiw: Tiw, tmp_path: Path) -> None:
    simulation.run()
    shutil.copytree(simulation.root / "state", tmp_path / "elsewhere/state")
    found = json.loads(tiw(tmp_path / "elsewhere", "status", "--json").stdout)
    assert (found["state"], found["alive"]) == ("PASSED", False)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24), (80, 16)])
def test_on_a_small_terminal_budgets_and_what_comes_next_are_seen(
    simulation: Simulation, width: int, height: int
) -> None:
    simulation.run(Script(mse=[0.5]))
    done = subprocess.run(
        [sys.executable, "-m", "tiw_fsm", "status", "--watch"],
        cwd=simulation.root,
        env=os.environ | {"COLUMNS": str(width), "LINES": str(height)},
        capture_output=True,
        text=True,
    )
    shown = done.stdout.rstrip("\n").splitlines()
    assert len(shown) < height
    assert all(len(line) <= width for line in shown)
    assert [row for row in ("state", "dynamics", "budgets", "next") if not any(s.startswith(row) for s in shown)] == []


def test_watching_ends_with_the_run(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    assert "[PASSED]" in tiw(simulation.root, "status", "--watch").stdout
