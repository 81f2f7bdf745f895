"""``tiw-fsm verify``: every hash the state names, and whether the journal adds up to the state. Changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from tiw_fsm.data import frames, sources
from tiw_fsm.data.h5 import Undecodable
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting.wording import not_begun
from tiw_fsm.run.check import Finding
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks
from tiw_fsm.storage.paths import LARGEST_RESULT, RunPaths
from tiw_fsm.storage.state_folder import migrated
from tiw_fsm.storage.store import Generation, Store, document_of, merge
from tiw_fsm.system import append_log, durable
from tiw_fsm.values.frozen import CheckpointRef
from tiw_fsm.values.plain import JsonObject

LOOKS = 5
"""How often a run that goes on meanwhile is looked at, before what was seen is believed."""
BACKUP = "Put it back from a backup, or begin anew with another --run."
GOES_BACK = "`tiw-fsm run` goes on from the generation before."
FRAMES_BACK = "Put them back, or take these in with --accept-changes."
ANEW = "The next `tiw-fsm run` writes it anew."


def findings(store: Store) -> list[Finding]:
    """What was looked at, and what is wrong with it; none for a run that has not begun.

    Raises:
        StateDamaged: the state is of another schema, or gone, or a link stands in its place.
    """
    for _ in range(LOOKS):
        before = list(store.generations())
        found = list(_look(store, before))
        if before == list(store.generations()):  # else the run went on: files may have gone that it named before
            break
    return found


def conclusion(found: list[Finding], run: str) -> str:
    """One sentence: what came of it, and what to do."""
    damaged = sum(1 for _, problems in found if problems)
    if not found:
        return not_begun(run)
    if damaged:
        return f"{damaged} of {len(found)} are damaged; what to do stands with each. Nothing was changed."
    return "All that the state vouches for is there, unaltered."


def _look(store: Store, generations: list[Generation | str]) -> Iterator[Finding]:
    if not generations:
        store.load()  # says so if the journal tells of a state that is gone
        return
    newest, before = generations
    readable = [found for found in generations if isinstance(found, Generation)]
    remedy = GOES_BACK if readable else BACKUP
    yield Finding(str(store.paths.state), [f"{newest} {remedy}"] if isinstance(newest, str) else [])
    if not isinstance(newest, Generation) or newest.run.generation > 1:
        remedy = ANEW if readable else BACKUP
        yield Finding(str(store.paths.previous), [f"{before} {remedy}"] if isinstance(before, str) else [])
    journal = append_log.AppendLog(store.paths.journal)
    # The older first: the newer one goes on from there, and what lies before is not read twice.
    torn = [(found, problem) for found in reversed(readable) if (problem := journal.problem(found.journal))]
    remedy = GOES_BACK if len(torn) < len(readable) else BACKUP
    if torn:
        yield Finding(str(store.paths.journal), [f"{torn[-1][1]} {remedy}"])
    elif readable:
        yield Finding(str(store.paths.journal), _refold_problems(store, readable[0]))
    if readable:
        yield from _what_it_names(store, readable[0].run)


def _refold_problems(store: Store, newest: Generation) -> list[str]:
    """Why the journal does not add up to the state; an intact one whose hash is right always does."""
    run, told, count = newest.run, JsonObject(), 0
    missing = [f"its lines are not the generations 1 to {run.generation}. {BACKUP}"]
    try:
        for count, line in enumerate(store.stored_lines(newest), start=1):
            if line["generation"] != count:
                return missing
            merge(told, line["changes"])
    except StateDamaged as exc:
        return [str(exc)]
    if count != run.generation:
        return missing
    try:  # as this version reads it: lines of an older one say nothing of what is newer
        told = migrated(told, store.paths.state)
        same = document_of(RunState.model_validate_json(json.dumps(told))) == document_of(run)
    except ValidationError:
        same = False
    return [] if same else [f"its lines do not add up to the state. {BACKUP}"]


def _what_it_names(store: Store, run: RunState) -> Iterator[Finding]:
    try:
        config, wrong = store.config(run), []
    except StateDamaged:
        config, wrong = {}, [f"it is not what the last start saved. {ANEW}"]
    yield Finding(str(store.paths.config), wrong)
    for stage, progress in run.stages.items():
        for ref in progress.named_checkpoints():
            wrong = checkpoint_checks.altered(Path(ref.path), ref.sha256)
            remedy = _checkpoint_remedy(run, stage, ref)
            yield Finding(f"{stage} {ref.path}", [f"{problem} {remedy}" for problem in wrong])
        if progress.metrics.bytes and run.fingerprint:
            paths = RunPaths(Path(run.fingerprint.config["run_root"]), Path())
            problem = append_log.AppendLog(paths.metrics(stage)).problem(progress.metrics)
            yield Finding(str(paths.metrics(stage)), [f"{problem} {BACKUP}"] if problem else [])
    if pending := run.inference.pending:
        intact = _sha256(Path(pending.path)) == pending.sha256
        remedy = "The attempt is made again." if run.state is State.GATE else BACKUP
        yield Finding(pending.path, [] if intact else [f"it is not what inference left. {remedy}"])
    if run.fingerprint and config and run.fingerprint.data != config["engine"]:  # the engine reads frames
        path = Path(config["data"]["path"])
        yield Finding(f"frames {path}", _frames_problems(path, run.fingerprint.data))


def _frames_problems(path: Path, sha256: str) -> list[str]:
    """Why the frames are not those the run began with."""
    changed = [f"they are not those the run began with. {FRAMES_BACK}"]
    if not path.is_file():
        return changed
    try:
        if missing := sources.of(path).problems:
            return list(missing)
        return [] if frames.sha256(path) == sha256 else changed
    except Undecodable:
        return changed
    except UsageProblem as exc:
        return exc.problems


def _checkpoint_remedy(run: RunState, stage: Stage, ref: CheckpointRef) -> str:
    progress = run.stages[stage]
    if ref not in (progress.checkpoint, progress.accepted):
        return "It is kept for --replay alone: the run goes on without it."
    if stage is run.stage and ref == progress.checkpoint != progress.accepted:
        return f"`tiw-fsm run` goes back to an earlier one, at the latest that after {progress.chunk_start} updates."
    return BACKUP


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(durable.read_small(path, LARGEST_RESULT)).hexdigest()
    except ValueError:
        return None
