"""``tiw-fsm metrics``: every committed update as CSV, exact, and marked where it no longer counts."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventful import EVENTFUL
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.engines.protocol import Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import ExitCode
from tiw_fsm.reporting.metrics import cell
from tiw_fsm.reporting.rows import Undone
from tiw_fsm.stages import Stage


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


class Measuring(SimulatedEngine):
    """Its stages measure different things, and not always."""

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        result = super().train(request, progress)
        extra: dict[str, Any] = {"expert_shares": [[0.5, 0.5]], 'odd, "name"\x1b': math.nan, "third": 1 / 3}
        rows = [row | extra if request.stage is Stage.DYNAMICS and row["update"] > 2 else row for row in result.rows]
        return result.evolve(rows=rows)


def test_every_row_of_the_metrics_files_is_a_line_whose_numbers_are_the_very_same(
    simulation: Simulation, tiw: Tiw
) -> None:
    simulation.run_with(Measuring(EVENTFUL))
    found = table(tiw(simulation.root, "metrics", "--csv").stdout)
    rows = [(stage, row) for stage in Stage for row in simulation.rows(stage)]
    assert len(found) == len(rows)
    for line, (stage, row) in zip(found, rows, strict=True):
        assert line["stage"] == stage
        for key, value in row.items():
            said = line[key.replace("\x1b", "\\x1b")]
            assert said == "" if value is None or value != value else json.loads(said) == value, key
    assert list(found[0])[:6] == ["stage", "update", "attempt", "kept", "loss", "learning_rate"]


def test_the_rows_that_are_kept_are_each_update_once(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(EVENTFUL)
    found = table(tiw(simulation.root, "metrics", "--csv").stdout)
    kept = Counter((line["stage"], int(line["update"])) for line in found if line["kept"] == "true")
    assert set(kept.values()) == {1}
    for stage, progress in simulation.state.stages.items():
        assert sorted(update for of, update in kept if of == stage) == list(range(progress.completed))
    repeated = {line["attempt"] for line in found if line["stage"] == Stage.VIDEO and line["kept"] == "false"}
    assert repeated == {str(facts["attempt"]) for facts in simulation.journal("rejected")}


def judged(event: str, attempt: int, begins: int) -> dict[str, Any]:
    changes = {"stages": {"dynamics": {"chunk_start": begins}}}
    return {"event": event, "facts": {"stage": "dynamics", "attempt": attempt}, "changes": changes}


def test_a_stage_that_begins_anew_keeps_nothing_of_before() -> None:
    undone = Undone([judged("accepted", 1, 10), judged("rejected", 2, 0), judged("accepted", 3, 10)])
    assert [undone(Stage.DYNAMICS, attempt, 5) for attempt in (1, 2, 3)] == [True, True, False]
    assert not undone(Stage.VIDEO, 1, 5)


def test_a_chunk_that_is_judged_again_and_accepted_counts(simulation: Simulation, tiw: Tiw) -> None:
    """A run that failed for a gate is reopened with other bounds: the very chunk may pass."""
    simulation.run(Script(losses={Stage.VIDEO: [0.5]}), max_train_retries=0)
    assert {line["kept"] for line in table(tiw(simulation.root, "metrics", "--csv").stdout)} == {"false"}
    simulation.run(Script(), set={"loop.gates.video_tokenizer.from_update": 10_000})
    found = table(tiw(simulation.root, "metrics", "--csv").stdout)
    assert {line["kept"] for line in found if line["attempt"] == "1"} == {"true"}


def test_only_what_the_state_vouches_for_is_given(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    path = simulation.root / "results/default/dynamics/metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"attempt": 9, "update": 99, "loss": 1.0}\n{"att')
    assert "99" not in {line["update"] for line in table(tiw(simulation.root, "metrics", "--csv").stdout)}
    whole = path.read_text()
    path.write_text(whole.replace("2.0", "9.0", 1))
    done = tiw(simulation.root, "metrics", "-o", "out.csv")
    assert done.returncode == ExitCode.DAMAGED
    assert "metrics.jsonl is damaged" in done.stderr
    assert not list(simulation.root.glob("out.csv*"))
    path.unlink()
    assert tiw(simulation.root, "metrics").returncode == ExitCode.DAMAGED


def test_a_file_is_whole_or_as_it_was(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    done = tiw(simulation.root, "metrics", "--stage", "dynamics", "-o", "new/out.csv")
    assert done.returncode == ExitCode.PASSED
    found = table((simulation.root / "new/out.csv").read_text())
    assert f"has {len(found)} updates" in done.stdout
    assert {line["stage"] for line in found} == {"dynamics"}
    (simulation.root / "link.csv").symlink_to("new/out.csv")
    assert tiw(simulation.root, "metrics", "-o", "link.csv").returncode == ExitCode.PASSED
    assert len(table((simulation.root / "new/out.csv").read_text())) > len(found)
    os.mkfifo(simulation.root / "pipe")
    for name in ("new", "pipe"):
        done = tiw(simulation.root, "metrics", "-o", name)
        assert (done.returncode, "name a file" in done.stderr) == (ExitCode.USAGE, True)
        assert not (simulation.root / name).is_file()


def test_a_reader_that_stops_is_no_error_and_a_full_disk_is(simulation: Simulation) -> None:
    simulation.run()
    command = f"{sys.executable} -m tiw_fsm metrics --csv"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}; {command} > /dev/full; echo $?"],
        cwd=simulation.root, capture_output=True, text=True,
    )  # fmt: skip
    header, piped, full = done.stdout.splitlines()
    assert header.startswith("stage,update,attempt,kept,loss")
    assert (int(piped), int(full)) == (ExitCode.PASSED, ExitCode.DISK)
    assert done.stderr.count("\n") == 1
    assert "writing standard output failed: No space left on device" in done.stderr


def test_without_csv_it_says_what_there_is(simulation: Simulation, tiw: Tiw) -> None:
    assert tiw(simulation.root, "metrics", "nope").returncode == ExitCode.USAGE
    simulation.run(EVENTFUL)
    told = tiw(simulation.root, "metrics").stdout
    assert "30 updates, 10 of them of chunks that were rejected; the last one: attempt 3, update 19, loss" in told
    assert "`tiw-fsm metrics default --csv -o metrics.csv`" in told
    found = json.loads(tiw(simulation.root, "metrics", "--json", "--stage", "video_tokenizer").stdout)["stages"]
    assert (found["video_tokenizer"]["rows"], found["video_tokenizer"]["kept"]) == (30, 20)
    assert tiw(simulation.root, "metrics", "--json", "--csv").returncode == ExitCode.USAGE


@given(st.floats() | st.integers() | st.booleans() | st.none())
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    said = cell(value)
    if value is None or value != value:
        assert said == ""
    else:
        assert repr(json.loads(said)) == repr(value)
