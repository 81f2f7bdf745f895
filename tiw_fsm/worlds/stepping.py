"""The one way to step through a world model: a context of frames, the actions between them, and one step after another.

A step is that of the gate's rollouts, so that worlds stepped from a context are, bit for bit, the rollout of the same
actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.tinyworlds.training import autocast


class Stepper:
    """Worlds that are stepped together, B of them. Frames are [B, T, C, H, W] in [-1, 1].

    Attributes:
        context: the frames that the next step is made of, [B, window, C, H, W].
        between: the actions between them, [B, window - 1, A].
        led: the actions that led to the newest frames, [B, horizon, A]; none before the first step.
    """

    def __init__(self, model: WorldModel, config: InferenceConfig, context: Tensor, random: torch.Generator) -> None:
        """Begin at ``context``, [B, window, C, H, W].

        Args:
            random: for sampling, where the temperature is not 0; one for all worlds, as in the gate's rollout.
        """
        self.model, self.config, self.context = model, config, context
        with torch.no_grad():
            self.between = model.actions.encode(context)
        self.led = self.between[:, :0]
        self._random = random

    def step(self, numbers: Tensor) -> Tensor:
        """What follows if in each world the action of its number, long [B], leads on: [B, horizon, C, H, W]."""
        led = numbers.to(self.between.device)[:, None].expand(-1, self.config.prediction_horizon)
        leading = self.model.actions.quantizer.latents_from_indices(led)
        return self.advance(torch.cat([self.between, leading], dim=1))

    def advance(self, actions: Tensor) -> Tensor:
        """One step by ``actions`` [B, window - 1 + horizon, A], between the frames of the context and beyond."""
        window = self.config.context_window
        with autocast(self.context.device, self.config.amp):
            new = self.model.predict(self.context, actions, self.config, self._random)
        self.context = torch.cat([self.context, new], dim=1)[:, -window:]
        self.between, self.led = actions[:, 1 - window :], actions[:, -self.config.prediction_horizon :]
        return new
