"""Training of the three stages, update by update.

Batch order, masks and initial weights are pure functions of (seed, stage, update), and the learning rate of the
update alone: a trainer that loads a checkpoint computes what one that never stopped would have computed.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds import division
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE
from tiw_fsm.tinyworlds.clips import FrameData, draw_batch, generator, to_model
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.tinyworlds.determinism import allow_tf32
from tiw_fsm.tinyworlds.division import Pass
from tiw_fsm.tinyworlds.learning_rate import learning_rate
from tiw_fsm.tinyworlds.objectives import MODELS, Row, make_model
from tiw_fsm.tinyworlds.optimizer import make_optimizer
from tiw_fsm.tinyworlds.peers import ALONE, Peers
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning

MAX_GRAD_NORM = 1.0
"""Gradients are clipped to this norm (as TinyWorlds' training scripts do)."""
PROGRESS_SECONDS = 0.25
"""Between two reports of progress."""
SHOWN_CLIPS = 4
"""In a chunk's picture."""


class Trainer:
    """One stage in training on one device of each process.

    Args:
        inputs: frozen models of the stages that this one is trained against.
        peers: the processes that train it.
        processes: how many the batch size is meant for, so that the global batch is that of as many.

    Raises:
        KeyError: one of these is missing.
    """

    def __init__(
        self,
        stage: Stage,
        config: StageConfig,
        data: FrameData,
        device: torch.device,
        seed: int,
        inputs: Mapping[Stage, nn.Module] | None = None,
        peers: Peers = ALONE,
        processes: int = 1,
    ) -> None:
        self.stage, self.config, self.data, self.device, self.seed = stage, config, data, device, seed
        self.peers, self.processes = peers, processes
        self.clips = len(data.clip_starts(config.context_length, held_out=False))
        torch.manual_seed(self._random("weights").initial_seed())
        self.model = make_model(stage, config).to(device)
        peers.divide(self.model)
        self.optimizer = make_optimizer(self.model, config)
        if config.compile:
            compile_in_place(self.model, peers)
        self.objective = MODELS[stage].objective(self.model, data, config, inputs or {}, peers)
        self.step = peers.step(self.model, self.objective.loss)

    def _random(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, self.stage, *purpose)

    def train(
        self,
        start: int,
        stop_at: int,
        tuning: Tuning,
        schedule: LearningRateSchedule,
        should_stop: Callable[[], bool],
        progress: Callable[[int, float], None],
    ) -> list[Row]:
        """Do updates ``start`` to ``stop_at - 1``; fewer if any process is asked to stop. Returns one metrics row per
        update.

        The host waits for the device only for a progress report, where experts are chosen, and once at the end.

        Raises:
            ValueError: the global batch cannot be divided by the number of processes.
        """
        self.model.train()
        allow_tf32(self.config.tf32)
        losses, norms, extras, rates = [], [], [], []
        parameters = list(self.model.parameters())
        reported = time.monotonic()
        passes = division.passes(tuning, self.processes, self.peers.rank, self.peers.size)
        asked = self.peers.ask(should_stop)
        for update in range(start, stop_at):
            if asked():
                break
            asked = self.peers.ask(should_stop)
            rate = learning_rate(tuning.learning_rate, schedule, update)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, kept = self._accumulate(update, tuning, passes)
            norm = nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            norms.append(self.peers.whole(norm.detach()))
            self.optimizer.step()
            losses.append(loss)
            extras.append(kept)
            rates.append(rate)
            if time.monotonic() - reported > PROGRESS_SECONDS:
                progress(update + 1, loss.item())
                reported = time.monotonic()
        return self._rows(start, losses, norms, extras, rates)

    def _accumulate(self, update: int, tuning: Tuning, passes: Sequence[Pass]) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of one update: the mean over its passes. Returns the undivided mean loss of this process's."""
        self.optimizer.zero_grad()
        total, kept = torch.zeros((), device=self.device), dict[str, Tensor]()
        drawn = division.micro_batch(tuning, self.processes)
        for micro, share in passes:
            picks = draw_batch(self.clips, drawn, self._random("batch", update, micro))
            batch = self.objective.batch(picks, share, self._random("mask", update, micro))
            with self.step.exchanging((micro, share) == passes[-1]):
                with autocast(self.device, self.config.amp):
                    loss, extras = self.step.loss(batch)
                (loss / len(passes)).backward()
            total += loss.detach() / len(passes)
            kept = {name: kept.get(name, 0) + value for name, value in extras.items()}
        return total, kept

    def _rows(
        self,
        start: int,
        losses: Sequence[Tensor],
        norms: Sequence[Tensor],
        extras: Sequence[dict[str, Tensor]],
        rates: Sequence[float],
    ) -> list[Row]:
        if not losses:
            return []
        mean = self.peers.total(torch.stack(list(losses))) / self.peers.size
        columns = torch.stack([mean, torch.stack(list(norms))]).double().cpu()
        kept = {name: self.peers.total(torch.stack([e[name] for e in extras])).cpu() for name in extras[0]}
        return [
            {
                "update": start + i,
                "loss": _number(columns[0, i]),
                "learning_rate": rates[i],
                "grad_norm": _number(columns[1, i]),
                **self.objective.row({name: values[i] for name, values in kept.items()}),
            }
            for i in range(len(losses))
        ]

    @torch.no_grad()
    def show(self) -> tuple[Tensor, Tensor]:
        """Held-out clips and the model's version of their last frames, both [B, T, C, H, W] in [-1, 1]."""
        self.model.eval()
        starts = self.data.held_out_clips(self.config.context_length, SHOWN_CLIPS, self.seed)
        truth = to_model(self.data.clips(starts, self.config.context_length))
        return truth, self.objective.show(truth)

    def checkpoint(self, completed: int, tuning: Tuning) -> dict[str, Any]:
        """What a checkpoint's files hold, by their names: as TinyWorlds has them, however many processes there are."""
        groups = len(self.optimizer.param_groups)
        scheduler = {
            "base_lrs": [tuning.learning_rate] * groups,
            "last_epoch": completed,
            "_step_count": completed + 1,
            "_last_lr": [group["lr"] for group in self.optimizer.param_groups],
            "lr_lambdas": [None] * groups,
        }
        config = {**self.config.model_dump(), **tuning.model_dump()}
        return {
            MODEL: self._whole(self.model.state_dict()),
            OPTIMIZER: self._whole(self.optimizer.state_dict()),
            STATE: {"config": config, "step": completed - 1, "scheduler_state_dict": scheduler},
        }

    def load(self, folder: Path, *, weights_only: bool) -> None:
        """Continue from a checkpoint; with ``weights_only`` the optimizer starts afresh. Executes nothing in it."""
        own, weights = self.model.state_dict(), read_weights(folder)
        self.model.load_state_dict(
            {name: self.peers.part(whole, own.get(name, whole)) for name, whole in weights.items()}
        )
        if not weights_only:
            state = torch.load(folder / OPTIMIZER, map_location=self.device, weights_only=True)
            self.optimizer.load_state_dict(state, self.peers)

    def _whole(self, state: Any) -> Any:
        """The state of a model or optimizer as one process would hold it, on the CPU."""
        if isinstance(state, Tensor):
            return self.peers.whole(state).cpu()
        if isinstance(state, dict):
            return {key: self._whole(item) for key, item in state.items()}
        return [self._whole(item) for item in state] if isinstance(state, list) else state


def compile_in_place(model: nn.Module, *used: object) -> None:
    """Have ``model`` compiled, but what its parts, and what it uses, name in ``never_compiled``."""
    for part in (*model.modules(), *used):
        for name in getattr(part, "never_compiled", ()):
            setattr(part, name, torch.compiler.disable(getattr(part, name)))  # type: ignore[no-untyped-call]
    model.compile()


def autocast(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    """bfloat16 within the block where it is asked for and the device is CUDA; else nothing."""
    return torch.autocast("cuda", torch.bfloat16) if amp and device.type == "cuda" else nullcontext()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's weights, on the CPU; nothing in the file is executed."""
    weights: dict[str, Tensor] = torch.load(folder / MODEL, map_location="cpu", weights_only=True)
    return weights


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a checkpoint's weights into ``model``, strictly."""
    model.load_state_dict(read_weights(folder))


def load_frozen(stage: Stage, config: StageConfig, folder: Path, device: torch.device | str) -> nn.Module:
    """A stage's model with a checkpoint's weights, in evaluation mode and without gradients."""
    return frozen(stage, config, read_weights(folder), device)


def frozen(stage: Stage, config: StageConfig, weights: Mapping[str, Tensor], device: torch.device | str) -> nn.Module:
    """A stage's model with ``weights``, in evaluation mode and without gradients."""
    model = make_model(stage, config)
    model.load_state_dict(weights)
    return model.to(device).eval().requires_grad_(False)


def write_checkpoint(folder: Path, files: Mapping[str, Any]) -> None:
    """Write what ``Trainer.checkpoint`` gave into a new folder: the same update gives the same bytes.

    A disk that refuses raises OSError with the file's name, and not torch's RuntimeError.
    """
    folder.mkdir(parents=True)
    for name, value in files.items():
        content, path = io.BytesIO(), folder / name
        torch.save(value, content)
        try:
            path.write_bytes(content.getbuffer())
        except OSError as exc:  # of a write that failed the system names no file
            raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _number(value: Tensor) -> float | None:
    """A JSON number, or None for what is not finite."""
    return float(value) if bool(torch.isfinite(value)) else None
