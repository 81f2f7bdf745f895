"""The auto-training-loop report: every stage gate, with its metrics and what it changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tiw_fsm.fsm.events import CHUNK_JUDGED, Event
from tiw_fsm.reporting.journal import Step, tuning_change
from tiw_fsm.reporting.markdown.report_data import ReportData, overview
from tiw_fsm.reporting.markdown.tables import Lines, bullets, code, escaped, table
from tiw_fsm.stages import Stage
from tiw_fsm.values.plain import JsonObject

GATE_COLUMNS = ("updates", "attempt", "decision", "reason", "resumes from", "config patch applied", "picture")


def training_report(data: ReportData) -> Lines:
    """Per stage, every gate: update, decision, metrics, resume point, config patch applied."""
    lines = [f"# Auto training loop report: {escaped(data.run.run)}", "", *overview(data), *data.curves_section()]
    for stage in Stage:
        if stage in data.run.stages:
            lines += _stage_section(data, stage)
    return lines + data.sources()


def _stage_section(data: ReportData, stage: Stage) -> Lines:
    progress, metrics = data.run.stages[stage], data.paths.metrics(stage)
    history = [s for s in data.steps if s.event in CHUNK_JUDGED and s.facts["stage"] == stage]
    return [
        f"## {stage}",
        "",
        *bullets(
            {
                "target updates": progress.target,
                "completed updates": progress.completed,
                "updates between gates": data.run.loop.chunks[stage],
                "accepted checkpoint": data.link(progress.accepted.path) if progress.accepted else "none",
                "metrics of every update": data.link(metrics) if metrics.exists() else "none",
                **{f"{key} now": value for key, value in progress.tuning.model_dump().items()},
            }
        ),
        "### Gates",
        "",
        *table(GATE_COLUMNS, [_gate_row(data, step) for step in history]),
        "### Metrics at the gates",
        "",
        *_gate_metrics([step.facts for step in history]),
        "### Other changes of its settings",
        "",
        *_other_patches(data.steps, stage),
    ]


def _gate_row(data: ReportData, step: Step) -> tuple[Any, ...]:
    facts, resume = step.facts, step.after["stages"][step.facts["stage"]].get("checkpoint")
    picture = data.link(facts["picture"], Path(facts["picture"]).name) if facts["picture"] else "none"
    start = code(Path(resume["path"]).name) if resume else "the beginning"
    verdict = (facts["completed"], facts["attempt"], facts["decision"], facts["reason"])
    return (*verdict, start, tuning_change(step, facts["stage"]) or "none", picture)


def _gate_metrics(found: Sequence[JsonObject]) -> Lines:
    names = list(dict.fromkeys(name for facts in found for name in facts["metrics"]))
    rows = [
        (facts["completed"], facts["attempt"], facts["decision"], *(facts["metrics"].get(name) for name in names))
        for facts in found
    ]
    return table(("updates", "attempt", "decision", *names), rows)


def _other_patches(history: Iterable[Step], stage: Stage) -> Lines:
    """Config patches that no stage gate applied: retunes, halved batches, accepted changes of the config."""
    rows = [
        (step.line["time"], "retune" if step.event == Event.GATE_FAILED else step.event, patch)
        for step in history
        if step.event not in CHUNK_JUDGED and (patch := tuning_change(step, stage))
    ]
    return table(("time", "event", "config patch applied"), rows)
