"""``tiw-fsm verify --replay``: the newest checkpoint of each stage made once more of the one before it, and the last
inference attempt, in a temporary folder; and whether the same comes out. Changes nothing of the run, and locks nothing.

What is made once more, and from what, is fixed by the run's state and journal; the frames, the code and the settings
are those that the run's own starts would use. A run that goes on meanwhile sweeps what it no longer names: what a
replay reads is first linked, or copied, to where nobody sweeps it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tiw_fsm.config.settings import Settings
from tiw_fsm.data import pictures
from tiw_fsm.engines import registry
from tiw_fsm.engines.protocol import Engine, HelloRequest, InferRequest, TrainRequest
from tiw_fsm.errors import Interrupted, RunChanged, StateDamaged, disk_errors
from tiw_fsm.fsm.events import GATE_DECIDED
from tiw_fsm.fsm.inference_gate import InferenceResult, judge_inference
from tiw_fsm.fsm.run_state import Fingerprint, Made, RunState
from tiw_fsm.reporting.wording import near
from tiw_fsm.run import comparison, fingerprint
from tiw_fsm.run.activities import frames_of, require_frames
from tiw_fsm.run.comparison import Difference, Equal
from tiw_fsm.run.display import Display
from tiw_fsm.run.workshop import RunWentOn, held, workshop
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints, results
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.storage.store import Store, apply_patch, fold
from tiw_fsm.system import signals
from tiw_fsm.system.append_log import AppendLog
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, StageConfig
from tiw_fsm.values.frozen import CheckpointRef
from tiw_fsm.values.plain import JsonObject

LOOKS = 5
"""How often something is looked for again that a run at work has swept meanwhile."""
AS_THEN = ("threads", "processes", "sharded")
"""What this machine can be asked to compute with, whatever it would choose."""
INFERENCE = "inference"
PARTS = (*(stage.value for stage in Stage), INFERENCE)
"""What can be replayed, in order."""
UNCOMPARED = frozenset({"png", "own_png", "path", "seconds", "error", "checkpoints", "frames"})
"""Of a result: what tells of files and times; which checkpoints were used is a condition."""


class Replayed(NamedTuple):
    """What came of one part of a run.

    Attributes:
        replayed: updates, or steps of inference, that were computed once more.
        equal: None where nothing was.
        said: a sentence.
        problems: what is wrong, each with what to do.
        elsewhere: where this machine differs from the one that computed it first.
    """

    what: str
    replayed: int
    equal: Equal | None
    said: str
    problems: list[str]
    elsewhere: list[str]


def findings(store: Store, *, whole: bool, last: int, only: str | None, console: Console) -> list[Replayed]:
    """What was computed once more, and whether it came out the same; none for a run that has not begun.

    Args:
        whole: all that the state vouches for is there; else there is nothing to begin from.
        last: updates of each stage that are wanted at least; what is more than is kept is said to be.
        only: the one of ``PARTS`` that is wanted.
        console: for progress.

    Raises:
        RunChanged: frames, code or torch are not those of the run: a replay would prove nothing.
        StateDamaged: the state, its journal or its settings cannot be trusted.
        EngineCrashed: the child died.
        Interrupted: asked to stop.
    """
    run = store.load()
    if run is None:
        return []
    if not whole and not _can_tell_changes(store, run):
        return []
    settings = store.settings(run)
    parts = [only] if only else list(PARTS)
    if not registry.find(settings.engine).replays:
        said = f"engine {settings.engine} does not give the same twice, so there is nothing to compare"
        return [_nothing(part, said) for part in parts]
    with workshop() as folder, _Replay(store, settings, folder, console) as replay:
        replay.refuse_changes(run)
        return [replay.part(part, last) for part in parts] if whole else []


def _can_tell_changes(store: Store, run: RunState) -> bool:
    """Whether what is damaged is neither the settings nor the frames."""
    try:
        settings = store.settings(run)
    except StateDamaged:
        return False
    return not settings.needs_frames or Path(settings.data.path).is_file()


def conclusion(found: list[Replayed]) -> str:
    """One sentence for all."""
    done = [each for each in found if each.equal]
    if wrong := [each for each in found if each.problems]:
        return f"{len(wrong)} of {len(found)} did not come out as recorded. Nothing was changed."
    if not done:
        return "Nothing was replayed, so nothing is proved."
    close = [each for each in done if each.equal == "tolerance"]
    how = "equal to a tolerance, on another machine" if close else "bitwise equal"
    return f"What was computed once more ({len(done)} of {len(found)}) came out {how}. Nothing was changed."


WORDS: dict[Equal | None, str] = {"bitwise": "equal", "tolerance": "close", "no": "UNEQUAL", None: "nothing"}


def show(out: Console, found: list[Replayed]) -> None:
    """Print each part with what came of it, and one sentence for all."""
    for each in found:
        out.print(f"{WORDS[each.equal]:<7}  {each.what}: {each.said}", soft_wrap=True)
        for line in [*each.problems, *(f"this machine differs: {what}" for what in each.elsewhere)]:
            out.print(f"{'':<7}    {line}", soft_wrap=True)
    out.print(conclusion(found), soft_wrap=True)


def _nothing(what: str, said: str, problems: list[str] | None = None) -> Replayed:
    return Replayed(what, 0, None, said, problems or [], [])


class _Replay:
    """One engine in a temporary folder, and what it computes once more."""

    def __init__(self, store: Store, settings: Settings, folder: Path, console: Console) -> None:
        self.store, self.settings, self.folder = store, settings, folder
        self.display = Display(console)
        self.engine: Engine = registry.find(settings.engine).make(settings, StatePaths(folder))
        self._stopping: Callable[[], bool] = lambda: False
        self._heeding = signals.asked_to_stop(self.engine.stop)
        self._here: Fingerprint | None = None

    def __enter__(self) -> _Replay:
        self._stopping = self._heeding.__enter__()
        self.display.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.display.__exit__(*exc)
        self._heeding.__exit__(*exc)
        self.engine.close()

    def part(self, part: str, last: int) -> Replayed:
        """What comes of one of ``PARTS``."""
        for _ in range(LOOKS):
            self._heed()
            run = self.store.load()
            if run is None:
                raise StateDamaged(f"{self.store.paths.state} is gone while it was looked at; look again")
            try:
                with tempfile.TemporaryDirectory(dir=self.folder) as name:
                    if part == INFERENCE:
                        return self._inference(run, Path(name))
                    return self._stage(run, Stage(part), last, Path(name))
            except Interrupted:
                self._heed()
                raise
            except RunWentOn:
                continue
        return _nothing(part, "the run goes on faster than one can look; look again when it rests")

    def _heed(self) -> None:
        if self._stopping():
            raise Interrupted("stopped; the replay proves nothing, and nothing was changed")

    # --- a stage ------------------------------------------------------------------------------------------------

    def _stage(self, run: RunState, stage: Stage, last: int, folder: Path) -> Replayed:
        progress = run.stages.get(stage)
        if progress is None or progress.made is None or progress.checkpoint is None:
            kept = "no checkpoint before the newest one is kept yet: the next one that is saved will have one"
            return _nothing(stage, kept)
        made, newest = progress.made, progress.checkpoint
        then = self._fingerprint_of(run, made)
        if stale := self._stale(then):
            return _nothing(stage, f"made before a change was taken in ({'; '.join(stale)})")
        known = _known(run)
        if gone := [needed.value for needed, sha256 in made.inputs.items() if sha256 not in known]:
            return _nothing(
                stage, f"it was trained against a checkpoint of {', '.join(gone)} that was trained on since"
            )
        elsewhere = self._elsewhere(then)
        expected = held(newest, folder)
        rows = self._rows(stage, run, made)
        request = TrainRequest(
            stage=stage,
            run=run.run,
            owner=run.run_id,
            attempt=made.attempt,
            config=_config_of(stage, then),
            tuning=made.tuning,
            schedule=made.schedule,
            data=self._data_of(then),
            frames=frames_of(then),
            seed=then.config["seed"],
            processes=run.processes,
            resume=made.resume and held(made.resume, folder),
            weights_only=made.weights_only,
            start=made.start,
            stop_at=progress.completed,
            inputs={needed: held(known[sha256], folder) for needed, sha256 in made.inputs.items()},
            checkpoint=str(folder / "made" / Path(newest.path).name),
        )
        (folder / "made").mkdir()
        with self.display.training(stage, made.start, progress.completed) as advance:
            result = self.engine.train(request, advance)
        self._heed()
        require_frames(request, result)
        found = [comparison.of_values(rows, _by_update(result.rows, made.attempt), "metrics")]
        if result.sha256 != newest.sha256:
            files = ((Path(expected.path) / name, Path(request.checkpoint) / name) for name in checkpoints.FILES)
            found += [comparison.of_files(ours, theirs) for ours, theirs in files]
        updates = progress.completed - made.start
        origin = near(made.resume.path) if made.resume else "fresh weights"
        what = f"{stage} {near(newest.path)}, made once more of {origin}"
        said = f"{updates} updates, {made.start} to {progress.completed - 1}"
        if last > updates:
            said += f" (of the last {last} that were asked for; no earlier checkpoint is kept)"
        return _concluded(what, updates, said, [each for each in found if each], elsewhere)

    def _rows(self, stage: Stage, run: RunState, made: Made) -> dict[str, JsonObject]:
        """What the metrics say of the updates that ``made`` tells of, by update."""
        progress = run.stages[stage]
        path = RunPaths(Path(self.settings.run_root), Path(self.settings.repo_root)).metrics(stage)
        if AppendLog(path).problem(progress.metrics):  # it was whole a moment ago
            raise RunWentOn
        with disk_errors("reading", path), open(path, "rb") as file:
            lines = file.read(progress.metrics.bytes).splitlines()
        rows = [row for row in map(json.loads, lines) if row["attempt"] == made.attempt]
        return _by_update([row for row in rows if made.start <= row["update"] < progress.completed], made.attempt)

    # --- inference ----------------------------------------------------------------------------------------------

    def _inference(self, run: RunState, folder: Path) -> Replayed:
        judged = self._as_judged()
        if judged is None or judged.fingerprint is None:
            return _nothing(INFERENCE, "no attempt has been judged yet")
        attempt, then = judged.inference.attempts[-1], judged.fingerprint
        what = f"inference attempt {attempt.number}"
        if stale := self._stale(then):
            return _nothing(what, f"made before a change was taken in ({'; '.join(stale)})")
        refs = {stage: p.checkpoint for stage, p in judged.stages.items() if p.checkpoint}
        known = _known(run)
        if gone := [stage.value for stage, ref in refs.items() if ref.sha256 not in known]:
            return _nothing(what, f"the checkpoint of {', '.join(gone)} that it judged has been trained on since")
        try:
            recorded = results.read(Path(attempt.result or ""), attempt.result_sha256, Path(run.root))
        except ValueError as exc:
            problem = f"{attempt.result} is not what was judged: {exc}. Put it back from a backup."
            return _nothing(what, "its result cannot be compared", [problem])
        elsewhere = self._elsewhere(then)
        inference = InferenceConfig.model_validate_json(json.dumps(recorded.settings))
        request = InferRequest(
            run=run.run,
            number=attempt.number,
            checkpoints={stage: held(known[ref.sha256], folder) for stage, ref in refs.items()},
            configs={stage: _config_of(stage, then) for stage in refs},
            data=self._data_of(then),
            frames=frames_of(then),
            inference=inference,
            clips=judged.loop.inference.clips,
            picture=str(folder / "made.png"),
            log=str(folder / "made.log"),
        )
        with self.display.inferring(inference.generation_steps) as advance:
            result = self.engine.infer(request, advance)
        self._heed()
        require_frames(request, result)
        filed = result.evolve(
            number=attempt.number, png_valid=pictures.is_png(result.png), settings=recorded.settings, path=recorded.path
        )
        named = {stage.value: ref.sha256 for stage, ref in refs.items()}
        verdict = judge_inference(
            filed, named, judged.loop.inference, number=attempt.number, updates=attempt.updates
        ).evolve(png=attempt.png, result_sha256=attempt.result_sha256)
        found = [
            comparison.of_values(_figures(recorded), _figures(filed), "result"),
            comparison.of_values(attempt.model_dump(mode="json"), verdict.model_dump(mode="json"), "verdict"),
        ]
        steps = inference.generation_steps
        said = f"{steps} steps on {request.clips} clips"
        return _concluded(what, steps, said, [each for each in found if each], elsewhere)

    def _as_judged(self) -> RunState | None:
        """The state as it was when the last attempt was judged."""
        decided = (line["generation"] for line in self.store.lines() if line["event"] in GATE_DECIDED)
        judged = max(decided, default=0)
        document = fold(line for line in self.store.lines() if line["generation"] <= judged)
        return RunState.model_validate_json(json.dumps(document)) if judged else None

    # --- then and here ------------------------------------------------------------------------------------------

    def _fingerprint_of(self, run: RunState, made: Made) -> Fingerprint:
        """The fingerprint under which something was made."""
        if run.fingerprint and fingerprint.digest(run.fingerprint) == made.fingerprint:
            return run.fingerprint
        document: JsonObject = {}
        for line in self.store.lines():
            if patch := line["changes"].get("fingerprint"):
                document = apply_patch(document, patch)
                found = Fingerprint.model_validate_json(json.dumps(document))
                if fingerprint.digest(found) == made.fingerprint:
                    return found
        raise StateDamaged(f"{self.store.paths.journal} tells of no fingerprint under which the checkpoint was made")

    def refuse_changes(self, run: RunState) -> None:
        """Raise RunChanged where frames, code or torch here are not those of the run."""
        if run.fingerprint and (changes := _material_changes(run.fingerprint, self._now(run.fingerprint))):
            raise RunChanged(
                f"a replay proves nothing: what decides the bits is no longer what run {run.run!r} has:\n  "
                + "\n  ".join(changes)
                + "\nPut it back, and replay then."
            )

    def _stale(self, then: Fingerprint) -> list[str]:
        """What has changed since something was made, and was taken into the run."""
        return _material_changes(then, self._now(then))

    def _elsewhere(self, then: Fingerprint) -> list[str]:
        return fingerprint.hardware_changes(then, self._now(then))

    def _now(self, then: Fingerprint) -> Fingerprint:
        """This machine, computing in as many processes, all of them here, and with as many threads as then."""
        if self._here is None or any(getattr(self._here, key) != getattr(then, key) for key in AS_THEN):
            request = HelloRequest(
                device="auto" if self.settings.device == "cuda" else self.settings.device,
                threads=then.threads,
                optimizers=self.settings.optimizers,
                here=then.processes,
                sharded=then.sharded,
            )
            self._here = fingerprint.take(self.settings, self.engine.hello(request), warm_starts={})
        return self._here

    def _data_of(self, then: Fingerprint) -> DataSource:
        stated = {key: then.config.get(f"dataset.{key}") for key in ("skip", "stride", "preload_ratio")}
        return self.settings.data.evolve(**stated)


def _known(run: RunState) -> dict[str, CheckpointRef]:
    """The checkpoints that the run keeps, by their digests."""
    return {ref.sha256: ref for progress in run.stages.values() for ref in progress.named_checkpoints()}


def _material_changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What is different beside the config, of which all that matters is remembered."""
    return fingerprint.changes(old, new.evolve(config=old.config))


