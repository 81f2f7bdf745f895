"""What a run's own frames give to its world: where to start from, and which actions its recorded keys stand for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiw_fsm.config.settings import Settings
from tiw_fsm.data import frames, supply
from tiw_fsm.errors import UsageProblem
from tiw_fsm.tinyworlds.clips import FrameData, to_model
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.tinyworlds.keys import together
from tiw_fsm.tinyworlds.rollout import WorldModel

CLIPS = 512
"""Held-out clips that are looked at: a second's work, and some dozens of a key pressed one turn in twenty."""
PART = 64
"""Clips looked at together."""
STARTS = 64
MOST_BYTES = 16 << 20
"""Starts that a world has, at most, and what they may take: an export carries them."""


def frame_data(settings: Settings, device: torch.device) -> FrameData:
    """The run's frames.

    Raises:
        UsageProblem: they are gone, or hold no start.
    """
    config = settings.inference
    (size,) = {stage.frame_size for stage in settings.stages.values()}
    held_out = supply.HeldOut(clips=1, length=config.context_window + config.prediction_horizon)
    problems = frames.inspect(settings.data, frame_size=size, training_length=held_out.length, held_out=held_out)
    if problems:
        raise UsageProblem(problems)
    return FrameData(settings.data, device)


def starts(data: FrameData, config: InferenceConfig) -> NDArray[np.uint8]:
    """Contexts to start from, spread over the held-out rows: [N, window, H, W, 3]."""
    window = config.context_window
    count = max(1, min(STARTS, MOST_BYTES // (window * data.frames[0].numel())))
    rows = data.held_out_clips(window + config.prediction_horizon, count, config.seed)
    found: NDArray[np.uint8] = data.clips(rows, window).cpu().numpy()
    return found


class Inferred(NamedTuple):
    """What the model infers on held-out clips.

    Attributes:
        actions: numbers of those that lead beyond the context, long [B, horizon].
        keys: what was pressed there, places in the recording's keys, long [B, horizon]; None where nothing is recorded.
        clips: the frames from the last one of the context on, uint8 [B, horizon + 1, H, W, 3].
    """

    actions: Tensor
    keys: Tensor | None
    clips: Tensor


def infer(model: WorldModel, data: FrameData, config: InferenceConfig) -> Inferred:
    """The actions of up to ``CLIPS`` held-out clips, and the keys beside them."""
    window, horizon = config.context_window, config.prediction_horizon
    length = window + horizon
    rows = data.held_out_clips(length, CLIPS, config.seed)
    clips = data.clips(rows, length)
    with torch.no_grad():
        latents = torch.cat([model.actions.encode(to_model(part))[:, -horizon:] for part in torch.split(clips, PART)])
    keys = data.keys_between(rows, length)
    return Inferred(
        model.actions.quantizer.indices_from_latents(latents).cpu(),
        None if keys is None else keys[:, -horizon:],
        clips[:, window - 1 :],
    )


def counts(actions: Tensor, keys: Tensor, shape: tuple[int, int]) -> NDArray[np.float64]:
    """How often each action goes with each key: [actions, keys], of this ``shape``."""
    table = np.zeros(shape)
    counted = together(actions, keys).double().numpy()
    table[: counted.shape[0], : counted.shape[1]] = counted
    return table


def lift(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each pair of [actions, keys] adds to their mutual information, counts times nats.

    By it an action inferred all the time does not speak for a key pressed all the time, nor a pair that met twice.
    """
    by_chance = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / max(table.sum(), 1)
    found: NDArray[np.float64] = table * np.log(np.maximum(table, 1e-9) / np.maximum(by_chance, 1e-9))
    return found


def key_actions(model: WorldModel, data: FrameData, config: InferenceConfig) -> dict[str, int]:
    """The action that most speaks for each recorded key, by the key's name; a key that none speaks for is left out."""
    inferred = infer(model, data, config)
    if inferred.keys is None or data.keys is None:
        return {}
    names = data.keys.names
    shape = int(model.actions.quantizer.codebook_size), len(names)
    speaks = lift(counts(inferred.actions, inferred.keys, shape))
    return {name: int(column.argmax()) for name, column in zip(names, speaks.T, strict=True) if column.max() > 0}
