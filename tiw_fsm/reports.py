"""The three Markdown reports of the user's document, made from the state and its journal.

Loss curves come from the metrics files and figures per step from the attempts' result files; the reports link to them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tiw_fsm import durable
from tiw_fsm.advice import next_steps, verdict_line
from tiw_fsm.config import Settings
from tiw_fsm.durable import Mark
from tiw_fsm.errors import disk_errors
from tiw_fsm.history import Step, steps
from tiw_fsm.paths import RunPaths, StatePaths
from tiw_fsm.run_state import Attempt, RunState
from tiw_fsm.stages import Stage
from tiw_fsm.state_folder import Json
from tiw_fsm.states import State

Lines = list[str]


def gates(journal: Iterable[Json], stage: Stage | None = None) -> list[Json]:
    """The facts of every stage gate, oldest first."""
    events = ("accepted", "rejected")
    found = [line["facts"] for line in journal if line["event"] in events]
    return [facts for facts in found if stage is None or facts["stage"] == stage]


def judged(journal: Iterable[Json]) -> list[Attempt]:
    """Every judged inference attempt, oldest first; an attempt judged again counts once, by its last verdict."""
    lines = [line["facts"]["attempt"] for line in journal if line["event"] in ("gate_passed", "gate_failed")]
    return list({line["number"]: Attempt.model_validate(line) for line in lines}.values())


def write(run: RunState, journal: Sequence[Json], settings: Settings, paths: RunPaths, state: StatePaths) -> list[Path]:
    """Write the reports. Their names carry the time REPORT was entered, so writing them again replaces them."""
    from tiw_fsm import curves  # brings numpy, which `tiw-fsm check`, which needs this module, does without

    entered = [line["time"] for line in journal if line["to"] == State.REPORT != line["from"]]
    stamp = (entered[-1] if entered else run.updated_at).translate(str.maketrans("-T:", "___", "Z"))
    picture = paths.reports / f"train-to-inference-curves-{stamp}.png"
    metrics = {stage: durable.Ledger(paths.metrics(stage)).read(Mark(), p.metrics) for stage, p in run.stages.items()}
    drawn = curves.draw(picture, metrics, gates(journal))
    tale = Tale(
        run,
        journal,
        settings,
        paths,
        state,
        {name: f"{name}-{stamp}.md" for name in REPORTS},
        picture if drawn else None,
    )
    for name, make in REPORTS.items():
        durable.replace(paths.reports / tale.names[name], ("\n".join(make(tale)) + "\n").encode())
    return [paths.reports / name for name in tale.names.values()]


# --- what the reports are made of -------------------------------------------------------------------------------


@dataclass
class Tale:
    """Everything the reports tell of, and links to it."""

    run: RunState
    journal: Sequence[Json]
    settings: Settings
    paths: RunPaths
    state: StatePaths
    names: Mapping[str, str]
    """File names of the three reports."""
    curves: Path | None

    def __post_init__(self) -> None:
        self.steps = list(steps(self.journal))
        self.attempts = judged(self.journal)

    def link(self, path: str | Path | None, label: str | None = None) -> str:
        """A link that works from the reports' folder; only the name, when there is no such file."""
        if path is None:
            return "none"
        name = label or self._name(Path(path))
        return f"[{name}]({self._relative(path)})" if Path(path).exists() else f"{name} (gone)"

    def picture(self, path: str | Path | None, title: str) -> Lines:
        """An embedded picture with the name of its file, if there is one."""
        if path is None or not Path(path).exists():
            return []
        return [f"![{title}]({self._relative(path)})", "", f"{title}: {self.link(path)}", ""]

    def _name(self, path: Path) -> str:
        root = self.paths.repo_root.resolve()
        return path.resolve().relative_to(root).as_posix() if path.resolve().is_relative_to(root) else str(path)

    def _relative(self, path: str | Path) -> str:
        return quote(os.path.relpath(Path(path).resolve(), self.paths.reports.resolve()))

    def result(self, attempt: Attempt) -> Json:
        """The attempt's file with every figure; empty when it is gone, or not what inference left."""
        path = Path(attempt.result) if attempt.result else None
        if path is None or not path.exists():
            return {}
        with disk_errors("reading", path):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != attempt.result_sha256:
            return {}
        found: Json = json.loads(content)
        return found

    def sources(self) -> Lines:
        """Which files the numbers come from."""
        files = [self.paths.metrics(stage) for stage in Stage if self.paths.metrics(stage).exists()]
        return [
            "## Where the numbers come from",
            "",
            f"- gates, decisions, tuning, events: {self.link(self.state.journal)}",
            *(f"- losses: {self.link(file)}" for file in files),
            *(
                f"- figures of attempt {a.number}: {self.link(a.result)}"
                + ("" if self.result(a) else " (gone or altered since, so not used)")
                for a in self.attempts
                if a.result
            ),
            *(f"- see also: [{name}]({name})" for name in self.names.values()),
        ]

    def curves_section(self) -> Lines:
        return ["## Loss curves", "", *(self.picture(self.curves, "Loss curves") or ["No update was recorded.", ""])]