def _config_of(stage: Stage, then: Fingerprint) -> StageConfig:
    """What the stage was trained with under a fingerprint."""
    stated = {key: then.config[f"{stage}.{key}"] for key in StageConfig.model_fields if f"{stage}.{key}" in then.config}
    return StageConfig.model_validate_json(json.dumps(stated))


def _by_update(rows: list[JsonObject], attempt: int) -> dict[str, JsonObject]:
    return {f"update {row['update']}": {"attempt": attempt, **row} for row in rows}


def _figures(result: InferenceResult) -> JsonObject:
    told = result.model_dump(mode="json", exclude_unset=True)
    return {key: value for key, value in told.items() if key not in UNCOMPARED}


def _concluded(what: str, replayed: int, said: str, found: list[Difference], elsewhere: list[str]) -> Replayed:
    equal = comparison.equality(found, elsewhere=bool(elsewhere))
    words = "; ".join(each.words() for each in found)
    problem = (
        f"NOT equal, {words}. Replay again: if it comes out otherwise each time, this machine computes wrongly; "
        "if not, it was not computed as the run says: put back a backup, or begin anew with another --run."
    )
    sentences: dict[Equal, str] = {
        "bitwise": f"{said}: bitwise equal",
        "tolerance": f"{said}: equal to a tolerance, {words}",
        "no": said,
    }
    return Replayed(what, replayed, equal, sentences[equal], [problem] if equal == "no" else [], elsewhere)
