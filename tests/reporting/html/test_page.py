"""A run as one HTML page: what is in it, what is not, and how it looks to a real browser."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from PIL import Image, ImageSequence

from tests.reporting.html.reading import html, words
from tests.support.configs import write_configs
from tests.support.eventful import die_in_dynamics
from tests.support.pages import seen, strips
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.data import pictures
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import DiskRefused, ExitCode
from tiw_fsm.fsm.states import State
from tiw_fsm.fsm.table import TABLE
from tiw_fsm.reporting import journal
from tiw_fsm.reporting.curves import Losses, curve_of
from tiw_fsm.reporting.html import writer
from tiw_fsm.reporting.html.current import INTERVAL, SHARE, PageWriter
from tiw_fsm.reporting.html.loss import figure
from tiw_fsm.reporting.html.page import SHOWN_LINES, PageData, Picture, page
from tiw_fsm.reporting.html.scales import scale
from tiw_fsm.reporting.past import LATEST, Past
from tiw_fsm.stages import Stage

REFRESHES = '<meta http-equiv="refresh" content="15">'


# --- what is in it ----------------------------------------------------------------------------------------------


def test_every_state_of_the_table_is_in_the_machine_and_the_present_one_is_marked(eventful: Simulation) -> None:
    text = html(eventful)
    drawn = dict(reversed(found) for found in re.findall(r'<g class="(state[^"]*)" data-state="(\w+)">', text))
    assert drawn.keys() == {state for row in TABLE for state in (row.source, row.target)}
    assert [state for state, kind in drawn.items() if "current" in kind] == [State.PASSED]
    assert [state for state, kind in drawn.items() if "visited" not in kind] == [State.FAILED]


def test_ways_taken_tell_how_often(eventful: Simulation) -> None:
    text = html(eventful)
    edge = re.search(r"<title>GATE → RETUNE: gate_failed ×2</title>.*?</g>", text)
    assert edge
    assert ">×2</text>" in edge[0]
    assert "RETUNE → TRAIN_DYNAMICS: retuned ×2" in text
    assert "TRAIN_VIDEO → REPORT: rejected, crashed, killed, out_of_memory<" in text


def test_every_gate_of_the_journal_is_marked_by_its_decision(eventful: Simulation) -> None:
    found = re.findall(r'<g class="gate (\w+)" data-gate="(\w+):(\d+):(\d+)">', html(eventful))
    told = journal.chunk_gates(eventful.store.journal())
    assert sorted(found) == sorted((g["decision"], g["stage"], str(g["completed"]), str(g["attempt"])) for g in told)
    assert "retune" in {decision for decision, *_ in found}


def test_retunes_stand_where_dynamics_was_retuned(eventful: Simulation) -> None:
    assert re.findall(r"<title>(retune \d after \d+)</title>", html(eventful)) == [
        "retune 1 after 20",
        "retune 2 after 30",
    ]


def test_every_attempt_has_its_mse_threshold_and_baselines(eventful: Simulation) -> None:
    text = html(eventful)
    for attempt in journal.attempts(eventful.store.journal()):
        assert f"attempt {attempt.number}: MSE {attempt.mse:.5g}" in text
    assert text.count("largest MSE that passes: 0.03") == 3
    assert text.count("<title>copy_last 0.03</title>") == 3


def test_the_newest_attempts_have_their_strips_and_the_rollout_in_motion(eventful: Simulation) -> None:
    text = html(eventful)
    assert text.count('alt="Attempt 3, the best: ground truth and prediction"') == 1
    assert text.count(": the rollout in motion") == 3


def test_budgets_and_what_changed_are_told(eventful: Simulation) -> None:
    text = words(html(eventful))
    assert "retunes 2 / 2" in text
    assert "video_tokenizer: rejected chunks in a row 0 / 5" in text
    assert "rejected video_tokenizer: learning_rate 0.003 → 0.0015" in text
    assert "retune dynamics: learning_rate 0.003 → 0.0005, target 20 → 30" in text
    assert "dynamics: batch_size_per_gpu 4 → 2" in text


def test_a_raised_budget_is_told_among_what_changed(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]))
    simulation.run(Script(mse=[0.01]), max_inference_retries=3)
    assert "reopened loop: budgets.max_inference_retries 2 → 3" in words(html(simulation))


def test_the_effective_configuration_is_there(eventful: Simulation) -> None:
    text = words(html(eventful))
    assert re.search(r"embed_dim 24 24 24", text)
    assert "loop.budgets.max_crashes 5" in text


def test_the_timeline_is_the_journal_latest_first_and_folded_when_long(eventful: Simulation) -> None:
    found = seen(eventful)
    text = page(found)
    assert text.index("the reports are written") < text.index("configs aligned, data in order")
    lines = eventful.store.journal()
    assert "steps before these" not in page(replace(found, past=Past(lines[:SHOWN_LINES])))
    line = next(line for line in lines if line["event"] == "accepted")
    many = [*lines, *({**line, "changes": {}, "generation": len(lines) + n} for n in range(LATEST + 7))]
    longer = words(page(replace(found, past=Past(many))))
    assert f"{LATEST - SHOWN_LINES} steps before these" in longer
    assert f"{len(many) - LATEST} older steps: tiw-fsm history --all --run default" in longer


def test_checkpoints_in_a_row_are_one_line_of_the_timeline(eventful: Simulation) -> None:
    found, lines = seen(eventful), eventful.store.journal()
    saved = next(line for line in lines if line["event"] == "saved")
    longer = words(page(replace(found, past=Past([*lines, *([{**saved, "changes": {}}] * 122)]))))
    assert f"{saved['facts']['stage']}: 122 checkpoints, the last after {saved['facts']['completed']} updates" in longer
    assert "steps before these" not in longer


# --- runs of every kind -----------------------------------------------------------------------------------------


def test_a_failed_run_says_why(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=0)
    text = html(simulation)
    assert 'class="state visited current failed"' in text
    assert "the budget max_inference_retries is used up in GATE" in words(text)


def test_a_page_refreshes_itself_until_its_run_has_ended(simulation: Simulation) -> None:
    die_in_dynamics(simulation)
    assert REFRESHES in html(simulation, alive=True)
    assert REFRESHES in html(simulation)
    simulation.run()
    assert 'http-equiv="refresh"' not in html(simulation)


def test_a_dead_run_is_told_from_a_running_one(simulation: Simulation) -> None:
    die_in_dynamics(simulation)
    assert "not running" in words(html(simulation))
    assert "as soon as `tiw-fsm run` is started again" in words(html(simulation))
    assert "running, as of" in words(html(simulation, alive=True))


def test_a_refused_start_is_told_on_the_page(simulation: Simulation, tiw: Tiw) -> None:
    die_in_dynamics(simulation)
    write_configs(simulation.root / "configs", {"training": {"embed_dim": 48}})
    assert tiw(simulation.root, "run").returncode == ExitCode.CHANGED
    told = words(simulation.store.paths.page.read_text())
    assert "was refused (exit 5)" in told
    assert "embed_dim" in told


def test_a_loss_that_is_not_finite_can_be_drawn(simulation: Simulation) -> None:
    simulation.run(Script(losses={Stage.VIDEO: [None, 0.005]}))
    drawn = re.findall(r'(?:points|[xy][12]?|c[xy]|d)="[^"]*"', html(simulation))
    assert len(drawn) > 50
    assert [values for values in drawn if "nan" in values] == []


def test_curves_of_many_updates_are_thinned() -> None:
    n = 50_000
    curve = curve_of(np.ones(n), np.arange(1.0, n + 1), np.geomspace(1, 0.01, n), np.full(n, 0.1))
    drawn = figure("default", {Stage.DYNAMICS: Losses([curve])}, {})
    assert drawn is not None
    assert len(drawn) < 40_000


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [-1.0, 1.0], [1e-9, 1e9], [float("nan"), 2.0], [1e-3, 0.02]])
def test_scales_have_finite_ticks_inside(values: list[float]) -> None:
    found = scale(values, 0, 100)
    assert all(-1e-6 <= found(tick) <= 100 + 1e-6 for tick in found.ticks())
    assert len(found.ticks()) < 25


# --- what is not in it ------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>"


def test_nothing_a_run_says_becomes_html(eventful: Simulation) -> None:
    found = seen(eventful)
    assert found.run
    lines = eventful.store.journal()
    evil = json.loads(json.dumps(lines).replace("final 0.", f"{EVIL} 0."))
    assert evil != lines
    attribute = Picture(f'"><b>{EVIL}', problem=EVIL)
    text = page(
        PageData(
            name=EVIL,
            now=f'"{EVIL}',
            run=found.run.evolve(reason=EVIL, flags={EVIL: EVIL}, reports=[EVIL], state=State.FAILED),
            past=Past(evil),
            losses=found.losses,
            config={EVIL: {EVIL: EVIL}},
            attempts={3: attribute},
            refused={"message": EVIL},
            problems=[EVIL],
        )
    )
    assert text.count("<script>") == 1
    assert "<b><" not in text
    assert text.count("&lt;script&gt;") > 10


def test_it_refers_to_nothing_outside_itself(eventful: Simulation) -> None:
    text = html(eventful)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r'"data:[^"]*"|^ *// .*$', "", text, flags=re.M))
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', text)) == {"data:"}
    assert "default-src 'none'" in text


# --- what cannot be read ----------------------------------------------------------------------------------------


def spoil_gone(path: Path) -> None:
    path.unlink()


def spoil_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def spoil_huge(path: Path) -> None:
    with open(path, "ab") as file:
        file.truncate(writer.LARGEST + 1)


def spoil_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [spoil_gone, spoil_torn, spoil_huge, spoil_pipe])
def test_a_picture_that_cannot_be_shown_is_said(eventful: Simulation, spoil: Callable[[Path], None]) -> None:
    best = eventful.state.inference.best_attempt
    assert best
    assert best.png
    spoil(Path(best.png))
    text = html(eventful)
    assert f"{Path(best.png).name}: not shown, " in words(text)
    assert 'alt="Attempt 3, the best: ' not in text
    assert 'alt="Attempt 2: ' in text


def test_metrics_or_config_that_cannot_be_used_are_said_and_the_rest_is_shown(eventful: Simulation) -> None:
    (eventful.root / "results/default/dynamics/metrics.jsonl").write_text("")
    text = html(eventful)
    assert "The losses of dynamics are not shown: " in words(text)
    assert "loss of video_tokenizer" in text
    eventful.store.paths.config.write_text("{}")
    assert "neither configuration nor losses are shown" in words(html(eventful))


# --- the rollout in motion --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "together"), [(8, 2), (16, 2), (16, 4), (72, 2), (100, 4)])
def test_the_motion_has_exactly_the_first_two_rows_of_each_clip(tmp_path: Path, size: int, together: int) -> None:
    rows = strips(frames=5, size=size, rows=2 * together)
    pictures.draw_strips(tmp_path / "strips.png", "title", rows, together)
    moving = pictures.motion((tmp_path / "strips.png").read_bytes())
    assert moving
    with Image.open(io.BytesIO(moving)) as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert len(shown) == 5
    step = size + pictures.GAP
    for t, frame in enumerate(shown):
        for n, (_, row) in enumerate(rows):
            y, x = n % together * step, n // together * step
            if n % together > 1:
                continue
            assert (frame[y : y + size, x : x + size] == row[t]).all()


def test_a_picture_of_another_making_has_no_motion(tmp_path: Path) -> None:
    Image.new("RGB", (90, 90)).save(tmp_path / "other.png")
    assert pictures.motion((tmp_path / "other.png").read_bytes()) is None
    assert pictures.motion(b"no picture") is None


# --- the command, and the page a run keeps ----------------------------------------------------------------------


def test_report_writes_the_page_and_says_where(eventful: Simulation, tiw: Tiw) -> None:
    done = tiw(eventful.root, "report")
    assert done.stdout == "state/default/report.html is written: open it in a browser.\n"
    said = json.loads(tiw(eventful.root, "report", "--json").stdout)
    assert Path(said["path"]).read_text().startswith("<!doctype html>")
    assert not list(eventful.store.paths.folder.glob("*.tmp"))


def test_report_of_a_damaged_run_says_what_is_damaged_and_writes_nothing(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    for path in (simulation.store.paths.state, simulation.store.paths.previous):
        path.write_text("{")
    done = tiw(simulation.root, "report")
    assert done.returncode == ExitCode.DAMAGED
    assert "state.json is damaged" in done.stderr
    assert not simulation.store.paths.page.exists()


def test_a_run_leaves_its_page_up_to_date(simulation: Simulation, tiw: Tiw) -> None:
    assert tiw(simulation.root, "run", "--engine", "simulated").returncode == ExitCode.PASSED
    text = simulation.store.paths.page.read_text()
    assert 'class="state visited current passed"' in text
    assert 'class="life ended"' in text
    assert "the reports are written" in text


def test_a_run_that_cannot_write_its_page_warns_once_and_passes(simulation: Simulation, tiw: Tiw) -> None:
    (simulation.store.paths.page / "in the way").mkdir(parents=True)
    done = tiw(simulation.root, "run", "--engine", "simulated")
    assert done.returncode == ExitCode.PASSED
    assert done.stderr.count("report.html is not up to date") == 1


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_the_page_is_written_at_most_every_ten_seconds_and_at_the_end(simulation: Simulation) -> None:
    simulation.run()
    clock = Clock()
    page_writer = PageWriter(simulation.store, structlog.get_logger(), clock)
    written = simulation.store.paths.page
    found = []
    for clock.time in (0, 1, 9.9, 10, 19, 20):
        written.unlink(missing_ok=True)
        page_writer.committed()
        found.append(written.exists())
    assert found == [True, False, False, True, False, True]
    written.unlink()
    page_writer.ended()
    assert written.exists()


def test_a_page_that_takes_long_is_written_the_more_seldom(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, times = Clock(), []

    def slow(store: object, *, alive: bool, reader: object) -> None:
        times.append(clock.time)
        clock.time += 2

    monkeypatch.setattr(writer, "refresh", slow)
    page_writer = PageWriter(simulation.store, structlog.get_logger(), clock)
    while clock.time < 1000:
        page_writer.committed()
        clock.time += 1
    assert min(np.diff(times)) >= 2 / SHARE > INTERVAL


def test_no_failure_of_the_page_reaches_the_run(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation.run()

    class FullDisk:
        said = 0

        def warning(self, what: str) -> None:
            self.said += 1
            raise DiskRefused("no space left for the log either")

    def broken(found: PageData) -> str:
        raise RuntimeError("a bug")

    log = FullDisk()
    page_writer = PageWriter(simulation.store, log)  # type: ignore[arg-type]
    monkeypatch.setattr(writer, "page", broken)
    page_writer.committed()
    page_writer.ended()
    assert log.said == 1
