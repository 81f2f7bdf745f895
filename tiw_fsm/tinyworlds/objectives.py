"""What each stage learns: its model, the loss it minimises, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.clips import FrameData, to_model
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.tinyworlds.dynamics import MASKS, DynamicsModel, draw_disturbance
from tiw_fsm.tinyworlds.keys import UNKNOWN, entropy
from tiw_fsm.tinyworlds.latent_actions import LatentActionModel
from tiw_fsm.tinyworlds.peers import Peers
from tiw_fsm.tinyworlds.tokens import ClipTokens
from tiw_fsm.tinyworlds.transformer import Mixture, TransformerConfig
from tiw_fsm.tinyworlds.video_tokenizer import VideoTokenizer

SHOWN_STEPS = 8
SHARE_DIGITS = 3
"""Decimals of an expert's share in a metrics row."""


S = TypeVar("S", TransformerConfig, Mixture)
Row = dict[str, Any]
"""Metrics of one update."""
Inputs = Mapping[Stage, nn.Module]
"""Frozen models of the stages that a stage is trained against."""


class Loss(NamedTuple):
    """A scalar loss, and tensors to keep for the metrics row."""

    value: Tensor
    extras: dict[str, Tensor]


class Objective(Protocol):
    """What a stage minimises, and what it shows."""

    def batch(self, picks: Tensor, share: slice, random: torch.Generator) -> Any:
        """What the loss needs of a micro-batch of training clips number ``picks`` [B], of which ``share`` is wanted.

        What is drawn at random is drawn for all of it.
        """

    def loss(self, batch: Any) -> Loss:
        """Loss on what ``batch`` returned. Over equal shares of a micro-batch, their mean is that of the whole."""

    def row(self, extras: dict[str, Tensor]) -> Row:
        """Metrics of an update from what its loss kept, moved to the CPU."""

    def show(self, frames: Tensor) -> Tensor:
        """The model's own version of frames [B, T, C, H, W]: [B, T', C, H, W], aligned to the clip's last frames."""


class FrameObjective:
    """The base of the stages that learn from frames themselves."""

    def __init__(self, data: FrameData, config: StageConfig) -> None:
        self.data, self.config, self.length = data, config, config.context_length
        self.starts = data.clip_starts(self.length, held_out=False)

    def batch(self, picks: Tensor, share: slice, random: torch.Generator) -> Any:
        """The clips, [B, T, C, H, W] in [-1, 1]."""
        return to_model(self.data.clips(self.starts[picks[share]], self.length))


class VideoObjective(FrameObjective):
    """Reconstruct frames through the codebook."""

    def __init__(
        self, model: VideoTokenizer, data: FrameData, config: StageConfig, inputs: Inputs, peers: Peers
    ) -> None:
        super().__init__(data, config)
        self.model = model

    def loss(self, batch: Tensor) -> Loss:
        return Loss(self.model(batch)[0], {})

    def row(self, extras: dict[str, Tensor]) -> Row:
        return {}

    def show(self, frames: Tensor) -> Tensor:
        reconstruction: Tensor = self.model(frames)[1]
        return reconstruction


