"""The checkout engine: drives a user's TinyWorlds checkout by its own scripts. Nothing in the checkout is edited.

A chunk is one process, since each costs many seconds of start. It writes into a folder of its own, where what a
process that was killed had saved is found again, and published, before anything new is started (``process_folders``).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from tiw_fsm import checkpoints, dialect, durable
from tiw_fsm.config import Settings, StageConfig
from tiw_fsm.dialect import INFERENCE_SCRIPT, TRAINING_SCRIPTS, Dialect, StageDialect
from tiw_fsm.engines import hand_over, process_folders, prose
from tiw_fsm.engines.native import NativeEngine
from tiw_fsm.engines.protocol import Hello, HelloRequest, InferRequest, InferResult, Progress, TrainRequest, TrainResult
from tiw_fsm.engines.scripts import Ended, run_script
from tiw_fsm.errors import EngineCrashed, Interrupted, StateDamaged, UsageProblem, disk_errors
from tiw_fsm.paths import StatePaths
from tiw_fsm.run_state import CheckpointRef
from tiw_fsm.stages import Stage
from tiw_fsm.torch_files import UnreadableFile

PROBE = """
import importlib.util, json, os, sys
found = {"missing": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None], "torch": None}
found["threads"] = len(os.sched_getaffinity(0))
if "torch" in sys.argv[1:] and not found["missing"]:
    import torch
    found["torch"], found["threads"] = torch.__version__, torch.get_num_threads()
    found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps(found))
"""
"""Asks the checkout's interpreter what it has; torch is imported only if the checkout does."""
PROBE_SECONDS = 300
UNDONE = {"WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_NAME"}
"""Variables of the user's that would put the metrics elsewhere, or into an older run."""
NO_METRICS = {"disabled", "dryrun"}
THEIRS = {
    "status",
    "checkpoints",
    "frames_expected",
    "frames_inferred",
    "statistics",
    "mse",
    "mse_with_context",
    "png",
    "seconds",
}
"""Figures of an attempt that are the script's, and not those of our inference beside it."""


class Plan(NamedTuple):
    """How a chunk is told to a script."""

    first: int
    """Index of the script's first update, as it counts."""
    n_updates: int
    log_interval: int
    offset: int
    """What our count of an update is more than the script's."""

    @classmethod
    def of(cls, request: TrainRequest, able: StageDialect) -> Self:
        """The shortest run of the script that ends with a saved step at or behind ``stop_at``."""
        base = request.start
        if able.absolute_updates and request.resume is not None:
            base = min(request.schedule.start, request.start)  # each schedule is counted from its own beginning
        first, n_updates = request.start - base, request.stop_at - base
        asked = request.tuning.log_interval
        if able.saves_last_step:
            return cls(first, n_updates, min(asked, n_updates - first), base)
        saves = max(1, math.ceil((n_updates - 1) / asked))
        interval = max(1, math.ceil((n_updates - 1) / saves))
        return cls(first, max(saves * interval + 1, n_updates) if n_updates > 1 else 1, interval, base)


