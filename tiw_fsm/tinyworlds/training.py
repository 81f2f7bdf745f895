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
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE
from tiw_fsm.tinyworlds.clips import FrameData, draw_batch, generator, to_model
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.tinyworlds.determinism import allow_tf32
from tiw_fsm.tinyworlds.learning_rate import learning_rate
from tiw_fsm.tinyworlds.objectives import MODELS, Row, make_model
from tiw_fsm.tinyworlds.optimizer import make_optimizer
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning

MAX_GRAD_NORM = 1.0
"""Gradients are clipped to this norm (as TinyWorlds' training scripts do)."""
PROGRESS_SECONDS = 0.25
"""Between two reports of progress."""
SHOWN_CLIPS = 4
"""In a chunk's picture."""


class Trainer:
    """One stage in training on one device.

    Args:
        inputs: frozen models of the stages that this one is trained against.

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
    ) -> None:
        self.stage, self.config, self.data, self.device, self.seed = stage, config, data, device, seed
        self.clips = len(data.clip_starts(config.context_length, held_out=False))
        torch.manual_seed(self._random("weights").initial_seed())
        self.model = make_model(stage, config).to(device)
        self.optimizer = make_optimizer(self.model, config)
        if config.compile:
            self.model.compile()
        self.objective = MODELS[stage].objective(self.model, data, config, inputs or {})

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
        """Do updates ``start`` to ``stop_at - 1``; fewer if asked to stop. Returns one metrics row per update.

        The host waits for the device only for a progress report, where experts are chosen, and once at the end.
        """
        self.model.train()
        allow_tf32(self.config.tf32)
        losses, norms, extras, rates = [], [], [], []
        reported = time.monotonic()
        for update in range(start, stop_at):
            if should_stop():
                break
            rate = learning_rate(tuning.learning_rate, schedule, update)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, kept = self._accumulate(update, tuning)
            norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM).detach())
            self.optimizer.step()
            losses.append(loss)
            extras.append(kept)
            rates.append(rate)
            if time.monotonic() - reported > PROGRESS_SECONDS:
                progress(update + 1, loss.item())
                reported = time.monotonic()
        return self._rows(start, losses, norms, extras, rates)

    def _accumulate(self, update: int, tuning: Tuning) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of one update: the mean over its micro-batches. Returns the undivided mean loss."""
        self.optimizer.zero_grad()
        total, kept = torch.zeros((), device=self.device), dict[str, Tensor]()
        for micro in range(tuning.gradient_accumulation_steps):
            picks = draw_batch(self.clips, tuning.batch_size_per_gpu, self._random("batch", update, micro))
            batch = self.objective.batch(picks)
            with autocast(self.device, self.config.amp):
                loss, extras = self.objective.loss(batch, self._random("mask", update, micro))
            (loss / tuning.gradient_accumulation_steps).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / tuning.gradient_accumulation_steps
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
        columns = torch.stack([torch.stack(list(losses)), torch.stack(list(norms))]).double().cpu()
        kept = {name: torch.stack([e[name] for e in extras]).cpu() for name in extras[0]}
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

    def save(self, folder: Path, completed: int, tuning: Tuning) -> None:
        """Write a checkpoint as TinyWorlds does: the same update gives the same bytes."""
        folder.mkdir(parents=True)
        _save({k: v.cpu() for k, v in self.model.state_dict().items()}, folder / MODEL)
        _save(_to_cpu(self.optimizer.state_dict()), folder / OPTIMIZER)
        groups = len(self.optimizer.param_groups)
        scheduler = {
            "base_lrs": [tuning.learning_rate] * groups,
            "last_epoch": completed,
            "_step_count": completed + 1,
            "_last_lr": [group["lr"] for group in self.optimizer.param_groups],
            "lr_lambdas": [None] * groups,
        }
        config = {**self.config.model_dump(), **tuning.model_dump()}
        _save({"config": config, "step": completed - 1, "scheduler_state_dict": scheduler}, folder / STATE)

    def load(self, folder: Path, *, weights_only: bool) -> None:
        """Continue from a checkpoint; with ``weights_only`` the optimizer starts afresh. Executes nothing in it."""
        load_weights(self.model, folder)
        if not weights_only:
            state = torch.load(folder / OPTIMIZER, map_location=self.device, weights_only=True)
            self.optimizer.load_state_dict(state)


def autocast(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    """bfloat16 within the block where it is asked for and the device is CUDA; else nothing."""
    return torch.autocast("cuda", torch.bfloat16) if amp and device.type == "cuda" else nullcontext()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a checkpoint's weights into ``model``, strictly, without executing anything in the file."""
    model.load_state_dict(torch.load(folder / MODEL, map_location="cpu", weights_only=True))


def load_frozen(stage: Stage, config: StageConfig, folder: Path, device: torch.device | str) -> nn.Module:
    """A stage's model with a checkpoint's weights, in evaluation mode and without gradients."""
    model = make_model(stage, config)
    load_weights(model, folder)
    return model.to(device).eval().requires_grad_(False)


def _save(value: Any, path: Path) -> None:
    """torch.save, but a disk that refuses raises OSError and not torch's RuntimeError."""
    content = io.BytesIO()
    torch.save(value, content)
    path.write_bytes(content.getbuffer())


def _number(value: Tensor) -> float | None:
    """A JSON number, or None for what is not finite."""
    return float(value) if bool(torch.isfinite(value)) else None


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list) else value