def _shown(value: Any) -> str:
    """A value for people: six digits are enough to find it in its file."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "—" if value is None else str(value)


def _table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> Lines:
    """A Markdown table with an empty line after it; one sentence when it would be empty."""
    body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    if not body:
        return ["None.", ""]
    return ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers), *body, ""]


def _cell(value: Any) -> str:
    return _shown(value).replace("|", "\\|").replace("\n", " ")


def _bullets(items: Mapping[str, Any]) -> Lines:
    return [*(f"- {name}: {_shown(value)}" for name, value in items.items() if value is not None), ""]


def _change(before: Any, after: Any) -> str:
    return f"{_shown(before)} → {_shown(after)}"


def patch_of(step: Step, stage: str) -> str:
    """What a step changed in a stage's settings: the config patch applied."""
    old, new = (state.get("stages", {}).get(stage, {}) for state in (step.before, step.after))
    if not old or not new:
        return ""
    pairs = {key: (old["tuning"][key], value) for key, value in new["tuning"].items()}
    pairs["target"] = (old["target"], new["target"])
    return ", ".join(f"{key} {_change(*pair)}" for key, pair in pairs.items() if pair[0] != pair[1])


# --- runtime report ---------------------------------------------------------------------------------------------


def runtime_report(tale: Tale) -> Lines:
    """Checkpoints, inference attempts with every condition, training calls, events."""
    run = tale.run
    lines = [f"# Train-to-inference report: {run.run}", "", *_overview(tale), "## Checkpoints", ""]
    lines += _table(
        ("stage", "updates", "target", "checkpoint", "SHA-256"),
        [
            (stage, p.completed, p.target, *((tale.link(p.checkpoint.path), f"`{p.checkpoint.sha256}`")))
            if p.checkpoint
            else (stage, p.completed, p.target, "none", "")
            for stage, p in run.stages.items()
        ],
    )
    lines += ["## Inference attempts", ""]
    for attempt in tale.attempts:
        lines += _attempt_section(tale, attempt)
    lines += [] if tale.attempts else ["None.", ""]
    lines += ["## Training calls", ""]
    lines += _table(
        ("stage", "chunk attempt", "from update", "to update", "checkpoints", "seconds", "process deaths", "decision"),
        [tuple(call.values()) for call in _calls(tale.steps)],
    )
    return [*lines, "## Events", "", *_events(tale.steps), *tale.curves_section(), *tale.sources()]


def _overview(tale: Tale) -> Lines:
    run = tale.run
    return [
        *_bullets(
            {
                "status": f"**{'failed' if run.failed_in else 'passed'}**",
                "reason": run.reason,
                "run root": tale.settings.run_root,
                "trained stages": run.train_stage,
                "device": run.fingerprint.device if run.fingerprint else None,
                "began": run.created_at or None,
                "retunes": run.retunes,
                "interruptions": run.interruptions,
            }
        )[:-1],
        *_inexact(run),
        "",
    ]


def _inexact(run: RunState) -> Lines:
    """From where on the run is not bitwise what one machine would have made."""
    return [
        f"- **no longer bitwise the same run** from update {i.completed} of {i.stage or 'no stage'} on: {i.what}"
        for i in run.inexact
    ]