class CheckoutEngine:
    """Runs the scripts as children, one at a time. Our own models judge the checkpoints that they leave."""

    saves_within_chunk: ClassVar[bool] = True

    def __init__(self, settings: Settings, paths: StatePaths) -> None:
        assert settings.checkout is not None
        self._settings, self._checkout = settings, settings.checkout
        self._root = Path(settings.repo_root)
        self._run_root = Path(settings.run_root)
        self._log = paths.child_log
        self._native = NativeEngine(sys.executable, paths, settings.loop.max_silence)
        self._native_device: str | None = None
        self._dialect: Dialect | None = None
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
        found = self._probe()
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
        return Hello(
            device=cuda if self._device == "cuda" and cuda else self._device,
            torch=found["torch"] or "none",
            threads=found["threads"],
            processes=self._processes,
            code=dialect.code_digest(self._root),
            dialect=self._dialect,
        )

    def _probe(self) -> Mapping[str, Any]:
        """What the checkout's interpreter has.

        Raises:
            UsageProblem: it does not run, or lacks something.
        """
        python, wanted = self._settings.python_exec, dialect.modules(self._root)
        try:
            asked = subprocess.run(
                [python, "-c", PROBE, *wanted],
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                cwd=self._root,
                stdin=subprocess.DEVNULL,
            )
            found = json.loads(asked.stdout.strip().splitlines()[-1]) if asked.returncode == 0 else None
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as exc:
            raise UsageProblem(f"{python} does not run as a Python: {exc}; correct --python-exec") from exc
        install = f"install the checkout's requirements: {python} -m pip install -r {self._root / 'requirements.txt'}"
        if found is None:
            raise UsageProblem(f"{python} fails:\n{prose.last_lines(asked.stderr)}\n{install}")
        if found["missing"]:
            raise UsageProblem(f"{python} lacks {', '.join(found['missing'])}; {install}")
        return dict(found)

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
        notes += _expected(request, plan, able)
        arguments = self._training_arguments(request, plan, able, folder)
        began = time.monotonic()

        def heard(text: str) -> None:
            if (done := prose.updates_done(text, plan.n_updates - plan.first)) is not None:
                progress(request.start + done, request.stop_at, None)

        ended = self._run([*self._launcher(), TRAINING_SCRIPTS[request.stage], *arguments], folder, heard)
        if ended.how == "done":
            return self._finished(request, folder, process, notes, time.monotonic() - began)
        if ended.how == "stopped":
            if saved := process_folders.left_behind(request, attempt, notes):
                return saved
            raise Interrupted("asked to stop; the chunk left no checkpoint yet")
        raise self._crashed(f"{TRAINING_SCRIPTS[request.stage]}", ended)

    def _training_arguments(self, request: TrainRequest, plan: Plan, able: StageDialect, folder: Path) -> Sequence[str]:
        tuning, many = request.tuning, self._processes > 1
        given = {
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
        if request.stage is Stage.DYNAMICS:
            assert request.video_tokenizer is not None
            assert request.latent_actions is not None
            given["video_tokenizer_path"] = checkpoints.verified(request.video_tokenizer)
            given["latent_actions_path"] = checkpoints.verified(request.latent_actions)
        configs = self._checkout.configs
        files = ["--config", configs[request.stage], "--training_config", configs["training"]]
        return files + [f"{key}={_word(value)}" for key, value in given.items()]

    def _launcher(self) -> list[str]:
        if self._processes == 1:
            return [self._settings.python_exec]
        assert self._checkout.torchrun is not None
        return [self._checkout.torchrun, "--standalone", f"--nproc_per_node={self._processes}"]

    def _handed_over(self, request: TrainRequest, plan: Plan, able: StageDialect, folder: Path) -> Path | None:
        """The checkpoint to go on from, such that the script uses the asked rate and counts as planned."""
        if request.resume is None:
            return None
        source = checkpoints.verified(request.resume)
        if not (able.absolute_updates or able.restores_optimizer or able.restores_scheduler):
            return source
        target = folder / "from" / checkpoints.folder_name(request.stage, plan.first)
        try:
            hand_over.resumable(
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
        notes += _undone_rate(rows, request.tuning.learning_rate)
        newest = process_folders.newest_saved(folder, request.stage, notes)
        if newest is None:
            raise EngineCrashed(f"{TRAINING_SCRIPTS[request.stage]} left no complete checkpoint in {folder}")
        if not rows:
            raise EngineCrashed(f"{TRAINING_SCRIPTS[request.stage]} left no W&B history in {folder / 'wandb'}")
        return process_folders.published(request, folder, process, newest, rows, notes, seconds)

    # --- infer --------------------------------------------------------------------------------------------------

    def infer(self, request: InferRequest, progress: Progress) -> InferResult:
        assert self._dialect is not None, "hello comes first"
        if self._stopping:
            raise Interrupted("asked to stop")
        folder = process_folders.new_folder(self._run_root / "inference" / "attempts")
        given = self._readable(request, folder)
        steps = request.inference.generation_steps
        before = _names(Path(request.picture).parent)
        began = time.monotonic()

        def heard(text: str) -> None:
            if (frame := prose.frame(text)) is not None:
                progress(frame, steps, None)

        arguments = ["--config", self._checkout.configs["inference"], "--", *self._inference_arguments(request, given)]
        ended = self._run([self._settings.python_exec, INFERENCE_SCRIPT, *arguments], folder, heard)
        with disk_errors("writing", Path(request.log)), durable.open_new(Path(request.log)) as log:
            log.write(ended.output)
        for packed in folder.glob("*.pth"):
            packed.unlink()
        if ended.how == "stopped":
            raise Interrupted("asked to stop; the attempt leaves nothing")
        crashed = self._crashed(INFERENCE_SCRIPT, ended) if ended.how != "done" else None
        if crashed and (ended.how == "hung" or ended.code >= 128 or crashed.out_of_memory):
            raise crashed
        said = prose.inference(ended.output)
        used, wrong = _used(request.checkpoints, given, said.checkpoints)
        result: InferResult = {
            "status": "error" if crashed else "ok",
            "checkpoints": used,
            "frames_expected": steps,
            "frames_inferred": said.frames,
            "statistics": said.statistics,
            "mse": said.mse,
            "mse_with_context": said.mse_with_context,
            "png": self._new_picture(said.picture, before),
            "own_mse": None,
        }
        errors = [str(crashed)] if crashed else wrong
        if not errors:
            result |= self._judged_by_us(request, progress, errors)
        return result | {"error": "; ".join(errors) or None, "seconds": time.monotonic() - began}

    def _inference_arguments(self, request: InferRequest, given: Mapping[Stage, Path]) -> Sequence[str]:
        assert self._dialect is not None
        asked = request.inference
        values = {
            "video_tokenizer_path": given[Stage.VIDEO],
            "latent_actions_path": given[Stage.LATENT],
            "dynamics_path": given[Stage.DYNAMICS],
            "use_latest_checkpoints": False,
            "dataset": self._checkout.dataset,
            "device": self._device,
            "generation_steps": asked.generation_steps,
            "context_window": asked.context_window,
            "prediction_horizon": asked.prediction_horizon,
            "temperature": asked.temperature,
            "teacher_forced": asked.teacher_forced,
            "use_actions": True,
            "use_gt_actions": False,
            "use_interactive_mode": False,
        }
        if asked.preload_ratio is not None:
            values["preload_ratio"] = asked.preload_ratio
        optional = {"seed": asked.seed, "sample_index": self._checkout.sample_index, "decode_steps": asked.decode_steps}
        values |= {key: optional[key] for key in self._dialect.inference_keys if optional[key] is not None}
        return [f"{key}={_word(value)}" for key, value in values.items()]

    def _readable(self, request: InferRequest, folder: Path) -> dict[Stage, Path]:
        """The checkpoints in the form that this checkout's inference reads."""
        assert self._dialect is not None
        given = {stage: checkpoints.verified(ref) for stage, ref in request.checkpoints.items()}
        if self._dialect.inference_reads_folders:
            return given
        files = {stage: folder / f"{path.name}.pth" for stage, path in given.items()}
        for stage, path in given.items():
            self._ours("cpu").pack(path, files[stage])
        return files

    def _judged_by_us(self, request: InferRequest, progress: Progress, errors: list[str]) -> InferResult:
        """Baselines, and the MSE to hold against them: our inference of the same checkpoints on our seeded clips."""
        log = Path(request.log)
        asked = request.model_copy(
            update={
                "log": str(log.with_stem(f"{log.stem}_own")),
                "picture": str(log.with_name(f"{log.stem}_own.png")),
            }
        )
        if self._checkout.mixture:
            errors.append("our inference has no mixture of experts, so there are no baselines; see --allow-trivial")
            return {}
        try:
            found = self._ours("cpu" if self._device == "cpu" else "auto").infer(asked, progress)
        except EngineCrashed as exc:
            errors.append(f"our own inference of the same checkpoints died: {prose.last_lines(str(exc))}")
            return {}
        finally:
            if self._device != "cpu":  # its memory is the next script's
                self._native.close()
                self._native_device = None
        if found["status"] != "ok":
            errors.append(f"our own inference of the same checkpoints failed: {prose.last_lines(found['error'])}")
            return {}
        own = {key: value for key, value in found.items() if key not in THEIRS}
        return own | {"own_mse": found["mse"], "own_png": found["png"]}

    def _new_picture(self, said: str | None, before: set[str]) -> str | None:
        """The picture that the script says it saved, if it is one that was not there before."""
        if said is None:
            return None
        path = self._root / said
        return str(path) if path.name in _names(path.parent) - before else None

    # --- the rest of the protocol -------------------------------------------------------------------------------

    def problems(self, stage: Stage, config: StageConfig, folder: Path, sha256: str | None) -> list[str]:
        if self._checkout.mixture and stage is Stage.DYNAMICS:
            return checkpoints.problems(folder, sha256=sha256)
        return self._ours("cpu").problems(stage, config, folder, sha256)

    def stop(self) -> None:
        self._stopping = True
        self._native.stop()

    def close(self) -> None:
        self._native.close()

    def _ours(self, device: str) -> NativeEngine:
        """The native engine, in our own interpreter, on ``device``."""
        if self._native_device != device:
            self._native.hello(HelloRequest(device=device, threads=None))
            self._native_device = device
        return self._native

    def _run(self, command: Sequence[str], folder: Path, heard: Any) -> Ended:
        durable.make_folder(folder / "wandb")
        environment = {key: value for key, value in os.environ.items() if key not in UNDONE}
        environment |= {
            "PYTHONPATH": str(self._root),
            "PYTHONUNBUFFERED": "1",
            "NG_RUN_ROOT_DIR": str(folder),
            "WANDB_DIR": str(folder),
        }
        defaults = {"WANDB_MODE": "offline", "TQDM_MININTERVAL": "1", "MPLBACKEND": "Agg"}
        return run_script(
            command,
            cwd=self._root,
            environment=defaults | environment,
            output=folder / "output.log",
            log=self._log,
            max_silence=self._settings.loop.max_silence,
            stopping=lambda: self._stopping,
            heard=heard,
        )

    def _crashed(self, script: str, ended: Ended) -> EngineCrashed:
        how = f"ended with status {ended.code}"
        if ended.how == "hung":
            how = f"gave no sign of life for {self._settings.loop.max_silence} seconds, and was ended"
        return EngineCrashed(
            f"{script} {how}; its last lines:\n{prose.last_lines(ended.output)}",
            out_of_memory=ended.how == "failed" and prose.is_out_of_memory(ended.output),
        )


# --- small things -----------------------------------------------------------------------------------------------------


def _expected(request: TrainRequest, plan: Plan, able: StageDialect) -> list[str]:
    """What this version will not do as asked, known beforehand."""
    notes = []
    beyond = plan.n_updates + plan.offset - request.stop_at
    if beyond:
        notes.append(
            f"this version saves only every log_interval updates, so the chunk is longer than asked, by {beyond}"
        )
    if request.resume is not None and not request.weights_only and not able.restores_optimizer:
        notes.append(
            f"the optimizer began afresh at update {request.start}, and with it warm-up and cosine: "
            "this version restores neither"
        )
    return notes


def _undone_rate(rows: Sequence[Mapping[str, Any]], asked: float) -> list[str]:
    """Whether the script's optimizer went above the asked peak."""
    used = max((row["learning_rate"] for row in rows), default=0.0)
    if used <= asked * (1 + 1e-6):
        return []
    return [f"the script's optimizer used learning rates up to {used:g} where {asked:g} was asked: it undid the retune"]


def _used(
    named: Mapping[Stage, CheckpointRef], given: Mapping[Stage, Path], printed: Mapping[Stage, str]
) -> tuple[dict[str, Any], list[str]]:
    """Which checkpoints inference says it used, and where they are not those it was given."""
    used: dict[str, Any] = {}
    wrong = []
    for stage, ref in named.items():
        said = printed.get(stage)
        if said is not None and Path(said) == given[stage]:
            used[stage.value] = ref.model_dump()
        else:
            used[stage.value] = {"path": said, "sha256": None}
            instead = f"used {said}" if said else "named none that it used"
            wrong.append(f"inference fell back: it {instead} as {stage} checkpoint, and was given {given[stage]}")
    return used, wrong


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _word(value: Any) -> str:
    """A value as it stands behind ``key=`` for OmegaConf."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
