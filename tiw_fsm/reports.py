"""The three Markdown reports of the user's document, made from the state and its journal alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tiw_fsm.config import Settings
from tiw_fsm.paths import RunPaths
from tiw_fsm.run_state import Attempt, RunState
from tiw_fsm.stages import Stage
from tiw_fsm.store import replace_durably

Json = dict[str, Any]


def verdict_line(attempt: Attempt) -> str:
    """One inference verdict in one line."""
    verdict = "PASSED" if attempt.passed else "FAILED"
    if attempt.mse is None:
        return f"inference gate, attempt {attempt.number}: {verdict}; no MSE was measured"
    baselines = ", ".join(f"{name} {value:.4f}" for name, value in attempt.baselines.items())
    failed = [name for name, held in attempt.conditions.items() if not held]
    line = f"inference gate, attempt {attempt.number}: {verdict}, MSE {attempt.mse:.4f}"
    line += f" (max {attempt.max_mse:g}; {baselines})"
    if attempt.skill is not None:
        line += f", skill {attempt.skill:+.3f}"
        if attempt.passed and attempt.skill <= 0:
            line += " (passed without positive skill: a trivial prediction does as well)"
    return line + (f"; not met: {', '.join(failed)}" if failed else "")


def write(run: RunState, journal: Sequence[Json], settings: Settings, paths: RunPaths) -> list[Path]:
    """Write the reports. Their names carry the time REPORT was entered, so writing them again replaces them."""
    stamp = run.updated_at.replace("-", "_").replace("T", "_").replace(":", "_").rstrip("Z")
    texts = {
        f"train-to-inference-report-{stamp}.md": runtime_report(run, journal, settings),
        f"train-to-inference-retrospective-{stamp}.md": retrospective(run, journal, settings),
        f"auto-training-loop-report-{stamp}.md": training_report(run, journal, settings),
    }
    for name, text in texts.items():
        replace_durably(paths.reports / name, text.encode())
    return [paths.reports / name for name in texts]


def runtime_report(run: RunState, journal: Sequence[Json], settings: Settings) -> str:
    """Checkpoints, inference attempts with every condition, training calls."""
    lines = [
        f"# Train-to-inference report: {run.run}",
        "",
        *_bullets(
            status=_status(run),
            reason=run.reason,
            run_root=settings.run_root,
            train_stage=run.train_stage,
            device=run.fingerprint.device if run.fingerprint else None,
            interruptions=run.interruptions,
            no_longer_bitwise_from=[f"{i.stage} update {i.completed}: {i.what}" for i in run.inexact] or None,
        ),
        "",
        "## Checkpoints",
        "",
    ]
    for stage, progress in run.stages.items():
        ref = progress.checkpoint
        lines.append(f"- {stage}: " + (f"`{ref.path}` (SHA-256 `{ref.sha256}`)" if ref else "none"))
    lines += ["", "## Inference attempts", ""]
    for attempt in judged(journal):
        lines += [
            f"### Attempt {attempt.number}",
            "",
            *_bullets(
                passed=attempt.passed,
                dynamics_updates=attempt.updates,
                mse=attempt.mse,
                max_mse=attempt.max_mse,
                skill=attempt.skill,
                tokenizer_mse=attempt.tokenizer_mse,
                picture=attempt.png,
                figures=attempt.result,
                **{f"baseline {name}": value for name, value in attempt.baselines.items()},
            ),
            "",
            "| condition | met |",
            "| --- | --- |",
            *(f"| {name} | {'yes' if held else '**no**'} |" for name, held in attempt.conditions.items()),
            "",
        ]
    lines += ["## Training calls", "", "| stage | chunk attempt | updates | decision |", "| --- | --- | --- | --- |"]
    lines += [f"| {g['stage']} | {g['attempt']} | {g['completed']} | {g['decision']} |" for g in gates(journal)]
    return "\n".join(lines) + "\n"


def retrospective(run: RunState, journal: Sequence[Json], settings: Settings) -> str:
    """Why the run ended as it did, what each retune changed, what to try next."""
    attempts = judged(journal)
    lines = [
        f"# Train-to-inference retrospective: {run.run}",
        "",
        "## Outcome",
        "",
        *_bullets(status=_status(run), reason=run.reason, skipped_baselines=run.loop.inference.allow_trivial or None),
        *(f"- {verdict_line(attempt)}" for attempt in attempts),
        "",
        "## Config alignment",
        "",
        "| key | where | value |",
        "| --- | --- | --- |",
        *(f"| {key} | {where} | {value} |" for key, where, value in settings.alignment),
        "",
        "## Retunes",
        "",
    ]
    retunes = [line["facts"] for line in journal if line["event"] == "retuned"]
    lines += [
        f"- retune {facts['retune']}: dynamics to update {facts['target']}, peak learning rate {facts['learning_rate']:g}"
        + _effect(facts["retune"], attempts)
        for facts in retunes
    ] or ["- none"]
    lines += ["", "## What to try next", "", *(f"- {advice}" for advice in next_steps(run))]
    return "\n".join(lines) + "\n"


def _effect(retune: int, attempts: Sequence[Attempt]) -> str:
    by_number = {attempt.number: attempt for attempt in attempts}
    before, after = by_number.get(retune), by_number.get(retune + 1)
    if before is None or after is None or before.mse is None or after.mse is None:
        return ""
    return f"; MSE {before.mse:.4f} → {after.mse:.4f}"


def next_steps(run: RunState) -> list[str]:
    """Advice that follows from the last attempt."""
    attempt = run.inference.attempts[-1] if run.inference.attempts else None
    if attempt is None:
        return [
            f"{run.reason}: read the last gate's reason in the training report, mend it, raise the budget, run again"
        ]
    advice = []
    if attempt.tokenizer_mse is not None and attempt.tokenizer_mse > attempt.max_mse:
        advice.append(
            f"the tokenizer alone reconstructs the clips with MSE {attempt.tokenizer_mse:.4f}, above {attempt.max_mse:g}: "
            "no dynamics can pass; train the tokenizer longer, or give it more bins or latent dimensions"
        )
    if attempt.unique_actions == 1:
        advice.append("all inferred actions are one code: train the latent actions longer or with another seed")
    if attempt.passed and attempt.skill is not None and attempt.skill <= 0:
        advice.append("the gate passed without positive skill: train dynamics longer before relying on this model")
    if not attempt.passed:
        advice.append("raise --max-inference-retries or --retry-chunk and run again: the run reopens at its gate")
    return advice or ["nothing: the model passed with skill"]


def training_report(run: RunState, journal: Sequence[Json], settings: Settings) -> str:
    """Every stage gate: update, decision, metrics, resume point, tuning in force."""
    lines = [f"# Auto training loop report: {run.run}", "", *_bullets(run_root=settings.run_root, nproc_per_node=1), ""]
    for stage in Stage:
        progress = run.stages.get(stage)
        if progress is None:
            continue
        lines += [
            f"## {stage}",
            "",
            *_bullets(
                target_updates=progress.target,
                completed_updates=progress.completed,
                chunk=run.loop.chunks[stage],
                final_checkpoint=progress.accepted.path if progress.accepted else None,
                metrics=RunPaths(Path(settings.run_root), Path(settings.repo_root)).metrics(stage),
            ),
            "",
            "| gate at update | attempt | decision | reason | resumes from | learning rate | accumulation | batch | picture |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for gate in gates(journal, stage):
            tuning = gate["tuning"]
            resume = gate["checkpoint"] if gate["decision"] != "retune" else gate["accepted"]
            lines.append(
                f"| {gate['completed']} | {gate['attempt']} | {gate['decision']} | {gate['reason']} "
                f"| {Path(resume).name if resume else 'the beginning'} | {tuning['learning_rate']:g} "
                f"| {tuning['gradient_accumulation_steps']} | {tuning['batch_size_per_gpu']} "
                f"| {Path(gate['picture']).name if gate['picture'] else ''} |"
            )
        lines.append("")
    return "\n".join(lines) + "\n"


def gates(journal: Iterable[Json], stage: Stage | None = None) -> list[Json]:
    """The facts of every stage gate, oldest first."""
    events = ("accepted", "rejected")
    found = [line["facts"] for line in journal if line["event"] in events]
    return [facts for facts in found if stage is None or facts["stage"] == stage]


def judged(journal: Iterable[Json]) -> list[Attempt]:
    """Every judged inference attempt, oldest first; an attempt judged again counts once, by its last verdict."""
    lines = [line["facts"]["attempt"] for line in journal if line["event"] in ("gate_passed", "gate_failed")]
    return list({line["number"]: Attempt.model_validate(line) for line in lines}.values())


def _status(run: RunState) -> str:
    return "failed" if run.failed_in else "passed"


def _bullets(**items: Any) -> list[str]:
    return [f"- {name.replace('_', ' ')}: `{value}`" for name, value in items.items() if value is not None]