FIGURES = {
    "mse": "MSE of generated frames",
    "mse_with_context": "MSE with the context frames, as TinyWorlds itself defines it",
    "mse_random_actions": "MSE with random actions",
    "tokenizer_mse": "MSE of the tokenizer alone, the floor of any rollout",
    "unique_actions": "distinct actions inferred",
    "action_entropy": "entropy of the actions",
    "frames_inferred": "frames inferred",
}
"""Keys of an attempt's result file → what they mean."""


def _attempt_section(tale: Tale, attempt: Attempt) -> Lines:
    result = tale.result(attempt)
    figures = [(meaning, result[key], f"`{key}`") for key, meaning in FIGURES.items() if result.get(key) is not None]
    figures += [(f"MSE of baseline {name}", mse, f"`baselines.{name}`") for name, mse in attempt.baselines.items()]
    return [
        f"### Attempt {attempt.number}: {'passed' if attempt.passed else 'failed'}",
        "",
        verdict_line(attempt.model_dump()) + ".",
        "",
        *_bullets(
            {
                "dynamics updates": attempt.updates,
                "largest MSE allowed": attempt.max_mse,
                "skill (1 − MSE / best baseline)": attempt.skill,
                "error": result.get("error"),
                "every figure": tale.link(attempt.result),
            }
        ),
        *_table(("condition", "met"), attempt.conditions.items()),
        *_table(("figure", "value", "key in the result file"), figures),
        *_per_step(result),
        *tale.picture(attempt.png, f"Attempt {attempt.number}, ground truth against prediction"),
    ]


def _per_step(result: Json) -> Lines:
    """How the error grows with each generated frame."""
    columns = {"MSE": result.get("mse_per_step"), **result.get("baselines_per_step", {})}
    columns["skill"] = result.get("skill_per_step")
    columns = {name: values for name, values in columns.items() if values}
    if "MSE" not in columns:
        return []
    rows = enumerate(zip(*columns.values(), strict=False), start=1)
    return _table(("generated frame", *columns), [(number, *values) for number, values in rows])


DEATHS = ("crashed", "out_of_memory")


def _calls(history: Iterable[Step]) -> Iterable[Json]:
    """One entry per chunk attempt: where it began, what it saved, how it was judged."""
    calls: dict[tuple[str, int], Json] = {}
    for step in history:
        stage = step.facts.get("stage")
        if step.event not in ("saved", "accepted", "rejected", *DEATHS) or stage is None:
            continue
        before = step.before["stages"][stage]
        begun = {"stage": stage, "attempt": before["attempt"], "from": before["completed"], "to": before["completed"]}
        rest = {"saved": 0, "seconds": 0.0, "deaths": 0, "decision": "not judged"}
        call = calls.setdefault((stage, before["attempt"]), begun | rest)
        call["to"] = max(call["to"], step.facts["completed"])
        call["saved"] += step.event == "saved"
        call["seconds"] = round(call["seconds"] + step.facts.get("seconds", 0.0), 3)
        call["deaths"] += step.event in DEATHS
        call["decision"] = step.facts.get("decision", call["decision"])
    return calls.values()


UNUSUAL = ("crashed", "out_of_memory", "interrupted", "started", "reopened", "stalled", "result_lost")
"""Journal events that are not the plain course of a run."""


def _events(history: Iterable[Step]) -> Lines:
    rows = []
    for step in history:
        if step.event not in UNUSUAL:
            continue
        stage = step.facts.get("stage")
        where = f"{stage} at or after update {step.facts['completed']}" if stage else step.line["from"]
        patch = patch_of(step, stage) if stage else ""
        rows.append((step.line["time"], step.event, where, step.words, patch))
    return _table(("time", "event", "where", "what", "config patch applied"), rows)


# --- retrospective ----------------------------------------------------------------------------------------------


