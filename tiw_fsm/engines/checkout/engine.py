"""The checkout engine: drives a user's TinyWorlds checkout by its own scripts. Nothing in the checkout is edited.

A chunk is one process, since each costs many seconds of start. It writes into a folder of its own, where what a
process that was killed had saved is found again, and published, before anything new is started (``process_folders``).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tiw_fsm.config.settings import Settings
from tiw_fsm.data import frames
from tiw_fsm.engines.checkout import checkpoint_adapter, dialect, inference, process_folders, script_output
from tiw_fsm.engines.checkout.dialect import INFERENCE_SCRIPT, Dialect, StageDialect
from tiw_fsm.engines.checkout.plan import Plan, expected_notes, undone_rate_notes, word
from tiw_fsm.engines.checkout.probe import probe
from tiw_fsm.engines.checkout.scripts import Ended, run_script
from tiw_fsm.engines.checkout.settings import CheckoutSettings
from tiw_fsm.engines.code import code_digest
from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.protocol import (
    Hello,
    HelloChanged,
    HelloRequest,
    InferRequest,
    Progress,
    TrainRequest,
    TrainResult,
)
from tiw_fsm.errors import EngineCrashed, Interrupted, RunChanged, StateDamaged, UsageProblem, disk_errors
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.storage.torch_files import UnreadableFile
from tiw_fsm.system import durable, short_log
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.values.death import Killer

T = TypeVar("T")
UNDONE = {"WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_NAME"}
"""Variables of the user's that would put the metrics elsewhere, or into an older run."""
NO_METRICS = {"disabled", "dryrun"}


