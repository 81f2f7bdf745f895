"""The work of the native engine's child: it trains and infers, and answers each request with a status and a content."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tiw_fsm.data.h5 import Undecodable, reading
from tiw_fsm.engines.native.ranks import Agreed, Ranks
from tiw_fsm.engines.protocol import (
    OTHER_FRAMES,
    HelloRequest,
    InferRequest,
    PackRequest,
    ShapesRequest,
    TrainRequest,
)
from tiw_fsm.errors import (
    DiskRefused,
    NotPermitted,
    RunChanged,
    StateDamaged,
    UsageProblem,
    disk_errors,
    refusal,
)
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.system import durable, killer, processors
from tiw_fsm.tinyworlds import checkpoint_files, division
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.tinyworlds.determinism import allow_tf32, make_deterministic
from tiw_fsm.tinyworlds.evaluation import evaluate
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.optimizer import missing
from tiw_fsm.tinyworlds.rollout import load_world
from tiw_fsm.tinyworlds.training import Trainer, compile_in_place, load_frozen, write_checkpoint
from tiw_fsm.values.frozen import CheckpointRef, FrozenModel

REQUESTS: dict[str, type[FrozenModel]] = {
    "hello": HelloRequest,
    "shapes": ShapesRequest,
    "pack": PackRequest,
    "train": TrainRequest,
    "infer": InferRequest,
}
SHARED = ("hello", "train")
"""Requests that all ranks serve together; the others are the first one's alone."""
BEAT_SECONDS = 5.0
"""Between two signs of life that the first rank gives the others while it works alone."""


class Stopped(Exception):
    """Asked to stop before anything worth keeping was done."""