def retrospective(tale: Tale) -> Lines:
    """Why the run ended as it did, what each retune changed and did, what to try next."""
    best = tale.run.inference.best
    return [
        f"# Train-to-inference retrospective: {tale.run.run}",
        "",
        *_overview(tale),
        f"## Why it {'failed' if tale.run.failed_in else 'passed'}",
        "",
        *(f"- {sentence}" for sentence in _why(tale)),
        "",
        "## Inference attempts",
        "",
        *_table(
            ("attempt", "dynamics updates", "MSE", "largest allowed", "skill", "tokenizer MSE", "not met", "file"),
            [_attempt_row(tale, attempt) for attempt in tale.attempts],
        ),
        *(tale.picture(best.png, f"Best attempt ({best.number}), ground truth against prediction") if best else []),
        "## Retunes",
        "",
        *_retunes(tale),
        "## Rejected chunks",
        "",
        *_rejections(tale),
        "## What to try next",
        "",
        *(f"- {advice}" for advice in next_steps(tale.run)),
        "",
        "## Config alignment",
        "",
        "Every file that names a shared value, as it was read; values of one key agree.",
        "",
        *_table(("key", "where", "value"), tale.settings.alignment),
        *tale.curves_section(),
        *tale.sources(),
    ]


SPENT: dict[str, Callable[[RunState], str]] = {
    "max_inference_retries": lambda run: f"{run.retunes} retunes",
    "max_train_retries": lambda run: f"{_at_failure(run, 'retries')} repeats of one chunk",
    "max_crashes": lambda run: f"{_at_failure(run, 'crashes')} process deaths in a row",
    "max_stalled_starts": lambda run: f"over {run.loop.budgets.max_stalled_starts} starts in a row without progress",
}
"""What was used of a budget, in words."""


def _at_failure(run: RunState, what: str) -> int:
    """A count of the stage a run failed in, or of inference."""
    stage = run.failed_in and run.but(state=run.failed_in).stage
    count: int = getattr(run.stages[stage] if stage else run.inference, what)
    return count


def _why(tale: Tale) -> Lines:
    """The outcome in plain sentences."""
    run, last, best = tale.run, tale.attempts[-1] if tale.attempts else None, tale.run.inference.best
    if run.failed_in is None:
        told = [f"Attempt {last.number} met every condition of the inference gate."] if last else []
    else:
        budget = run.budget_used or ""
        allowed = run.loop.budgets.model_dump()[budget]
        told = [f"{run.reason}: {SPENT[budget](run)}, and `{budget}` allows {allowed}."]
    if run.failed_in is not None and run.failed_in not in (State.GATE, State.INFER):
        told += [
            f"The last stage gate: {g['stage']}, {g['decision']} ({g['reason']})." for g in gates(tale.journal)[-1:]
        ]
        told += [] if last else ["The run never came to the inference gate."]
    if best and last and best.number != last.number:
        told.append(f"Best attempt: {verdict_line(best.model_dump())}.")
    if last:
        told.append(f"Last attempt: {verdict_line(last.model_dump())}.")
    if run.loop.inference.allow_trivial:
        told.append("With --allow-trivial the baselines were no conditions: passing says little about skill.")
    return told


def _attempt_row(tale: Tale, attempt: Attempt) -> tuple[Any, ...]:
    failed = ", ".join(name for name, held in attempt.conditions.items() if not held) or "—"
    figures = (attempt.updates, attempt.mse, attempt.max_mse, attempt.skill, attempt.tokenizer_mse)
    return (attempt.number, *figures, failed, tale.link(attempt.result))


def _retunes(tale: Tale) -> Lines:
    """Each retune: what it changed, and MSE and loss before and after it."""
    rows = []
    for index, step in enumerate(tale.steps):
        if step.event != "retuned":
            continue
        older, newer = tale.journal[:index], _until_next_retune(tale.journal[index + 1 :])
        mse = _change(*(_mse(attempts) for attempts in (judged(older)[-1:], judged(newer)[:1])))
        planned = [step for step in tale.steps[:index] if step.event == "gate_failed"][-1]
        for stage in step.facts["stages"]:
            loss = _change(*(_final(gates(lines, Stage(stage))) for lines in (older, newer)))
            file = tale.link(tale.paths.metrics(Stage(stage)))
            rows.append((step.facts["retune"], stage, patch_of(planned, stage), mse, loss, file))
    return _table(("retune", "stage", "what it changed", "MSE", "final loss", "loss from"), rows)


