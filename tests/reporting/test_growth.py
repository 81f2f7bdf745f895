"""A run of a month: what it keeps, shows and reads has a bound, and nothing of it is less true for that."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.support.configs import LENIENT, merged, write_configs
from tests.support.eventful import EVENTFUL
from tests.support.pages import seen
from tests.support.processes import Tiw
from tests.support.simulation import Given, Simulation
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import StateDamaged
from tiw_fsm.reporting.curves import POINTS, Losses, curve_of
from tiw_fsm.reporting.history import SHOWN
from tiw_fsm.reporting.html import writer
from tiw_fsm.reporting.html.page import page
from tiw_fsm.reporting.past import ATTEMPTS, KEPT, LATEST, MARKS, Past
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.log import make_log
from tiw_fsm.run.session import Session
from tiw_fsm.stages import Stage
from tiw_fsm.storage.picture_sweep import CHUNKS
from tiw_fsm.system import short_log
from tiw_fsm.system.append_log import AppendLog
from tiw_fsm.values.plain import JsonObject, LogPosition

OFTEN = {
    "loop": merged(
        LENIENT,
        {"checkpoint_interval": 1, "chunks": dict.fromkeys(("video_tokenizer", "latent_actions", "dynamics"), 2)},
    ),
    "video_tokenizer": {"n_updates": 120, "log_interval": 1},
}
TRIES = 11
THEIRS = (
    "video_tokenizer_step_3.png",
    "video_tokenizer_step_1_attempt_1.png.bak",
    "video_tokenizer_step_1_attempt_1_png",
)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Many commits, chunks and attempts, in folders in which other pictures lie."""
    simulation = Simulation(tmp_path_factory.mktemp("long"))
    write_configs(simulation.root / "configs", OFTEN)
    drawn = simulation.root / "results/default/video_tokenizer/visualizations"
    inferred = simulation.root / "inference_results"
    for path in (*(drawn / name for name in THEIRS), inferred / "inference_results_gt_vs_pred_20250101_000000.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("somebody else's")
    simulation.run(Script(mse=[0.5, 0.4, *[0.6] * 20]), max_inference_retries=TRIES - 1)
    return simulation


def repeated(lines: list[JsonObject], count: int) -> Iterator[JsonObject]:
    """A journal with so many more lines, of the same kinds."""
    yield from lines
    for n in range(count):
        line = lines[1 + n % (len(lines) - 1)]
        facts = line["facts"]
        if "attempt" in facts and isinstance(facts["attempt"], dict):
            facts = {**facts, "attempt": {**facts["attempt"], "number": n, "mse": 1.0 + n}}
        yield {**line, "generation": len(lines) + n + 1, "facts": facts, "changes": {}}


def test_what_is_kept_of_the_past_does_not_grow_with_it(long: Simulation) -> None:
    lines, peaks = long.store.journal(), []
    for count in (6_000, 18_000):
        tracemalloc.start()
        past = Past(repeated(lines, count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], "three times as many lines; the seldom kinds are not yet as many as are kept"
    assert past.count == len(lines) + 18_000
    judged = [line for line in repeated(lines, 18_000) if line["event"] in ("accepted", "rejected")]
    assert past.decisions.total() == len(judged)
    assert len(past.latest) == LATEST
    assert len(past.attempts) == ATTEMPTS + 1
    assert past.attempts[0].mse == 0.4, "the best stays"
    assert len(list(past.gates(Stage.VIDEO))) == KEPT
    assert MARKS <= len(past.marks(Stage.VIDEO)) <= 2 * MARKS
    assert past.marks(Stage.VIDEO)[0]["completed"] == 2, "marks are spread over the whole run"


def test_the_page_has_a_bound_and_says_what_it_leaves_out(long: Simulation) -> None:
    found, sizes = seen(long), []
    for count in (6_000, 18_000):
        n = 100 * count
        losses = Losses(curve_of(np.ones(n), np.arange(1.0, n + 1), np.geomspace(1, 0.01, n), np.ones(n)) for _ in "ab")
        text = page(replace(found, past=Past(repeated(long.store.journal(), count)), losses={Stage.VIDEO: losses}))
        sizes.append(len(text))
    assert sizes[1] < 1.05 * sizes[0] < 2 << 20
    assert f"the newest {KEPT}:" in text
    assert "of them are marked" in text
    assert "attempts are drawn, 51 are in the tables" in text


def test_reading_on_tells_the_same_as_reading_all(simulation: Simulation) -> None:
    """At each commit of a run with rejected chunks, a death, a batch that does not fit, and retunes."""
    reader, compared = writer.Reader(), 0

    def compare() -> None:
        nonlocal compared
        told = [writer.gather(simulation.store, alive=True, reader=each) for each in (reader, None)]
        pages = {page(replace(data, now="")) for data in told if data}
        assert len(pages) == 1
        compared += 1

    with simulation.store.hold():
        session = Session.open(
            simulation.store,
            {"engine": "simulated"},
            repo_root=simulation.root,
            console=Console(quiet=True),
            kind=Given(SimulatedEngine(EVENTFUL)),
        )
        session.on_commit = compare
        Controller(session).run()
    assert compared == simulation.state.generation


def test_of_a_long_curve_each_bin_has_about_as_many_updates_and_no_extreme_is_lost() -> None:
    n = 250_000
    loss = np.linspace(2, 1, n)
    loss[123_456] = 50.0
    columns = (np.ones(n), np.arange(1.0, n + 1), loss, np.ones(n))
    pieces = Losses(curve_of(*(c[at : at + 1000] for c in columns)) for at in range(0, n, 1000)).pieces()
    ((kind, curve),) = pieces
    assert (kind, curve.updates.sum(), curve.high.max(), curve.completed[0]) == ("kept", n, 50.0, 1)
    assert POINTS / 3 < len(curve.updates) <= POINTS
    assert curve.total.sum() == pytest.approx(loss.sum())


# --- pictures ---------------------------------------------------------------------------------------------------


def test_the_newest_chunks_keep_their_pictures_and_nobody_elses_is_touched(long: Simulation) -> None:
    drawn = {path.name for path in (long.root / "results/default/video_tokenizer/visualizations").iterdir()}
    mine = {f"video_tokenizer_step_{2 * n - 1}_attempt_{n}.png" for n in range(61 - CHUNKS, 61)}
    assert drawn == {*mine, *THEIRS}


def test_the_last_attempts_and_the_best_keep_their_pictures_and_every_one_its_figures(long: Simulation) -> None:
    inferred = {path.name for path in (long.root / "inference_results").iterdir()}
    judged = [facts["attempt"] for facts in long.journal("gate_failed")]
    assert len(judged) == TRIES
    kept = {Path(attempt["png"]).name for attempt in [judged[1], *judged[-8:]]}
    assert inferred == {*kept, "inference_results_gt_vs_pred_20250101_000000.png"}
    assert all((long.root / "results/default/inference" / f"attempt_{n + 1}.json").exists() for n in range(TRIES))


def test_pictures_that_a_kill_left_are_removed_by_the_next_start(simulation: Simulation) -> None:
    write_configs(simulation.root / "configs", {"loop": LENIENT})
    simulation.run(Script(mse=[0.5]), max_inference_retries=9)
    attempts = [facts["attempt"] for facts in simulation.journal("gate_failed")]
    named_before = simulation.store.previous()
    assert named_before
    left = simulation.root / "results/default/dynamics/visualizations/dynamics_step_9_attempt_1.png"
    assert not left.exists()
    left.write_text("drawn, and not yet removed")
    simulation.run(Script(mse=[0.5]), max_inference_retries=10)
    assert not left.exists()
    assert len(list((simulation.root / "inference_results").iterdir())) <= 9 < len(attempts) + 1


# --- history ----------------------------------------------------------------------------------------------------


def test_history_shows_the_last_steps_and_says_how_to_see_all(long: Simulation, tiw: Tiw) -> None:
    count = long.state.generation
    assert count > SHOWN
    shown = tiw(long.root, "history").stdout.splitlines()
    assert f"{SHOWN} of {count} steps (the last {SHOWN} at most; --all shows all)" in shown[-1]
    everything = tiw(long.root, "history", "--all").stdout.splitlines()
    assert len(everything) == count + 1
    assert shown[-2] == everything[-2]
    entries = json.loads(tiw(long.root, "history", "--json").stdout)
    assert [entry["generation"] for entry in entries] == list(range(1, count + 1))


# --- logs -------------------------------------------------------------------------------------------------------


def test_a_log_that_has_grown_long_begins_anew_and_the_one_before_is_kept(simulation: Simulation, tiw: Tiw) -> None:
    path = simulation.store.paths.log
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(short_log.LARGEST + 1)
    assert tiw(simulation.root, "run", "--engine", "simulated").returncode == 0
    assert short_log.predecessor(path).stat().st_size == short_log.LARGEST + 1
    assert all(json.loads(line)["event"] for line in path.read_text().splitlines())


def test_a_log_begins_anew_while_its_process_lives(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = make_log(Console(quiet=True), path)
    for n in range(40):
        log.info("x" * (1 << 20), n=n)
    assert path.stat().st_size <= short_log.LARGEST + (2 << 20)
    last = short_log.predecessor(path).read_text().splitlines()[-1]
    assert json.loads(last)["n"] + 1 == json.loads(path.read_text().splitlines()[0])["n"], "no line is lost"


# --- files that only grow ---------------------------------------------------------------------------------------


def marks(path: Path, *contents: bytes) -> list[LogPosition]:
    """Where a file was after each of these had been appended."""
    log, found = AppendLog(path), [LogPosition()]
    for content in contents:
        found.append(log.append(found[-1], content))
    return found


def test_what_was_verified_is_gone_on_from_and_what_differs_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second, third = marks(path, b"one\n", b"two\n", b"three\n")[1:]
    log = AppendLog(path)
    assert [log.problem(each) for each in (first, third, second, third)] == [None] * 4
    assert list(log.lines(first, third)) == [b"two\n", b"three\n"]
    path.write_bytes(b"one\ntwo\nthrEe\n")
    fresh = AppendLog(path)
    assert fresh.problem(second) is None
    assert "are not those" in str(fresh.problem(third))
    path.write_bytes(b"one\ntwo\nth")
    assert "the last 4 are gone" in str(fresh.problem(third))
    with pytest.raises(StateDamaged, match="damaged"):
        fresh.lines(first, third)


def test_a_file_that_was_cut_back_and_went_on_otherwise_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second = marks(path, b"one\n", b"two\n")[1:]
    log = AppendLog(path)
    assert log.problem(second) is None
    other = AppendLog(path).append(first, b"another and longer\n")
    assert log.problem(other) is None
    assert log.read(first, other) == b"another and longer\n"