class Worker:
    """Serves requests; keeps frames, models and the stage in training between them."""

    def __init__(self, tell: Callable[[str], None], code: str, ranks: Ranks) -> None:
        self.tell = tell if ranks.rank == 0 else lambda line: None
        self.code, self.ranks = code, ranks
        self.stop = threading.Event()
        self.device = torch.device("cpu")
        self.frames: tuple[DataSource, Future[FrameData]] | None = None
        """Those loaded, or being loaded."""
        self.trainer: Trainer | None = None
        self.standing: tuple[Any, ...] | None = None
        """What the live trainer stands for: stage, config, and the checkpoint it is exactly at."""

    # --- hello ---

    def hello(self, request: HelloRequest) -> dict[str, Any]:
        self.ranks.share(request.sharded)
        self.device = self.ranks.together(lambda: _device(request.device, self.ranks.here), judge)
        if lacking := missing(request.optimizers):
            raise Agreed("usage", lacking)
        most = torch.get_num_threads()  # which heeds OMP_NUM_THREADS
        wanted = request.threads or processors.share(most, self.ranks.on_this_machine)
        threads = min(self.ranks.gathered(wanted))
        make_deterministic(threads)
        own = {"torch": torch.__version__, "own_code": self.code}
        everyones = self.ranks.gathered([own, [socket.gethostname(), self._device_name()]])
        for other, (name, _) in everyones:
            if other != everyones[0][0]:
                raise Agreed("changed", _unlike(everyones[0][0], other, name))
        if request.data is not None:
            self._load(request.data)
        hosts: dict[tuple[str, str], int] = Counter((name, device) for _, (name, device) in everyones)
        return {
            **own,
            "device": ", ".join(dict.fromkeys(device for _, device in hosts)),
            "threads": threads,
            "processes": self.ranks.size,
            "sharded": request.sharded and self.ranks.size > 1,
            "hosts": [{"name": name, "device": device, "processes": n} for (name, device), n in hosts.items()],
        }

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        model = "unknown processor"
        if os.path.exists("/proc/cpuinfo"):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        return f"cpu {model} ({torch.backends.cpu.get_cpu_capability()})"

    # --- train ---

    def train(self, request: TrainRequest) -> dict[str, Any]:
        folders = self.ranks.together(lambda: self._prepared(request), judge)
        trainer = self._trainer_at(request, folders)
        began = time.monotonic()
        rows = trainer.train(
            request.start,
            request.stop_at,
            request.tuning,
            request.schedule,
            self.stop.is_set,
            lambda done, loss: self.tell(json.dumps([done, request.stop_at, loss])),
        )
        seconds = time.monotonic() - began
        if not rows:
            raise Stopped
        completed = request.start + len(rows)
        files = trainer.checkpoint(completed, request.tuning)
        shown = trainer.show() if request.picture and completed == request.stop_at else None

        def keep() -> str:
            from tiw_fsm.engines.native import strips  # brings PIL, for which no update waits

            folder = Path(request.checkpoint)
            durable.clear(folder)
            write_checkpoint(folder, files)
            sha256 = checkpoints.write_manifest(folder, request.stage, completed, request.owner)
            if shown is not None:
                strips.draw_chunk(request, completed, *shown)
            return sha256

        sha256 = self.ranks.first_alone(keep, judge)
        self.standing = (*self._identity(request), sha256)
        used = [trainer.data.digest]
        return {"completed": completed, "sha256": sha256, "rows": rows, "seconds": seconds, "frames": used}

    def _prepared(self, request: TrainRequest) -> dict[Stage | None, Path]:
        """The frames held, and the folders of the checkpoints named, each looked at: those of the stages that this one
        is trained against and, under None, the one to go on from."""
        self._frames(request)
        if not division.can_share(request.tuning, request.processes, self.ranks.size):
            raise UsageProblem(
                f"{request.stage}: the {division.global_batch(request.tuning, request.processes)} clips of an update "
                f"cannot be shared evenly by {self.ranks.size} processes; start again with one of these numbers: "
                + ", ".join(map(str, division.counts(division.global_batch(request.tuning, request.processes))))
            )
        if self._stands_at(request):
            return {}
        named = dict[Stage | None, CheckpointRef](request.inputs.items())
        if request.resume is not None:
            named[None] = request.resume
        return {stage: checkpoint_checks.verified(ref) for stage, ref in named.items()}

    def _identity(self, request: TrainRequest) -> tuple[Any, ...]:
        return request.stage, request.config, request.seed, request.inputs, request.processes

    def _stands_at(self, request: TrainRequest) -> bool:
        """Whether the live trainer stands exactly where the request begins."""
        wanted = (*self._identity(request), request.resume and request.resume.sha256)
        return self.trainer is not None and self.standing == wanted

    def _trainer_at(self, request: TrainRequest, folders: Mapping[Stage | None, Path]) -> Trainer:
        """The live trainer if it stands exactly where the request begins, else one loaded from there."""
        if self._stands_at(request):
            assert self.trainer is not None
            return self.trainer
        self.trainer = self.standing = None  # let go of the old stage before the new one is built
        inputs = {stage: load_frozen(stage, request.config, folders[stage], self.device) for stage in request.inputs}
        self.trainer = Trainer(
            request.stage,
            request.config,
            self._frames(request),
            self.device,
            request.seed,
            inputs,
            self.ranks.peers,
            request.processes,
        )
        if request.resume is not None:
            self.trainer.load(folders[None], weights_only=request.weights_only)
        return self.trainer

    def _frames(self, request: TrainRequest | InferRequest) -> FrameData:
        """The frames, loaded once.

        Raises:
            RunChanged: they are not those that the run began with.
            UsageProblem, DiskRefused: they cannot be read now.
        """
        found = self._loaded(request.data)
        if request.frames:
            request.frames.require(found.digest)
        return found

    def _loaded(self, source: DataSource) -> FrameData:
        known, loading = self.frames or (None, None)
        if loading is None or known != source or (loading.done() and loading.exception()):
            loading = self._load(source)
        return loading.result()

    def _load(self, source: DataSource) -> Future[FrameData]:
        """Begin to load frames, in a thread of its own: requests that need none do not wait for them."""
        self.frames = None  # lets go of others first
        loading = ThreadPoolExecutor(1).submit(_read, source, self.device)
        self.frames = source, loading
        return loading

    # --- infer ---

    def infer(self, request: InferRequest) -> dict[str, Any]:
        began = time.monotonic()
        with durable.open_new(Path(request.log)) as log:

            def say(line: str) -> None:
                with disk_errors("writing", Path(request.log)):
                    print(line, file=log, flush=True)

            for stage, ref in request.checkpoints.items():
                say(f"Using {stage} checkpoint: {ref.path}")
            try:
                figures = self._infer(request, say)
            except (Stopped, StateDamaged, UsageProblem, RunChanged, DiskRefused, OSError):
                raise
            except Exception as exc:
                if lacks_memory(exc):
                    raise
                say(traceback.format_exc())
                return {"status": "error", "error": traceback.format_exc(), "seconds": time.monotonic() - began}
        used = {stage.value: ref.model_dump() for stage, ref in request.checkpoints.items()}
        return {"status": "ok", "checkpoints": used, **figures, "seconds": time.monotonic() - began}

    def _infer(self, request: InferRequest, say: Callable[[str], None]) -> dict[str, Any]:
        folders = {stage: checkpoint_checks.verified(ref) for stage, ref in request.checkpoints.items()}
        world = load_world(folders, request.configs, self.device)
        if request.inference.compile:
            for model in (world.tokenizer, world.actions, world.dynamics):
                compile_in_place(model)
        allow_tf32(request.inference.tf32)

        beaten = time.monotonic()

        def each_step(step: int) -> None:
            nonlocal beaten
            if self.stop.is_set() or self.ranks.asked_elsewhere():
                raise Stopped
            if time.monotonic() - beaten > BEAT_SECONDS:
                self.ranks.beat()
                beaten = time.monotonic()
            self.tell(json.dumps([step, request.inference.generation_steps, None]))

        from tiw_fsm.engines.native import strips

        data = self._frames(request)
        found = evaluate(world, data, request.inference, request.clips, say, each_step)
        strips.draw_attempt(request, found)
        say(f"Visualization saved to: {request.picture}")
        return {**found.figures, "png": request.picture, "frames": [data.digest]}


