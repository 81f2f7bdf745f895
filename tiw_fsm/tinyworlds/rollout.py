"""A world model: three models that together predict frames. Frames are [B, F, C, H, W] in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.clips import generator
from tiw_fsm.tinyworlds.config import InferenceConfig, StageConfig
from tiw_fsm.tinyworlds.dynamics import DynamicsModel
from tiw_fsm.tinyworlds.latent_actions import LatentActionModel
from tiw_fsm.tinyworlds.training import load_frozen
from tiw_fsm.tinyworlds.video_tokenizer import VideoTokenizer


@dataclass
class WorldModel:
    """The three models that together predict frames."""

    tokenizer: VideoTokenizer
    actions: LatentActionModel
    dynamics: DynamicsModel
    use_actions: bool = True
    keys_used: bool = False
    """Recorded keys were a hint to the latent actions in training."""

    @torch.no_grad()
    def infer_actions(self, clips: Tensor, config: InferenceConfig) -> list[Tensor]:
        """Actions [B, W-1, A] of each step's window of the true clips, W = context window + horizon."""
        return [self.actions.encode(window) for window in windows(clips, config)]

    def random_actions(self, like: list[Tensor], horizon: int, random: torch.Generator) -> list[Tensor]:
        """``like`` with the actions that lead to generated frames replaced by random ones."""
        quantizer, drawn = self.actions.quantizer, []
        for actions in like:
            count = actions.shape[0], horizon
            indices = torch.randint(quantizer.codebook_size, count, generator=random).to(actions.device)
            drawn.append(torch.cat([actions[:, :-horizon], quantizer.latents_from_indices(indices)], dim=1))
        return drawn

    @torch.no_grad()
    def rollout(
        self,
        clips: Tensor,
        actions: list[Tensor],
        config: InferenceConfig,
        random: torch.Generator | None = None,
        each_step: Callable[[int], None] = lambda step: None,
    ) -> Tensor:
        """Generate what follows the context of ``clips``: [B, generation steps · horizon, C, H, W].

        Strictly autoregressive: after the context the model sees its own frames only, unless ``teacher_forced``.

        Args:
            actions: of each step's window, as ``infer_actions`` and ``random_actions`` give them.
            random: for sampling; that of the inference gate if None.
        """
        random = random or generator(config.seed, "rollout")
        window, horizon = config.context_window, config.prediction_horizon
        frames = clips[:, :window]
        for step in range(config.generation_steps):
            source = clips if config.teacher_forced else frames
            context = source[:, step * horizon : step * horizon + window]
            frames = torch.cat([frames, self.predict(context, actions[step], config, random)], dim=1)
            each_step(step + 1)
        return frames[:, window:]

    @torch.no_grad()
    def predict(self, context: Tensor, actions: Tensor, config: InferenceConfig, random: torch.Generator) -> Tensor:
        """One step of a rollout: the frames [B, horizon, C, H, W] that follow ``context`` [B, window, C, H, W].

        Args:
            actions: [B, window - 1 + horizon, A], between the frames of the context and then leading to the new ones.
            random: for sampling, where the temperature is not 0.
        """
        quantizer, horizon = self.tokenizer.quantizer, config.prediction_horizon
        latents = self.dynamics.generate(
            quantizer.latents_from_indices(self.tokenizer.tokenize(context)),
            horizon,
            config.decode_steps,
            actions if self.use_actions else None,
            quantizer.latents_from_indices,
            config.temperature,
            random,
        )
        return self.tokenizer.detokenize(latents, last=horizon)

    @torch.no_grad()
    def reconstruct(self, clips: Tensor, config: InferenceConfig) -> Tensor:
        """The tokenizer's own version of the frames a rollout would generate: the best any dynamics can do."""
        horizon, tokenizer = config.prediction_horizon, self.tokenizer
        rebuilt = [tokenizer.detokenize(tokenizer.encode(window), last=horizon) for window in windows(clips, config)]
        return torch.cat(rebuilt, dim=1)


def load_world(
    folders: Mapping[Stage, Path], configs: Mapping[Stage, StageConfig], device: torch.device | str
) -> WorldModel:
    """The world model of three checkpoint folders, frozen. Nothing in the files is executed."""
    return assembled(
        {stage: load_frozen(stage, configs[stage], folder, device) for stage, folder in folders.items()}, configs
    )


def assembled(models: Mapping[Stage, nn.Module], configs: Mapping[Stage, StageConfig]) -> WorldModel:
    """The world model that the three stages' models make."""
    return WorldModel(
        cast(VideoTokenizer, models[Stage.VIDEO]),
        cast(LatentActionModel, models[Stage.LATENT]),
        cast(DynamicsModel, models[Stage.DYNAMICS]),
        use_actions=configs[Stage.DYNAMICS].use_actions,
        keys_used=configs[Stage.LATENT].key_hint_weight > 0,
    )


def windows(clips: Tensor, config: InferenceConfig) -> list[Tensor]:
    """The true frames under each step's context and horizon."""
    horizon = config.prediction_horizon
    size = config.context_window + horizon
    return [clips[:, step * horizon : step * horizon + size] for step in range(config.generation_steps)]
