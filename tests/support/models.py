"""Models small enough for a laptop, in which every input counts, and what goes into them."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from tiw_fsm.tinyworlds.dynamics import DynamicsModel
from tiw_fsm.tinyworlds.fsq import FiniteScalarQuantizer
from tiw_fsm.tinyworlds.latent_actions import LatentActionModel
from tiw_fsm.tinyworlds.transformer import Mixture, TransformerConfig
from tiw_fsm.tinyworlds.video_tokenizer import VideoTokenizer

SIZES = TransformerConfig(frame_size=8, patch_size=4, embed_dim=12, num_heads=2, hidden_dim=9, num_blocks=1)
CODEBOOK = {"latent_dim": 2, "num_bins": 3}
B, T, P, K, A = 2, 4, 4, 9, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


M = TypeVar("M", bound=nn.Module)


def lively(model: M) -> M:  # initial FiLM weights are near zero: make every input count
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return model


def tokenizer(**changes: int) -> VideoTokenizer:
    torch.manual_seed(0)
    return lively(VideoTokenizer(replace(SIZES, **changes), **CODEBOOK))


def action_model(n_actions: int = 4, **changes: int) -> LatentActionModel:
    torch.manual_seed(0)
    return lively(LatentActionModel(replace(SIZES, **changes), n_actions=n_actions))


def dynamics(n_actions: int = 4, mixture: Mixture | None = None, **changes: int) -> DynamicsModel:
    torch.manual_seed(0)
    return lively(DynamicsModel(replace(SIZES, **changes), **CODEBOOK, n_actions=n_actions, mixture=mixture))


def expert_dynamics() -> DynamicsModel:
    """Of three experts, two for each token."""
    return dynamics(mixture=Mixture(num_experts=3, top_k_experts=2))


def some_frames(batch: int = B, frames: int = T) -> Tensor:
    return torch.rand(batch, frames, 3, 8, 8, generator=seeded()) * 2 - 1


def some_tokens(batch: int = B, frames: int = T) -> tuple[Tensor, Tensor]:
    """Latents [B, T, P, L] and their indices [B, T, P]."""
    indices = torch.randint(K, (batch, frames, P), generator=seeded())
    return codebook(indices), indices


def some_actions(count: int, batch: int = B) -> Tensor:
    return torch.randn(batch, count, A, generator=seeded(5))


def codebook(indices: Tensor) -> Tensor:
    return FiniteScalarQuantizer(**CODEBOOK).latents_from_indices(indices)


def frames_that_differ(a: Tensor, b: Tensor) -> list[int]:
    """Indices along axis 1 at which a and b are not the same."""
    return [t for t in range(a.shape[1]) if not torch.allclose(a[:, t], b[:, t], atol=1e-6)]
