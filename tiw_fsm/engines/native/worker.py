"""The work of the native engine's child: it trains and infers, and answers each request with a status and a content."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tiw_fsm.data import pictures
from tiw_fsm.data.h5 import Undecodable, reading
from tiw_fsm.engines.protocol import (
    OTHER_FRAMES,
    HelloRequest,
    InferRequest,
    PackRequest,
    ShapesRequest,
    TrainRequest,
)
from tiw_fsm.errors import DiskRefused, NotPermitted, RunChanged, StateDamaged, UsageProblem, refusal
from tiw_fsm.storage import checkpoints
from tiw_fsm.system import durable, killer
from tiw_fsm.tinyworlds import checkpoint_files
from tiw_fsm.tinyworlds.clips import FrameData, to_pixels
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.tinyworlds.determinism import allow_tf32, make_deterministic
from tiw_fsm.tinyworlds.evaluation import evaluate
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.optimizer import missing
from tiw_fsm.tinyworlds.rollout import load_world
from tiw_fsm.tinyworlds.training import Trainer, load_frozen
from tiw_fsm.values.frozen import FrozenModel

REQUESTS: dict[str, type[FrozenModel]] = {
    "hello": HelloRequest,
    "shapes": ShapesRequest,
    "pack": PackRequest,
    "train": TrainRequest,
    "infer": InferRequest,
}
SHOWN_CLIPS = 3


class Stopped(Exception):
    """Asked to stop before anything worth keeping was done."""


class Worker:
    """Serves requests; keeps frames, models and the stage in training between them."""

    def __init__(self, tell: Callable[[str], None], code: str = "") -> None:
        self.tell = tell
        self.code = code
        self.stop = threading.Event()
        self.device = torch.device("cpu")
        self.data: tuple[DataSource, FrameData] | None = None
        self.trainer: Trainer | None = None
        self.standing: tuple[Any, ...] | None = None
        """What the live trainer stands for: stage, config, and the checkpoint it is exactly at."""

    # --- hello ---

    def hello(self, request: HelloRequest) -> dict[str, Any]:
        wants_cuda = request.device == "cuda" or (request.device == "auto" and torch.cuda.is_available())
        if wants_cuda and not torch.cuda.is_available():
            raise UsageProblem("device cuda: this machine has no CUDA device that torch can use; give --device cpu")
        if lacking := missing(request.optimizers):
            raise UsageProblem(lacking)
        self.device = torch.device("cuda" if wants_cuda else "cpu")
        make_deterministic(request.threads)
        return {
            "device": self._device_name(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "own_code": self.code,
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
        trainer = self._trainer_at(request)
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
        folder = Path(request.checkpoint)
        durable.clear(folder)
        trainer.save(folder, completed, request.tuning)
        sha256 = checkpoints.write_manifest(folder, request.stage, completed, request.owner)
        if request.picture and completed == request.stop_at:
            self._draw_chunk(trainer, request, completed)
        self.standing = (*self._identity(request), sha256)
        used = [trainer.data.digest]
        return {"completed": completed, "sha256": sha256, "rows": rows, "seconds": seconds, "frames": used}

    def _identity(self, request: TrainRequest) -> tuple[Any, ...]:
        return request.stage, request.config, request.seed, request.inputs

    def _trainer_at(self, request: TrainRequest) -> Trainer:
        """The live trainer if it stands exactly where the request begins, else one loaded from there."""
        wanted = (*self._identity(request), request.resume and request.resume.sha256)
        if self.trainer is not None and self.standing == wanted:
            return self.trainer
        self.trainer = self.standing = None  # let go of the old stage before the new one is built
        data = self._frames(request)
        inputs = {
            stage: load_frozen(stage, request.config, checkpoints.verified(ref), self.device)
            for stage, ref in request.inputs.items()
        }
        self.trainer = Trainer(request.stage, request.config, data, self.device, request.seed, inputs)
        if request.resume is not None:
            self.trainer.load(checkpoints.verified(request.resume), weights_only=request.weights_only)
        return self.trainer

    def _frames(self, request: TrainRequest | InferRequest) -> FrameData:
        """The frames, loaded once.

        Raises:
            RunChanged: they are not those that the run began with.
            UsageProblem, DiskRefused: they cannot be read now.
        """
        source = request.data
        if self.data is None or self.data[0] != source:
            self.data = None
            try:
                with reading(Path(source.path)):
                    self.data = (source, FrameData(source, self.device))
            except Undecodable as exc:
                if isinstance(exc.__cause__, RuntimeError):  # torch's: there is no memory for them
                    raise exc.__cause__ from None
                # The run has read them before, to the last row.
                raise RunChanged(f"{exc}. {OTHER_FRAMES}") from exc
        if request.frames:
            request.frames.require(self.data[1].digest)
        return self.data[1]

    def _draw_chunk(self, trainer: Trainer, request: TrainRequest, completed: int) -> None:
        assert request.picture is not None
        truth, shown = (to_pixels(frames) for frames in trainer.show())
        rows = []
        for clip, version in zip(truth, shown, strict=True):
            rows += [("true", clip[-len(version) :]), ("model", version)]
        title = f"{request.run}: {trainer.stage} after {completed} updates, held-out clips"
        pictures.draw_strips(Path(request.picture), title, rows)

    # --- infer ---

    def infer(self, request: InferRequest) -> dict[str, Any]:
        began = time.monotonic()
        with durable.open_new(Path(request.log)) as log:

            def say(line: str) -> None:
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
        folders = {stage: checkpoints.verified(ref) for stage, ref in request.checkpoints.items()}
        world = load_world(folders, request.configs, self.device)
        if request.inference.compile:
            for model in (world.tokenizer, world.actions, world.dynamics):
                model.compile()
        allow_tf32(request.inference.tf32)

        def each_step(step: int) -> None:
            if self.stop.is_set():
                raise Stopped
            self.tell(json.dumps([step, request.inference.generation_steps, None]))

        data = self._frames(request)
        figures, clips, generated = evaluate(world, data, request.inference, request.clips, say, each_step)
        truth, predicted = to_pixels(clips), to_pixels(generated)
        split = request.inference.context_window
        rows = []
        for clip, frames in list(zip(truth, predicted, strict=True))[:SHOWN_CLIPS]:
            rows += [("true", clip), ("model", [*clip[:split], *frames])]
        title = f"{request.run}: ground truth and prediction after {split} true frames; MSE {figures['mse']:.4f}"
        pictures.draw_strips(Path(request.picture), title, rows)
        say(f"Visualization saved to: {request.picture}")
        return {**figures, "png": request.picture, "frames": [data.digest]}


def lacks_memory(exc: Exception) -> bool:
    """Whether memory did not suffice, that of a GPU or the machine's."""
    return isinstance(exc, torch.OutOfMemoryError) or killer.is_shortage(exc)


def answer(worker: Worker, line: bytes) -> tuple[str, Any]:
    """Status and content for one request."""
    schema = REQUESTS[json.loads(line)["kind"]]
    request = schema.model_validate_json(line)
    try:
        match request:
            case HelloRequest():
                return "ok", worker.hello(request)
            case ShapesRequest():
                with torch.device("meta"):
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
    except Stopped:
        return "stopped", None
    except UsageProblem as exc:
        return "usage", exc.problems
    except RunChanged as exc:
        return "changed", str(exc)
    except StateDamaged as exc:
        return "damaged", str(exc)
    except (NotPermitted, PermissionError) as exc:
        told = exc if isinstance(exc, NotPermitted) else refusal("using", Path(exc.filename or os.getcwd()), exc)
        return "not_permitted", str(told)
    except Exception as exc:
        short = lacks_memory(exc)
        if isinstance(exc, DiskRefused | OSError) and not short:
            return "disk", str(exc)
        worker.trainer = worker.standing = None
        return "out_of_memory" if short else "error", traceback.format_exc()
    raise AssertionError(request)
