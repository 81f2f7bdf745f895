"""The latent action model: what happened between two frames (Genie: Bruce et al. 2024, arXiv:2402.15391)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DecoderContext
from .fsq import FiniteScalarQuantizer
from .peers import ALONE, Peers
from .transformer import PatchEmbedding, STTransformer, TransformerConfig, unpatchify

ACTION_BINS = 2
"""Every action dimension is -1 or +1."""
VARIANCE_TARGET = 0.01
"""Variance over the batch that raw action latents are pushed to (TinyWorlds' ``var_target``)."""
VARIANCE_WEIGHT = 100.0
"""Weight of what they lack of it, beside the reconstruction (TinyWorlds' ``var_lambda``)."""


def action_width(n_actions: int) -> int:
    """Dimensions A = log2(n_actions) of an action latent.

    Raises:
        ValueError: n_actions is no power of two of at least 2.
    """
    if n_actions < 2 or n_actions.bit_count() != 1:
        next_power = 1 << (max(n_actions, 2) - 1).bit_length()
        raise ValueError(f"{n_actions=} is not a power of two of at least 2: use {next_power}, for one")
    return n_actions.bit_length() - 1


class LatentActionsEncoder(nn.Module):
    """Frames [B, T, C, H, W] to raw action latents [B, T-1, A], one for each pair of neighbouring frames."""

    def __init__(self, sizes: TransformerConfig, action_dim: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(sizes)
        self.transformer = STTransformer(sizes)
        self.action_head = nn.Sequential(
            nn.LayerNorm(2 * sizes.embed_dim),
            nn.Linear(2 * sizes.embed_dim, 4 * action_dim),
            nn.GELU(),
            nn.Linear(4 * action_dim, action_dim),
        )

    def forward(self, frames: Tensor) -> Tensor:
        pooled = self.transformer(self.patch_embed(frames))[0].mean(dim=2)  # [B, T, E]
        pairs = torch.cat([pooled[:, :-1], pooled[:, 1:]], dim=-1)  # [B, T-1, 2E]
        actions: Tensor = self.action_head(pairs)
        return actions


class LatentActionsDecoder(nn.Module):
    """Predicts frames 1 .. T-1 from the frames before them and the actions [B, T-1, A] between them.

    In training only the first frame is shown, unless `context` is past_frames; mask tokens stand for the others,
    so that whatever changes has to come through the actions.
    """

    def __init__(self, sizes: TransformerConfig, action_dim: int, context: DecoderContext) -> None:
        super().__init__()
        self.context = context
        self.grid = sizes.grid
        self.patch_size = sizes.patch_size
        self.patch_embed = PatchEmbedding(sizes)
        self.transformer = STTransformer(sizes, action_dim)
        self.frame_head = nn.Sequential(
            nn.LayerNorm(sizes.embed_dim), nn.Linear(sizes.embed_dim, sizes.patch_values), nn.Tanh()
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, sizes.embed_dim))

    def forward(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Frames [B, T, C, H, W] and actions [B, T-1, A] to predicted frames [B, T-1, C, H, W]."""
        B, T = frames.shape[:2]
        if self.training and self.context == "first_frame":
            first = self.patch_embed(frames[:, :1])  # [B, 1, P, E]
            hidden = self.mask_token.expand(B, T - 2, first.shape[2], -1)  # these know no place, only a time
            tokens = torch.cat([first, hidden], dim=1)
        else:
            tokens = self.patch_embed(frames[:, :-1])
        patches = self.frame_head(self.transformer(tokens, actions)[0])  # [B, T-1, P, C * p * p]
        return unpatchify(patches, self.grid, self.patch_size)


class LatentActionModel(nn.Module):
    """Infers one of n_actions discrete actions between neighbouring frames, without action labels.

    Frames are float [B, T, C, H, W] in [-1, 1] with T >= 2. An action is A = log2(n_actions) signs.

    sizes: of both halves. context: what the decoder sees in training.

    Raises:
        ValueError: the sizes do not divide or n_actions is no power of two.
    """

    def __init__(self, sizes: TransformerConfig, *, n_actions: int, context: DecoderContext = "first_frame") -> None:
        super().__init__()
        self.action_dim = action_width(n_actions)
        self.encoder = LatentActionsEncoder(sizes, self.action_dim)
        self.quantizer = FiniteScalarQuantizer(self.action_dim, ACTION_BINS)
        self.decoder = LatentActionsDecoder(sizes, self.action_dim, context)

    def forward(
        self, frames: Tensor, hints: Tensor | None = None, hint_weight: float = 0.0, peers: Peers = ALONE
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The scalar loss, the predicted frames 1 .. T-1 [B, T-1, C, H, W], the action indices [B, T-1].

        The loss is smooth L1 on the predictions plus a penalty while the raw action latents vary less over
        the batch, that of all `peers`, than VARIANCE_TARGET, which keeps the actions from collapsing into one; and the
        logistic loss of every sign of an action that `hints` know, times `hint_weight`.

        hints: long [B, T-1], the action there should be; negative where it is not known.

        Raises:
            ValueError: T < 2.
        """
        if frames.shape[1] < 2:
            raise ValueError(f"{frames.shape[1]} frame(s) hold no action: give at least 2")
        raw = self.encoder(frames)  # [B, T-1, A]
        actions = self.quantizer(raw)
        predicted = self.decoder(frames, actions)
        variance = peers.stacked(raw.float()).flatten(0, 1).var(dim=0, correction=0).mean()
        loss = F.smooth_l1_loss(predicted, frames[:, 1:])
        loss = loss + VARIANCE_WEIGHT * F.relu(VARIANCE_TARGET - variance)
        if hints is not None:
            signs = self.quantizer.latents_from_indices(hints.clamp_min(0))
            known = (hints >= 0)[..., None]
            loss = loss + hint_weight * (F.softplus(-2 * raw.float() * signs) * known).mean()
        return loss, predicted, self.quantizer.indices_from_latents(actions)

    def encode(self, frames: Tensor) -> Tensor:
        """Quantised action latents [B, T-1, A] of frames [B, T, C, H, W]; each entry -1 or +1."""
        actions: Tensor = self.quantizer(self.encoder(frames))
        return actions
