"""The pictures of a chunk and of an inference attempt: rows of frames, those of one clip below one another."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tiw_fsm.data import pictures
from tiw_fsm.engines.protocol import InferRequest, TrainRequest
from tiw_fsm.tinyworlds.clips import to_pixels, to_unit
from tiw_fsm.tinyworlds.evaluation import Evaluation


def draw_chunk(request: TrainRequest, completed: int, clips: Tensor, versions: Tensor) -> None:
    """Held-out clips, and what the stage's model makes of them. Both [B, F, C, H, W] in [-1, 1].

    Raises:
        DiskRefused: the disk did not take it.
    """
    assert request.picture is not None
    rows = []
    for clip, version in zip(to_pixels(clips), to_pixels(versions), strict=True):
        rows += [("true", clip[-len(version) :]), ("model", version)]
    title = f"{request.run}: {request.stage} after {completed} updates, held-out clips"
    pictures.draw_strips(Path(request.picture), title, rows)


def draw_attempt(request: InferRequest, found: Evaluation) -> None:
    """Of all clips that were judged the best, the median and the worst: the true frames, the model's, those of the best
    trivial prediction, and where the model errs, the brighter the more.

    Raises:
        DiskRefused: the disk did not take it.
    """
    split = request.inference.context_window
    rows = []
    for name, n in picked(found.errors).items():
        truth, context = found.clips[n, split:], found.clips[n, :split]
        guess = found.predicted[n].expand_as(truth)
        error = (to_unit(found.generated[n]) - to_unit(truth)).abs().mean(1, keepdim=True).expand_as(truth)
        rows += [
            (f"{name}: true", found.clips[n]),
            ("model", torch.cat([context, found.generated[n]])),
            (found.baseline, torch.cat([context, guess])),
            ("error", torch.cat([torch.full_like(context, -1), error * 2 - 1])),
        ]
    shown = [(label, to_pixels(frames)) for label, frames in rows]
    title = f"{request.run}: ground truth and prediction after {split} true frames; MSE {found.figures['mse']:.4f}"
    pictures.draw_strips(Path(request.picture), title, shown, together=4)


def picked(errors: Tensor) -> dict[str, int]:
    """The best, the median and the worst clip by their mean error, each once. ``errors`` are [B, F]."""
    order: list[int] = errors.mean(1).argsort(stable=True).tolist()
    named: dict[int, str] = {}
    for name, place in (("best", 0), ("worst", -1), ("median", (len(order) - 1) // 2)):
        named.setdefault(order[place], name)
    return {named[n]: n for n in order if n in named}