class CheckoutEngine:
    """Runs the scripts as children, one at a time. Our own models judge the checkpoints that they leave."""

    saves_within_chunk: ClassVar[bool] = True

    def __init__(self, settings: Settings, paths: StatePaths) -> None:
        self._settings = settings
        self._checkout = CheckoutSettings.model_validate(settings.engine_settings)
        self._root = Path(settings.repo_root)
        self._run_root = Path(settings.run_root)
        self._log = paths.child_log
        self._native = NativeEngine(sys.executable, paths, settings.loop.max_silence)
        self._native_device: str | None = None
        self._dialect: Dialect | None = None
        self._hello: Hello | None = None
        self._own_code = ""
        self._device, self._processes = "cpu", 1
        self._stopping = False

    # --- hello --------------------------------------------------------------------------------------------------

    def hello(self, request: HelloRequest) -> Hello:
        self._dialect = dialect.read(self._root)
        if os.environ.get("WANDB_MODE") in NO_METRICS:
            raise UsageProblem(
                f"WANDB_MODE={os.environ['WANDB_MODE']}: without W&B's files TinyWorlds leaves no metrics to judge; "
                "unset it (then runs stay offline), or set it to offline or online"
            )
        self._own_code = code_digest()
        found = probe(self._settings.python_exec, self._root)
        cuda = found.get("cuda")
        knows = found["torch"] is not None
        self._device = "cpu" if request.device == "auto" and not cuda else request.device
        self._device = "cuda" if self._device == "auto" else self._device
        if self._device == "cuda" and knows and not cuda:
            raise UsageProblem(
                f"device cuda: the torch of {self._settings.python_exec} sees no CUDA device; give --device cpu, "
                "or install a torch with CUDA there"
            )
        self._processes = self._checkout.processes
        if self._processes > 1 and self._device != "cuda":
            if self._checkout.processes_typed:
                raise UsageProblem(
                    f"--nproc-per-node {self._processes}: TinyWorlds trains in several processes on CUDA only; "
                    "give --nproc-per-node 1, or --device cuda"
                )
            self._processes = 1
        self._hello = Hello(
            device=cuda if self._device == "cuda" and cuda else self._device,
            torch=found["torch"] or "none",
            threads=found["threads"],
            processes=self._processes,
            code=dialect.code_digest(self._root),
            dialect=self._dialect.model_dump(mode="json"),
        )
        return self._hello

    def _hold_to_account(self) -> None:
        """Each script is a new process: what it would run must be what it was at the start.

        Raises:
            HelloChanged: it is not.
        """
        assert self._hello is not None, "hello comes first"
        found = dialect.code_digest(self._root)
        if found != self._hello.code:
            self._dialect = dialect.read(self._root)
            self._hello = self._hello.evolve(code=found, dialect=self._dialect.model_dump(mode="json"))
            raise HelloChanged(self._hello)

    # --- train --------------------------------------------------------------------------------------------------

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        assert self._dialect is not None, "hello comes first"
        able = self._dialect.stages[request.stage]
        attempt = self._run_root / request.stage / "attempts" / f"{request.owner[:8]}_{request.attempt}"
        notes: list[str] = []
        process_folders.tidy(attempt, request)
        if saved := process_folders.left_behind(request, attempt, notes):
            return saved
        if self._stopping:
            raise Interrupted("asked to stop before the first update")
        plan = Plan.of(request, able)
        folder = process_folders.new_folder(attempt)
        process = process_folders.Process(
            start=request.start,
            resume=request.resume.sha256 if request.resume else None,
            tuning=request.tuning,
            **plan._asdict(),
        )
        durable.replace(folder / process_folders.PROCESS, process.model_dump_json().encode())
        notes += expected_notes(request, plan, able)
        arguments = self._training_arguments(request, plan, able, folder)
        began = time.monotonic()

        def relay(text: str) -> None:
            if (done := script_output.updates_done(text, plan.n_updates - plan.first)) is not None:
                progress(request.start + done, request.stop_at, None)

        with self._same_frames(request, folder):
            ended = self._run([*self._launcher(), STAGES[request.stage].script, *arguments], folder, relay)
        if ended.how == "done":
            return self._finished(request, folder, process, notes, time.monotonic() - began)
        if ended.how == "stopped":
            if saved := process_folders.left_behind(request, attempt, notes):
                return saved
            raise Interrupted("asked to stop; the chunk left no checkpoint yet")
        raise self._crashed(f"{STAGES[request.stage].script}", ended)

    def _training_arguments(self, request: TrainRequest, plan: Plan, able: StageDialect, folder: Path) -> Sequence[str]:
        tuning, many = request.tuning, self._processes > 1
        given = self._checkout.chosen.get(request.stage, {}) | {
            "dataset": self._checkout.dataset,
            "device": self._device,
            "n_updates": plan.n_updates,
            "learning_rate": tuning.learning_rate,
            "gradient_accumulation_steps": tuning.gradient_accumulation_steps,
            "batch_size_per_gpu": tuning.batch_size_per_gpu,
            "log_interval": plan.log_interval,
            "use_wandb": True,
            "nproc_per_node": self._processes,
            "distributed.use_ddp": many and not self._checkout.shards,
            "distributed.use_fsdp": many and self._checkout.shards,
            "checkpoint": self._handed_over(request, plan, able, folder),
        }
        given |= {f"{stage}_path": checkpoint_checks.verified(ref) for stage, ref in request.inputs.items()}
        configs = self._checkout.configs
        files = ["--config", configs[request.stage], "--training_config", configs["training"]]
        return files + [f"{key}={word(value)}" for key, value in given.items()]

    def _launcher(self) -> list[str]:
        if self._processes == 1:
            return [self._settings.python_exec]
        assert self._checkout.torchrun is not None
        return [self._checkout.torchrun, "--standalone", f"--nproc_per_node={self._processes}"]

    def _handed_over(self, request: TrainRequest, plan: Plan, able: StageDialect, folder: Path) -> Path | None:
        """The checkpoint to go on from, such that the script uses the asked rate and counts as planned."""
        if request.resume is None:
            return None
        source = checkpoint_checks.verified(request.resume)
        if not (able.absolute_updates or able.restores_optimizer or able.restores_scheduler):
            return source
        target = folder / "from" / checkpoints.folder_name(request.stage, plan.first)
        try:
            checkpoint_adapter.resumable(
                source,
                target,
                step=plan.first - 1,
                rate=request.tuning.learning_rate,
                optimizer=not request.weights_only,
                schedule=plan.first > 0,
            )
        except UnreadableFile as exc:
            raise StateDamaged(f"{exc} Put it back from a backup, or begin anew with another --run.") from exc
        return target

    def _finished(
        self, request: TrainRequest, folder: Path, process: process_folders.Process, notes: list[str], seconds: float
    ) -> TrainResult:
        """What a script that ended well has left.

        Raises:
            EngineCrashed: not what it should have.
        """
        rows = process_folders.rows_of(folder, process)
        rows = rows[: next((n + 1 for n, row in enumerate(rows) if row["loss"] is None), len(rows))]
        if rows and rows[-1]["loss"] is None:
            return TrainResult(completed=rows[-1]["update"] + 1, sha256="", rows=rows, seconds=seconds, notes=notes)
        notes += undone_rate_notes(rows, request.tuning.learning_rate)
        newest = process_folders.newest_saved(folder, request.stage, notes)
        if newest is None:
            raise EngineCrashed(f"{STAGES[request.stage].script} left no complete checkpoint in {folder}")
        if not rows:
            raise EngineCrashed(f"{STAGES[request.stage].script} left no W&B history in {folder / 'wandb'}")
        return process_folders.published(request, folder, process, newest, rows, notes, seconds)

    # --- infer --------------------------------------------------------------------------------------------------

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        if self._stopping:
            raise Interrupted("asked to stop")
        folder = process_folders.new_folder(self._run_root / "inference" / "attempts")
        given = self._readable(request, folder)
        before = _names(Path(request.picture).parent)
        began = time.monotonic()

        def relay(text: str) -> None:
            if (frame := script_output.frame(text)) is not None:
                progress(frame, request.inference.generation_steps, None)

        with self._same_frames(request, folder):
            ended = self._run([self._settings.python_exec, *self._inference_words(request, given)], folder, relay)
        with disk_errors("writing", Path(request.log)), durable.open_new(Path(request.log)) as log:
            log.write(ended.output)
        for packed in folder.glob("*.pth"):
            packed.unlink()
        if ended.how == "stopped":
            raise Interrupted("asked to stop; the attempt leaves nothing")
        crashed = self._crashed(INFERENCE_SCRIPT, ended) if ended.how != "done" else None
        if crashed and (ended.how == "hung" or ended.code >= 128 or crashed.killed_by == Killer.MEMORY):
            raise crashed
        report = script_output.inference(ended.output)
        used, wrong = inference.used_checkpoints(request.checkpoints, given, report.checkpoints)
        errors = [str(crashed)] if crashed else wrong
        own = {} if errors else self._judged_by_us(request, progress, errors)
        theirs = {
            "status": "error" if crashed else "ok",
            "checkpoints": used,
            "frames_expected": request.inference.generation_steps,
            "frames_inferred": report.frames,
            "statistics": report.statistics,
            "mse": report.mse,
            "mse_with_context": report.mse_with_context,
            "png": self._new_picture(report.picture, before),
            "error": "; ".join(errors) or None,
            "seconds": time.monotonic() - began,
        }
        return InferenceResult.model_validate({"own_mse": None} | own | theirs)

    def _inference_words(self, request: InferRequest, given: Mapping[Stage, Path]) -> list[str]:
        """The script and its arguments."""
        assert self._dialect is not None, "hello comes first"
        config = self._checkout.configs["inference"]
        values = inference.arguments(request, given, self._device, self._checkout, self._dialect)
        return [INFERENCE_SCRIPT, "--config", config, "--", *values]

    def _readable(self, request: InferRequest, folder: Path) -> dict[Stage, Path]:
        """The checkpoints in the form that this checkout's inference reads."""
        assert self._dialect is not None
        given = {stage: checkpoint_checks.verified(ref) for stage, ref in request.checkpoints.items()}
        if self._dialect.inference_reads_folders:
            return given
        files = {stage: folder / f"{path.name}.pth" for stage, path in given.items()}
        for stage, path in given.items():
            self._ask_ours("cpu", partial(NativeEngine.pack, folder=path, file=files[stage]))
        return files

    def _judged_by_us(self, request: InferRequest, progress: Progress, errors: list[str]) -> dict[str, Any]:
        """Baselines, and the MSE to hold against them: our inference of the same checkpoints on our seeded clips.

        Why there is none, if so, is added to ``errors``.
        """
        try:
            device = "cpu" if self._device == "cpu" else "auto"
            found = self._ask_ours(device, lambda ours: ours.infer(inference.own(request), progress))
        except EngineCrashed as exc:
            errors.append(f"our own inference of the same checkpoints died: {script_output.last_lines(str(exc))}")
            return {}
        finally:
            if self._device != "cpu":  # its memory is the next script's
                self._native.close()
                self._native_device = None
        if found.status != "ok":
            last = script_output.last_lines(found.error or "")
            errors.append(f"our own inference of the same checkpoints failed: {last}")
            return {}
        return {**found.model_dump(exclude_unset=True), "own_mse": found.mse, "own_png": found.png}

    def _new_picture(self, reported: str | None, before: set[str]) -> str | None:
        """The picture that the script says it saved, if it is one that was not there before."""
        if reported is None:
            return None
        path = self._root / reported
        return str(path) if path.name in _names(path.parent) - before else None

    @contextmanager
    def _same_frames(self, request: TrainRequest | InferRequest, folder: Path) -> Iterator[None]:
        """A script reads the frames by itself: they are held against the run's before it and after it.

        Raises:
            RunChanged: they are others; what the script left in ``folder`` counts for nothing.
            UsageProblem: they are gone, or cannot be read; likewise.
        """
        path = Path(request.data.path)
        if request.frames:
            request.frames.require(frames.sha256(path))
        yield
        try:
            if request.frames:
                request.frames.require(frames.sha256(path))
        except (RunChanged, UsageProblem):
            process_folders.disown(folder)
            raise

    # --- the rest of the protocol -------------------------------------------------------------------------------

    def problems(self, stage: Stage, config: StageConfig, folder: Path, sha256: str | None) -> list[str]:
        return self._ask_ours("cpu", lambda ours: ours.problems(stage, config, folder, sha256))

    def stop(self) -> None:
        self._stopping = True
        self._native.stop()

    def close(self) -> None:
        self._native.close()

    def _ask_ours(self, device: str, ask: Callable[[NativeEngine], T]) -> T:
        """The native engine's answer, in our own interpreter, on ``device``.

        It only judges, so that all its processes are held to is our code.

        Raises:
            HelloChanged: that has changed.
        """
        if self._native_device != device:
            hello = self._native.hello(HelloRequest(device=device, threads=None))
            self._native_device = device
            self._hold_ours_to_account(hello)
        try:
            return ask(self._native)
        except HelloChanged as exc:
            self._hold_ours_to_account(exc.hello)
            return ask(self._native)

    def _hold_ours_to_account(self, found: Hello) -> None:
        assert self._hello is not None, "hello comes first"
        if found.own_code != self._own_code:
            self._own_code = found.own_code
            raise HelloChanged(self._hello.evolve(own_code=found.own_code))

    def _run(self, command: Sequence[str], folder: Path, relay: Callable[[str], None]) -> Ended:
        durable.make_folder(folder / "wandb")
        short_log.begin_anew_if_long(self._log)
        environment = {key: value for key, value in os.environ.items() if key not in UNDONE}
        environment |= {
            "PYTHONPATH": str(self._root),
            "PYTHONUNBUFFERED": "1",
            "NG_RUN_ROOT_DIR": str(folder),
            "WANDB_DIR": str(folder),
        }
        defaults = {"WANDB_MODE": "offline", "TQDM_MININTERVAL": "1", "MPLBACKEND": "Agg"}
        self._hold_to_account()
        ended = run_script(
            command,
            cwd=self._root,
            environment=defaults | environment,
            output=folder / "output.log",
            log=self._log,
            max_silence=self._settings.loop.max_silence,
            stopping=lambda: self._stopping,
            relay=relay,
        )
        if ended.how == "done":
            self._hold_to_account()
        return ended

    def _crashed(self, script: str, ended: Ended) -> EngineCrashed:
        return EngineCrashed(
            f"{script} {ended.words}; its last lines:\n{script_output.last_lines(ended.output)}",
            killed_by=ended.killed_by,
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
