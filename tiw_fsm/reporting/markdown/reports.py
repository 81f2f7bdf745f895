"""The three Markdown reports of the user's document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tiw_fsm.config.settings import Settings
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting.journal import chunk_gates
from tiw_fsm.reporting.markdown.report_data import ReportData
from tiw_fsm.reporting.markdown.retrospective import retrospective
from tiw_fsm.reporting.markdown.runtime import runtime_report
from tiw_fsm.reporting.markdown.tables import Lines
from tiw_fsm.reporting.markdown.training_loop import training_report
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.system import append_log, durable
from tiw_fsm.values.plain import JsonObject, LogPosition


def write(
    run: RunState, journal: Sequence[JsonObject], settings: Settings, paths: RunPaths, state: StatePaths
) -> list[Path]:
    """Write the reports. Their names carry the run, the time REPORT was entered and how often it has been, so writing
    them again replaces them, and nothing else does."""
    # These bring numpy, which `tiw-fsm check`, which needs this module, does without.
    from tiw_fsm.reporting import curves
    from tiw_fsm.reporting.html.loss import figure

    entered = [line["time"] for line in journal if line["to"] == State.REPORT != line["from"]]
    stamp = (entered[-1] if entered else run.updated_at).translate(str.maketrans("-T:", "___", "Z"))
    mine = f"{stamp}_{run.mark}_{len(entered)}"
    picture = paths.reports / f"train-to-inference-curves-{mine}.svg"
    found = {
        stage: curves.read(append_log.AppendLog(paths.metrics(stage)).read(LogPosition(), progress.metrics))
        for stage, progress in run.stages.items()
    }
    if drawing := figure(run.run, found, chunk_gates(journal)):
        durable.replace(picture, drawing.encode())
    data = ReportData(
        run,
        journal,
        settings,
        paths,
        state,
        {name: f"{name}-{mine}.md" for name in REPORTS},
        picture if drawing else None,
    )
    for name, make in REPORTS.items():
        durable.replace(paths.reports / data.names[name], ("\n".join(make(data)) + "\n").encode())
    return [paths.reports / name for name in data.names.values()]


REPORTS: dict[str, Callable[[ReportData], Lines]] = {
    "train-to-inference-report": runtime_report,
    "train-to-inference-retrospective": retrospective,
    "auto-training-loop-report": training_report,
}