class LatentObjective(FrameObjective):
    """Predict frames from those before and the actions inferred between them; recorded keys may hint at these."""

    def __init__(
        self, model: LatentActionModel, data: FrameData, config: StageConfig, inputs: Inputs, peers: Peers
    ) -> None:
        super().__init__(data, config)
        self.model, self.peers = model, peers
        self.codes = data.keys.codes(config.n_actions) if data.keys is not None and config.key_hint_weight > 0 else None

    def batch(self, picks: Tensor, share: slice, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Clips, and the action that each recorded key between their frames stands for, [B, T-1], if any does."""
        return super().batch(picks, share, random), self._hints(self.starts[picks[share]])

    def _hints(self, starts: Tensor) -> Tensor | None:
        """The action that each recorded key stands for, [B, T-1]; None where there are no keys to go by."""
        if self.codes is None:
            return None
        keys = self.data.keys_between(starts, self.length)
        assert keys is not None
        hints = torch.where(keys == UNKNOWN, UNKNOWN, self.codes[keys])
        return hints.to(self.data.device, non_blocking=True)

    def loss(self, batch: tuple[Tensor, Tensor | None]) -> Loss:
        loss, _, actions = self.model(*batch, self.config.key_hint_weight, self.peers)
        return Loss(loss, {"actions": count_actions(actions, self.config.n_actions)})

    def row(self, extras: dict[str, Tensor]) -> Row:
        return action_statistics(extras["actions"])

    def show(self, frames: Tensor) -> Tensor:
        predicted: Tensor = self.model(frames)[1]
        return predicted


class MaskedTokens(NamedTuple):
    """Clips as dynamics learn from them.

    Attributes:
        indices: [B, T, P], the tokens.
        seen: [B, T, P], what is shown in their place.
        mask: bool [B, T, P], True where they are hidden.
        actions: [B, T-1]; None where dynamics are trained without.
        hidden: scalar, how many tokens of as many clips are hidden, in the mean over the micro-batch.
    """

    indices: Tensor
    seen: Tensor
    mask: Tensor
    actions: Tensor | None
    hidden: Tensor


class DynamicsObjective:
    """Predict masked tokens from the others and the actions; tokenizer and actions are frozen."""

    def __init__(
        self, model: DynamicsModel, data: FrameData, config: StageConfig, inputs: Inputs, peers: Peers
    ) -> None:
        self.model, self.config, self.device, self.peers = model, config, data.device, peers
        self.tokenizer = cast(VideoTokenizer, inputs[Stage.VIDEO])
        self.actions = cast(LatentActionModel, inputs[Stage.LATENT])
        actions = self.actions if config.use_actions else None
        drawn = config.n_updates * config.batch_size_per_gpu * config.gradient_accumulation_steps
        self.tokens = ClipTokens(data, config.context_length, drawn, self.tokenizer, actions)
        self.hiding = MASKS[config.masking]

    def batch(self, picks: Tensor, share: slice, random: torch.Generator) -> MaskedTokens:
        indices, actions = self.tokens.lookup(picks[share])
        clips, (_, frames, patches) = len(picks), indices.shape
        drawn = self.hiding.draw(clips, frames, patches, random)
        mask, seen = self._here(drawn[share]), indices
        if self.config.context_noise > 0:
            noise = draw_disturbance(clips, frames, patches, self.config.context_noise, random)
            others, _ = self.tokens.lookup(picks[noise.others[share]])
            seen = torch.where(self._here(noise.hit[share]) & ~mask, others, indices)
        return MaskedTokens(indices, seen, mask, actions, self._here(drawn.sum() * (len(indices) / clips)))

    def _here(self, drawn: Tensor) -> Tensor:
        return drawn.to(self.device, non_blocking=True)

    def loss(self, batch: MaskedTokens) -> Loss:
        latents = self.tokenizer.quantizer.latents_from_indices(batch.seen)
        conditioning, kept = None, dict[str, Tensor]()
        if batch.actions is not None:
            conditioning = self.actions.quantizer.latents_from_indices(batch.actions)
            kept = {"actions": count_actions(batch.actions, self.config.n_actions)}
        loss, shares = self.model.loss(
            latents, batch.indices, batch.mask, conditioning, batch.hidden, self.peers, self.hiding.last
        )
        return Loss(loss, kept if shares is None else {**kept, "experts": shares})

    def row(self, extras: dict[str, Tensor]) -> Row:
        statistics = {"actions": action_statistics, "experts": expert_statistics}
        return {key: figure for name, kept in extras.items() for key, figure in statistics[name](kept).items()}

    def show(self, frames: Tensor) -> Tensor:
        """The last frame, predicted from those before it."""
        latents = self.tokenizer.encode(frames)
        actions = self.actions.encode(frames) if self.config.use_actions else None
        decode = self.tokenizer.quantizer.latents_from_indices
        return self.tokenizer.detokenize(self.model.generate(latents[:, :-1], 1, SHOWN_STEPS, actions, decode))


def count_actions(indices: Tensor, n_actions: int) -> Tensor:
    """How often each action occurs, [n_actions]; stays on the device."""
    return nn.functional.one_hot(indices.flatten(), n_actions).sum(0)


def action_statistics(counts: Tensor) -> Row:
    """Number of different actions and the entropy of their distribution in nats, from counts [n_actions]."""
    return {"unique_actions": int((counts > 0).sum()), "action_entropy": entropy(counts)}


def expert_statistics(shares: Tensor) -> Row:
    """The least entropy in nats of the experts' use in a block, and the share of the choices that fell on each.

    Args:
        shares: of one or more micro-batches, summed, [blocks, n].
    """
    each = shares / shares.sum(-1, keepdim=True)
    rounded = [[round(share, SHARE_DIGITS) for share in block] for block in each.tolist()]
    return {"expert_entropy": min(map(entropy, each)), "expert_shares": rounded}


# --- the models -------------------------------------------------------------------------------------------------


class StageModel(NamedTuple):
    """How a stage's model is made, and what it learns."""

    make: Callable[[TransformerConfig, StageConfig], nn.Module]
    objective: Callable[[Any, FrameData, StageConfig, Inputs, Peers], Objective]


MODELS: dict[Stage, StageModel] = {
    Stage.VIDEO: StageModel(
        lambda sizes, config: VideoTokenizer(sizes, latent_dim=config.latent_dim, num_bins=config.num_bins),
        VideoObjective,
    ),
    Stage.LATENT: StageModel(
        lambda sizes, config: LatentActionModel(sizes, n_actions=config.n_actions, context=config.decoder_context),
        LatentObjective,
    ),
    Stage.DYNAMICS: StageModel(
        lambda sizes, config: DynamicsModel(
            sizes,
            latent_dim=config.latent_dim,
            num_bins=config.num_bins,
            n_actions=config.n_actions,
            mixture=_stated(Mixture, config) if config.use_moe else None,
        ),
        DynamicsObjective,
    ),
}


def make_model(stage: Stage, config: StageConfig) -> nn.Module:
    """A freshly initialised model of ``stage``."""
    return MODELS[stage].make(_stated(TransformerConfig, config), config)


def _stated(kind: type[S], config: StageConfig) -> S:
    """A dataclass of what a config says under its fields' names."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})