def _read(source: DataSource, device: torch.device) -> FrameData:
    """The frames.

    Raises:
        RunChanged: they cannot be decoded, which they could be when the run began.
        UsageProblem, DiskRefused: they cannot be read now.
    """
    try:
        with reading(Path(source.path)):
            return FrameData(source, device)
    except Undecodable as exc:
        if isinstance(exc.__cause__, RuntimeError):  # torch's: there is no memory for them
            raise exc.__cause__ from None
        # The run has read them before, to the last row.
        raise RunChanged(f"{exc}. {OTHER_FRAMES}") from exc


def _device(wanted: str, here: int) -> torch.device:
    """The device of rank ``here`` of this machine.

    Raises:
        UsageProblem: there is none of that kind.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageProblem("device cuda: this machine has no CUDA device that torch can use; give --device cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", here % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _unlike(first: Mapping[str, str], other: Mapping[str, str], name: str) -> str:
    what = next(key for key in first if first[key] != other[key])
    words = {"torch": "another torch", "own_code": "other code of tiw_fsm"}
    return (
        f"the processes of one run must be alike, and on {name} there is {words[what]} than on the first machine: "
        f"{other[what][:20]}, not {first[what][:20]}; install the same on all, and start again"
    )


def lacks_memory(exc: BaseException) -> bool:
    """Whether memory did not suffice, that of a GPU or the machine's."""
    return isinstance(exc, torch.OutOfMemoryError) or killer.is_shortage(exc)


def judge(exc: Exception) -> tuple[str, Any]:
    """What an error means to the controller: a status, and a content for people."""
    short = lacks_memory(exc)
    match exc:
        case Stopped():
            return "stopped", None
        case Agreed():
            return exc.status, exc.content
        case UsageProblem():
            return "usage", exc.problems
        case RunChanged():
            return "changed", str(exc)
        case StateDamaged():
            return "damaged", str(exc)
        case NotPermitted():
            return "not_permitted", str(exc)
        case PermissionError():
            return "not_permitted", str(refusal("using", Path(exc.filename or os.getcwd()), exc))
        case DiskRefused() if not short:
            return "disk", str(exc)
        case OSError() if not short:
            return "disk", str(refusal("using", Path(exc.filename or "a file"), exc))
    return "out_of_memory" if short else "error", "".join(traceback.format_exception(exc))


REFUSED = ("usage", "changed", "damaged", "not_permitted", "disk")
"""Statuses that people have to do something about."""
TOLERATED = ("stopped", *REFUSED)
"""Statuses after which what is in memory can still be used."""


def answer(worker: Worker, line: bytes) -> tuple[str, Any]:
    """Status and content for one request."""
    kind = json.loads(line)["kind"]
    request = REQUESTS[kind].model_validate_json(line)
    try:
        match request:
            case HelloRequest():
                return "ok", worker.hello(request)
            case ShapesRequest():
                # Not on the device "meta": its first use takes as long as importing torch.
                weights = make_model(request.stage, request.config).state_dict()
                return "ok", {name: list(tensor.shape) for name, tensor in weights.items()}
            case PackRequest():
                weights = torch.load(
                    Path(request.folder) / checkpoint_files.MODEL, map_location="cpu", weights_only=True
                )
                torch.save({"model": weights, "config": request.config}, request.file)
                return "ok", {}
            case TrainRequest():
                return "ok", worker.train(request)
            case InferRequest():
                return "ok", worker.infer(request)
    except (Stopped, Agreed) as exc:
        status, content = judge(exc)
    except Exception as exc:
        if kind in SHARED:
            worker.ranks.fail(exc, judge)
        status, content = judge(exc)
    else:
        raise AssertionError(request)
    if status not in TOLERATED:
        worker.trainer = worker.standing = None
    return status, content