def _until_next_retune(journal: Sequence[Json]) -> Sequence[Json]:
    ends = [index for index, line in enumerate(journal) if line["event"] == "retuned"]
    return journal[: ends[0]] if ends else journal


def _mse(attempts: Sequence[Attempt]) -> float | None:
    return attempts[0].mse if attempts else None


def _final(found: Sequence[Json]) -> float | None:
    """The final loss at the last gate that accepted, or at the last one if none did."""
    accepted = [facts for facts in found if facts["decision"] in ("continue", "watch")]
    last = (accepted or found or [{"metrics": {}}])[-1]
    loss: float | None = last["metrics"].get("final")
    return loss


def _rejections(tale: Tale) -> Lines:
    rows = [
        (s.facts["stage"], s.facts["completed"], s.facts["decision"], s.facts["reason"], patch_of(s, s.facts["stage"]))
        for s in tale.steps
        if s.event == "rejected"
    ]
    return _table(("stage", "at update", "decision", "reason", "config patch applied"), rows)


# --- auto-training-loop report ----------------------------------------------------------------------------------

GATE_COLUMNS = ("updates", "attempt", "decision", "reason", "resumes from", "config patch applied", "picture")


def training_report(tale: Tale) -> Lines:
    """Per stage, every gate: update, decision, metrics, resume point, config patch applied."""
    lines = [f"# Auto training loop report: {tale.run.run}", "", *_overview(tale), *tale.curves_section()]
    for stage in Stage:
        if stage in tale.run.stages:
            lines += _stage_section(tale, stage)
    return lines + tale.sources()


def _stage_section(tale: Tale, stage: Stage) -> Lines:
    progress, metrics = tale.run.stages[stage], tale.paths.metrics(stage)
    history = [s for s in tale.steps if s.event in ("accepted", "rejected") and s.facts["stage"] == stage]
    return [
        f"## {stage}",
        "",
        *_bullets(
            {
                "target updates": progress.target,
                "completed updates": progress.completed,
                "updates between gates": tale.run.loop.chunks[stage],
                "accepted checkpoint": tale.link(progress.accepted.path) if progress.accepted else "none",
                "metrics of every update": tale.link(metrics) if metrics.exists() else "none",
                **{f"{key} now": value for key, value in progress.tuning.model_dump().items()},
            }
        ),
        "### Gates",
        "",
        *_table(GATE_COLUMNS, [_gate_row(tale, step) for step in history]),
        "### Metrics at the gates",
        "",
        *_gate_metrics([step.facts for step in history]),
        "### Other changes of its settings",
        "",
        *_other_patches(tale.steps, stage),
    ]


def _gate_row(tale: Tale, step: Step) -> tuple[Any, ...]:
    facts, resume = step.facts, step.after["stages"][step.facts["stage"]].get("checkpoint")
    picture = tale.link(facts["picture"], Path(facts["picture"]).name) if facts["picture"] else "none"
    start = f"`{Path(resume['path']).name}`" if resume else "the beginning"
    verdict = (facts["completed"], facts["attempt"], facts["decision"], facts["reason"])
    return (*verdict, start, patch_of(step, facts["stage"]) or "none", picture)


def _gate_metrics(found: Sequence[Json]) -> Lines:
    names = list(dict.fromkeys(name for facts in found for name in facts["metrics"]))
    rows = [
        (facts["completed"], facts["attempt"], facts["decision"], *(facts["metrics"].get(name) for name in names))
        for facts in found
    ]
    return _table(("updates", "attempt", "decision", *names), rows)


def _other_patches(history: Iterable[Step], stage: Stage) -> Lines:
    """Config patches that no stage gate applied: retunes, halved batches, accepted changes of the config."""
    rows = [
        (step.line["time"], "retune" if step.event == "gate_failed" else step.event, patch)
        for step in history
        if step.event not in ("accepted", "rejected") and (patch := patch_of(step, stage))
    ]
    return _table(("time", "event", "config patch applied"), rows)


REPORTS: dict[str, Callable[[Tale], Lines]] = {
    "train-to-inference-report": runtime_report,
    "train-to-inference-retrospective": retrospective,
    "auto-training-loop-report": training_report,
}
