"""The retrospective: why the run ended as it did, what each retune changed, what to try next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tiw_fsm.fsm.chunk_gate import ACCEPTING
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting.advice import next_steps, verdict_line
from tiw_fsm.reporting.figures import FIGURES, GATES, figures, gate_of
from tiw_fsm.reporting.journal import attempts as journal_attempts
from tiw_fsm.reporting.journal import chunk_gates, tuning_change
from tiw_fsm.reporting.markdown.report_data import ReportData, overview
from tiw_fsm.reporting.markdown.tables import Lines, escaped, table
from tiw_fsm.reporting.wording import change
from tiw_fsm.stages import Stage
from tiw_fsm.values.plain import JsonObject


def retrospective(data: ReportData) -> Lines:
    """Why the run ended as it did, what each retune changed and did, what to try next."""
    best = data.best
    return [
        f"# Train-to-inference retrospective: {escaped(data.run.run)}",
        "",
        *overview(data),
        f"## Why it {'failed' if data.run.failed_in else 'passed'}",
        "",
        *(f"- {sentence}" for sentence in _why(data)),
        "",
        "## Inference attempts",
        "",
        *table(
            (*ATTEMPT, *FIGURES, "tokenizer MSE", "judged by", "not met", "file"),
            [_attempt_row(data, attempt) for attempt in data.attempts],
        ),
        *(data.picture(best.png, f"Best attempt ({best.number}), ground truth against prediction") if best else []),
        "## Retunes",
        "",
        *_retunes(data),
        "## Rejected chunks",
        "",
        *_rejections(data),
        "## What to try next",
        "",
        *(f"- {advice}" for advice in next_steps(data.run)),
        "",
        "## Config alignment",
        "",
        "Every file that names a shared value, as it was read; values of one key agree.",
        "",
        *table(("key", "where", "value"), data.settings.alignment),
        *data.curves_section(),
        *data.sources(),
    ]


ATTEMPT = ("attempt", "dynamics updates", "MSE", "largest allowed")

SPENT: dict[str, Callable[[RunState], str]] = {
    "max_inference_retries": lambda run: f"{run.retunes} retunes",
    "max_train_retries": lambda run: f"{_at_failure(run, 'retries')} repeats of one chunk",
    "max_crashes": lambda run: f"{_at_failure(run, 'crashes')} process deaths in a row",
    "max_stalled_starts": lambda run: f"over {run.loop.budgets.max_stalled_starts} starts in a row without progress",
}
"""What was used of a budget, in words."""


def _at_failure(run: RunState, what: str) -> int:
    """A count of the stage a run failed in, or of inference."""
    stage = run.failed_in and run.evolve(state=run.failed_in).stage
    count: int = getattr(run.stages[stage] if stage else run.inference, what)
    return count


def _why(data: ReportData) -> Lines:
    """The outcome in plain sentences."""
    run, last, best = data.run, data.attempts[-1] if data.attempts else None, data.best
    if run.failed_in is None:
        sentences = [f"Attempt {last.number} met every condition of the inference gate."] if last else []
    else:
        budget = run.budget_used or ""
        allowed = run.loop.budgets.model_dump()[budget]
        sentences = [f"{escaped(run.reason)}: {SPENT[budget](run)}, and `{budget}` allows {allowed}."]
    if run.failed_in is not None and run.failed_in not in (State.GATE, State.INFER):
        sentences += [
            f"The last stage gate: {g['stage']}, {g['decision']} ({escaped(g['reason'])})."
            for g in chunk_gates(step.line for step in data.steps)[-1:]
        ]
        sentences += [] if last else ["The run never came to the inference gate."]
    if best and last and best.number != last.number:
        sentences.append(f"Best attempt: {escaped(verdict_line(best.model_dump()))}.")
    if last:
        sentences.append(f"Last attempt: {escaped(verdict_line(last.model_dump()))}.")
    if run.loop.inference.allow_trivial:
        sentences.append("With --allow-trivial nothing was asked beyond the MSE: passing says little about the world.")
    return sentences


def _attempt_row(data: ReportData, attempt: Attempt) -> tuple[Any, ...]:
    failed = ", ".join(name for name, held in attempt.conditions.items() if not held) or "—"
    document = attempt.model_dump()
    told, gate = figures(document), gate_of(document)
    return (
        *(attempt.number, attempt.updates, attempt.mse, attempt.max_mse),
        *(told.get(name) for name in FIGURES),
        *(attempt.tokenizer_mse, gate and GATES[gate], failed, data.link(attempt.result)),
    )


def _retunes(data: ReportData) -> Lines:
    """Each retune: what it changed, and MSE and loss before and after it."""
    rows, lines = [], [step.line for step in data.steps]
    for index, step in enumerate(data.steps):
        if step.event != "retuned":
            continue
        older, newer = lines[:index], _until_next_retune(lines[index + 1 :])
        mse = change(*(_mse(attempts) for attempts in (journal_attempts(older)[-1:], journal_attempts(newer)[:1])))
        planned = [step for step in data.steps[:index] if step.event == Event.GATE_FAILED][-1]
        for stage in step.facts["stages"]:
            loss = change(*(_final(chunk_gates(part, Stage(stage))) for part in (older, newer)))
            file = data.link(data.paths.metrics(Stage(stage)))
            rows.append((step.facts["retune"], stage, tuning_change(planned, stage), mse, loss, file))
    return table(("retune", "stage", "what it changed", "MSE", "final loss", "loss from"), rows)


def _until_next_retune(journal: Sequence[JsonObject]) -> Sequence[JsonObject]:
    ends = [index for index, line in enumerate(journal) if line["event"] == "retuned"]
    return journal[: ends[0]] if ends else journal


def _mse(attempts: Sequence[Attempt]) -> float | None:
    return attempts[0].mse if attempts else None


def _final(found: Sequence[JsonObject]) -> float | None:
    """The final loss at the last gate that accepted, or at the last one if none did."""
    accepted = [facts for facts in found if facts["decision"] in ACCEPTING]
    last = (accepted or found or [{"metrics": {}}])[-1]
    loss: float | None = last["metrics"].get("final")
    return loss


def _rejections(data: ReportData) -> Lines:
    rows = [
        (
            s.facts["stage"],
            s.facts["completed"],
            s.facts["decision"],
            s.facts["reason"],
            tuning_change(s, s.facts["stage"]),
        )
        for s in data.steps
        if s.event == Event.REJECTED
    ]
    return table(("stage", "at update", "decision", "reason", "config patch applied"), rows)
