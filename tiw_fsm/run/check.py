"""``tiw-fsm check``: are configs, data and checkpoints ready? Changes nothing and never imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tiw_fsm.config.alignment import FROM_TRAINING
from tiw_fsm.config.settings import Settings
from tiw_fsm.data import content
from tiw_fsm.engines.protocol import EngineKind
from tiw_fsm.errors import TiwFsmError, UsageProblem
from tiw_fsm.run import pace, warm_starts
from tiw_fsm.run.display import Display
from tiw_fsm.run.preflight import data_problems, data_supply, other_sizes
from tiw_fsm.run.session import configured
from tiw_fsm.stages import Stage, stage_of
from tiw_fsm.storage import checkpoint_checks, exports, packed
from tiw_fsm.storage.store import Store


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    problems: list[str]


def findings(store: Store, typed: Mapping[str, Any], repo_root: Path, path: Path | None) -> list[Finding]:
    """What is ready and what is not: the export or the checkpoints at ``path``, or all that the run needs."""
    if path is None:
        return run_findings(store, typed, repo_root)
    if exports.is_export(path):
        return export_findings(path)
    settings = None
    with suppress(TiwFsmError):  # without configs a checkpoint is looked at by itself
        settings = configured(store, store.load(), typed, repo_root)[2]
    return checkpoint_findings(path, settings)


def show(out: Console, found: Sequence[Finding], good: str, bad: str) -> None:
    """Print findings, each as ``good`` or ``bad`` with its problems."""
    for what, problems in found:
        out.print(f"{bad if problems else good:<{max(len(good), len(bad))}}  {what}", soft_wrap=True)
        for problem in problems:
            out.print(f"{'':<{max(len(good), len(bad))}}    {problem}", soft_wrap=True)


def run_findings(store: Store, typed: Mapping[str, Any], repo_root: Path) -> list[Finding]:
    """Configs, data, and the checkpoints that the run's state names."""
    run = store.load()
    try:
        _, kind, settings = configured(store, run, typed, repo_root)
    except UsageProblem as exc:
        return [Finding("configs", exc.problems)]
    without = f"; without effect: {'; '.join(settings.unheard)}" if settings.unheard else ""
    findings = [
        Finding(f"configs are aligned{without}", []),
        _frames_finding(settings, kind, begun=run is not None),
    ]
    if run is None and (slow := pace.told_here(settings, kind)):
        findings.append(Finding(f"pace: {slow}", []))
    for stage, progress in run.stages.items() if run else ():
        if ref := progress.checkpoint:
            findings.append(
                Finding(f"{stage} {ref.path}", checkpoint_checks.problems(Path(ref.path), sha256=ref.sha256))
            )
    return findings


def _frames_finding(settings: Settings, kind: EngineKind, *, begun: bool) -> Finding:
    what = f"frames {settings.data.path}"
    if problems := data_problems(settings, kind, begun=begun) or _undecodable(settings):
        return Finding(what, problems)
    return Finding(f"{what}: {data_supply(settings)}" if settings.needs_frames else what, [])


def _undecodable(settings: Settings) -> list[str]:
    """Why not all rows of the frames can be read; reads them all."""
    if not settings.needs_frames:
        return []
    try:
        with Display(Console(stderr=True)) as display, display.reading() as show:
            content.digests(settings.data, lambda done, total: show(done, total, None))
    except UsageProblem as exc:
        return exc.problems
    return []


def export_findings(path: Path) -> list[Finding]:
    """Whether an export is what was made: each file that is not, or the whole and the checkpoints in it."""
    if wrong := exports.problems(path):
        return [Finding(f"{path / name}", [problem]) for name, problem in wrong.items()]
    config = exports.read_config(path)
    verdict = "passed" if config.passed else "not passed"
    found = [Finding(f"{path}: export of run {config.run}, {verdict}, {exports.count(path)} files", [])]
    for stage, kept in config.provenance.checkpoints.items():
        folder = path / exports.checkpoint(stage, kept.updates)
        found.append(Finding(f"{stage} {folder}", checkpoint_checks.problems(folder, sha256=kept.sha256)))
    return found


def checkpoint_findings(path: Path, settings: Settings | None = None) -> list[Finding]:
    """Every stage's newest checkpoint under a checkpoint folder, a folder of them, or a run root; and whether it was
    made with other sizes than the ``settings`` have, which is no fault of its own.

    A run root is ready for inference when it has all three stages, and they were made for each other.
    """
    if not os.path.exists(path):  # and not pathlib's, which takes offence at a path longer than any
        missing = "no such folder or file; give a checkpoint, a folder of them, a run root, or an export"
        return [Finding(str(path), [missing])]
    with ExitStack() as holding:
        return _checkpoint_findings(path, holding, settings)


def _checkpoint_findings(path: Path, holding: ExitStack, settings: Settings | None) -> list[Finding]:
    if packed.files_in(path):
        stage = stage_of(str(path)) or Stage.VIDEO  # in the sizes that are compared all stages agree
        found = warm_starts.find(path, stage, holding)
        unfit = _unfit(found.folder, stage, settings)
        return [Finding(f"{found.shown}{unfit}", [problem for _, told in found.passed_over for problem in told])]
    folders = {stage: path / stage / "checkpoints" for stage in Stage}
    is_run_root = any(folder.is_dir() for folder in folders.values())
    findings, ready = [], {}
    for stage, folder in folders.items():
        found = warm_starts.find(folder if is_run_root else path, stage, holding)
        findings += [Finding(str(shown), problems) for shown, problems in found.passed_over]
        if found.folder:
            findings.append(Finding(f"{stage} {found.shown}{_unfit(found.folder, stage, settings)}", []))
            ready[stage] = checkpoint_checks.saved_config(found.folder)
        elif is_run_root:
            findings.append(Finding(f"{stage} {folder}", ["no valid checkpoint; inference needs all three models"]))
    if clashes := _clashes(ready):
        findings.append(Finding(f"{path} as one world model", clashes))
    return findings or [Finding(str(path), ["no checkpoint folder (<stage>_step_<N>) found"])]


def _unfit(folder: Path | None, stage: Stage, settings: Settings | None) -> str:
    """That a run with these settings cannot start from a checkpoint, as the end of a line."""
    if folder is None or settings is None:
        return ""
    differing = other_sizes(folder, settings.stages[stage])
    return f": made with {differing}, so a run with these configs cannot start from it" if differing else ""


def _clashes(configs: Mapping[Stage, Mapping[str, Any]]) -> list[str]:
    """Shared sizes on which the stages' checkpoints disagree."""
    problems = []
    for key in FROM_TRAINING:
        values = {stage: config[key] for stage, config in configs.items() if config.get(key) is not None}
        if len(set(values.values())) > 1:
            listing = ", ".join(f"{stage} {value}" for stage, value in values.items())
            problems.append(f"{key} differs: {listing}; the models were not made for each other")
    return problems
