"""Predictions that know nothing of the game: what a world model has to beat. Frames are [B, F, C, H, W] in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tiw_fsm.tinyworlds.clips import FrameData, to_model, to_unit
from tiw_fsm.tinyworlds.config import Baseline, InferenceConfig

BLUR_SIGMAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Candidates for the blurred baseline, in pixels."""
BLUR_CLIPS = 64
"""Training clips on which the blur is chosen."""


class Given(NamedTuple):
    """What a baseline may use: all but the frames that are to be predicted."""

    last: Tensor
    """The last true frame of each clip, [B, 1, C, H, W]."""
    mean: Tensor
    """The mean training frame, [C, H, W]."""
    blur_sigma: float
    """Standard deviation, in pixels, of the Gaussian blur that does best on training clips."""


BASELINES: dict[Baseline, Callable[[Given], Tensor]] = {
    "copy_last": lambda given: given.last,
    "mean_frame": lambda given: given.mean.expand_as(given.last),
    "blurred_last": lambda given: blur(given.last, given.blur_sigma),
}
"""The frame [B, 1, C, H, W] that each baseline predicts for every coming step."""


def predictions(data: FrameData, clips: Tensor, config: InferenceConfig) -> tuple[dict[str, Tensor], float]:
    """The frame [B, 1, C, H, W] that each baseline predicts for all that come in ``clips``, and the blur's σ."""
    split = config.context_window
    given = Given(clips[:, split - 1 : split], data.mean_training_frame() * 2 - 1, _best_sigma(data, config))
    return {name: predict(given) for name, predict in BASELINES.items()}, given.blur_sigma


def _best_sigma(data: FrameData, config: InferenceConfig) -> float:
    """The candidate that does best on training clips, spread over all of them.

    A frame's distance from all frames to come is that from their mean, and their spread, which no candidate changes.
    """
    split = config.context_window
    training = data.clip_starts(config.frames, held_out=False)
    starts = training[torch.linspace(0, len(training) - 1, min(BLUR_CLIPS, len(training))).long()]
    sample = to_model(data.clips(starts, config.frames))
    last, mean = sample[:, split - 1 : split], sample[:, split:].mean(1, keepdim=True)  # of frames to come
    errors = {sigma: float(squared_errors(blur(last, sigma), mean).mean()) for sigma in BLUR_SIGMAS}
    return min(errors, key=errors.__getitem__)


def squared_errors(predicted: Tensor, truth: Tensor) -> Tensor:
    """MSE of each frame over its pixels, [B, F]; in [0, 1] pixel units squared."""
    difference: Tensor = to_unit(predicted.float()) - to_unit(truth)
    return difference.square().mean(dim=(2, 3, 4))


def blur(frames: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with standard deviation ``sigma`` pixels, edges reflected; 0 changes nothing."""
    if sigma == 0:
        return frames
    down, across = (_blurring(side, sigma).to(frames) for side in frames.shape[-2:])
    blurred: Tensor = down.T @ frames @ across
    return blurred


def _blurring(side: int, sigma: float) -> Tensor:
    """How much of pixel i goes to pixel j of a line of so many: [side, side].

    A line is blurred by one small product, whatever σ is; convolutions of one channel take ten times as long.
    """
    radius = min(int(3 * sigma + 0.5), side - 1)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    single = F.pad(torch.eye(side)[:, None], [radius] * 2, mode="reflect")  # each line has one pixel set
    return F.conv1d(single, (weights / weights.sum()).view(1, 1, -1))[:, 0]
