"""The runtime report: checkpoints, inference attempts with every condition, training calls, events."""

from __future__ import annotations

from collections.abc import Iterable

from tiw_fsm.fsm.events import DEATHS, Event, RunnerEvent
from tiw_fsm.fsm.inference_gate import Attempt, InferenceResult
from tiw_fsm.reporting import processes
from tiw_fsm.reporting.advice import verdict_line
from tiw_fsm.reporting.figures import GATES, figures, gate_of
from tiw_fsm.reporting.history import words
from tiw_fsm.reporting.journal import Step, tuning_change
from tiw_fsm.reporting.markdown.report_data import ReportData, overview
from tiw_fsm.reporting.markdown.tables import Lines, bullets, code, escaped, table
from tiw_fsm.reporting.wording import shown
from tiw_fsm.storage.store import document_of
from tiw_fsm.values.frozen import meanings
from tiw_fsm.values.plain import JsonObject


def runtime_report(data: ReportData) -> Lines:
    """Checkpoints, inference attempts with every condition, training calls, events."""
    run = data.run
    lines = [f"# Train-to-inference report: {escaped(run.run)}", "", *overview(data), "## Checkpoints", ""]
    lines += table(
        ("stage", "updates", "target", "checkpoint", "SHA-256"),
        [
            (stage, p.completed, p.target, *((data.link(p.checkpoint.path), code(p.checkpoint.sha256))))
            if p.checkpoint
            else (stage, p.completed, p.target, "none", "")
            for stage, p in run.stages.items()
        ],
    )
    lines += ["## Inference attempts", ""]
    for attempt in data.attempts:
        lines += _attempt_section(data, attempt)
    lines += [] if data.attempts else ["None.", ""]
    lines += ["## Training calls", ""]
    lines += table(
        ("stage", "chunk attempt", "from update", "to update", "checkpoints", "seconds", "process deaths", "decision"),
        [tuple(call.values()) for call in data.past.calls],
    )
    return [
        *lines,
        *_processes(document_of(run)),
        "## Events",
        "",
        *_events(data.steps),
        *data.curves_section(),
        *data.sources(),
    ]


def meanings_of_figures() -> dict[str, str]:
    """Keys of an attempt's result file that hold one figure → what they mean."""
    return {
        name: meaning
        for name, meaning in meanings(InferenceResult).items()
        if InferenceResult.model_fields[name].annotation in (int, float, int | None, float | None)
    }


def _attempt_section(data: ReportData, attempt: Attempt) -> Lines:
    result, document = data.result(attempt), attempt.model_dump()
    found = {key: meaning for key, meaning in meanings_of_figures().items() if result.get(key) is not None}
    rows = [(meaning, result[key], _interval(result, key), code(key)) for key, meaning in found.items()]
    rows += [(f"MSE of baseline {name}", mse, "", code(f"baselines.{name}")) for name, mse in attempt.baselines.items()]
    gate = gate_of(document)
    return [
        f"### Attempt {attempt.number}: {'passed' if attempt.passed else 'failed'}",
        "",
        escaped(verdict_line(document)) + ".",
        "",
        *bullets(
            {
                "judged by": gate and GATES[gate],
                "dynamics updates": attempt.updates,
                "largest MSE allowed": attempt.max_mse,
                "skill (1 − MSE / best baseline)": figures(document).get("skill"),
                "error": result.get("error"),
                "every figure": data.link(attempt.result),
            }
        ),
        *table(("condition", "met"), attempt.conditions.items()),
        *table(("figure", "value", "95 % interval", "key in the result file"), rows),
        *_per_step(result),
        *data.picture(attempt.png, f"Attempt {attempt.number}, ground truth against prediction"),
    ]


def _interval(result: JsonObject, key: str) -> str:
    ends = result.get(f"{key}_interval")
    return f"{shown(ends[0])} to {shown(ends[1])}" if ends else ""


def _per_step(result: JsonObject) -> Lines:
    """How the error grows with each generated frame."""
    columns = {"MSE": result.get("mse_per_step"), **result.get("baselines_per_step", {})}
    columns |= {"skill": result.get("skill_per_step"), "ΔPSNR, dB": result.get("delta_psnr_per_step")}
    columns = {name: values for name, values in columns.items() if values}
    if "MSE" not in columns:
        return []
    rows = enumerate(zip(*columns.values(), strict=False), start=1)
    return table(("generated frame", *columns), [(number, *values) for number, values in rows])


def _processes(run: JsonObject) -> Lines:
    """Where it was computed at last, and how an update was shared; nothing where one process did it all."""
    if not processes.several(run):
        return []
    shares = ((stage, processes.share(run, stage)) for stage in run["stages"])
    return [
        "## Processes",
        "",
        *table(("machine", "device", "processes"), [(h["name"], h["device"], h["processes"]) for h in run["hosts"]]),
        *table(
            ("stage", "clips of an update", "processes", "passes of each", "clips of a pass"),
            [(stage, share.clips, *share) for stage, share in shares if share],
        ),
    ]


UNUSUAL = (*DEATHS.values(), *RunnerEvent, Event.REOPENED, Event.STALLED, Event.RESULT_LOST)
"""Journal events that are not the plain course of a run."""


def _events(history: Iterable[Step]) -> Lines:
    rows = []
    for step in history:
        if step.event not in UNUSUAL:
            continue
        stage = step.facts.get("stage")
        where = f"{stage} at or after update {step.facts['completed']}" if stage else step.line["from"]
        patch = tuning_change(step, stage) if stage else ""
        rows.append((step.line["time"], step.event, where, words(step.line), patch))
    return table(("time", "event", "where", "what", "config patch applied"), rows)
