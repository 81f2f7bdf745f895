"""The dynamics model: predicts the tokens of coming frames from past tokens and actions.

Trained and decoded as a MaskGIT (Chang et al. 2022, arXiv:2202.04200), with the space-time transformer of
Genie (Bruce et al. 2024, arXiv:2402.15391). Token indices and latents are those of the video tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Masking
from .latent_actions import action_width
from .peers import ALONE, Peers
from .transformer import LatentEmbedding, Mixture, Seen, STTransformer, TransformerConfig


def draw_mask(batch: int, frames: int, patches: int, generator: torch.Generator) -> Tensor:
    """Which tokens to hide in a training step: bool [B, T, P] on the CPU, True where hidden.

    One ratio in [0.5, 1) holds for the whole batch; every patch stays visible in at least one random frame.
    """
    ratio = 0.5 + 0.5 * torch.rand((), generator=generator)
    mask = torch.rand(batch, frames, patches, generator=generator) < ratio
    visible_frame = torch.randint(frames, (batch, 1, patches), generator=generator)
    return mask.scatter(1, visible_frame, False)


def draw_next_frame_mask(batch: int, frames: int, patches: int, generator: torch.Generator) -> Tensor:
    """Hides tokens of the last frame alone, as decoding finds them: bool [B, T, P] on the CPU, True where hidden.

    One ratio in [0.5, 1) holds for the whole batch.
    """
    ratio = 0.5 + 0.5 * torch.rand((), generator=generator)
    mask = torch.zeros(batch, frames, patches, dtype=torch.bool)
    mask[:, -1] = torch.rand(batch, patches, generator=generator) < ratio
    return mask


class Mask(NamedTuple):
    """How tokens are hidden in training.

    Attributes:
        draw: which, of (batch, frames, patches).
        last: they are of so many last frames; None stands for any frames.
    """

    draw: Callable[[int, int, int, torch.Generator], Tensor]
    last: int | None


MASKS: dict[Masking, Mask] = {
    "scattered": Mask(draw_mask, last=None),
    "next_frame": Mask(draw_next_frame_mask, last=1),
}


class Disturbance(NamedTuple):
    """Which tokens of a batch are seen as another clip's: bool [B, T, P], and whose, long [B]; both on the CPU."""

    hit: Tensor
    others: Tensor


def draw_disturbance(batch: int, frames: int, patches: int, share: float, generator: torch.Generator) -> Disturbance:
    """Up to `share` of a clip's tokens are to be another clip's at the same place.

    What a rollout sees is its own work, with its errors: dynamics that only ever saw true tokens drift away from
    them (noise augmentation: Valevski et al. 2024, arXiv:2408.14837). Each clip draws its own share, from none up.
    """
    shares = share * torch.rand(batch, 1, 1, generator=generator)
    hit = torch.rand(batch, frames, patches, generator=generator) < shares
    return Disturbance(hit, torch.randperm(batch, generator=generator))


def unmask_counts(total: int, steps: int, schedule_k: float) -> list[int]:
    """How many of `total` tokens each decoding step reveals; few at first, all of them by the last step.

    The running sum follows total * (exp(k * step / steps) - 1) / (exp(k) - 1), but every step reveals at
    least a sixteenth of the tokens, so that the list may be shorter than `steps`.

    Raises:
        ValueError: total, steps or schedule_k is not positive.
    """
    if total < 1 or steps < 1 or schedule_k <= 0:
        raise ValueError(f"{total=}, {steps=} and {schedule_k=} must all be positive")
    counts: list[int] = []
    left = total
    for step in range(steps):
        aim = math.ceil(total * math.expm1(schedule_k * step / steps) / math.expm1(schedule_k))
        if step == steps - 1:
            aim = total
        count = min(left, max(aim - (total - left), total // 16, 1))
        counts.append(count)
        left -= count
        if left == 0:
            break
    return counts


def sample(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an index for each distribution [..., K]: long [...].

    Inverts the cumulative distribution at uniforms drawn on the CPU, so a seed means the same on any device.
    """
    cumulative = probabilities.cumsum(-1)
    uniform = torch.rand(probabilities.shape[:-1], generator=generator).to(probabilities.device)[..., None]
    indices = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True).squeeze(-1)
    return indices.clamp_max(probabilities.shape[-1] - 1)


def balance(shares: Tensor, probabilities: Tensor) -> Tensor:
    """How unevenly routers [blocks, n] use n experts, a scalar: 1 for each block that uses them all alike, at most n.

    Shares of the choices do not tell how to change them, mean probabilities do (Fedus et al. 2021, arXiv:2101.03961).
    """
    return shares.shape[-1] * (shares * probabilities).sum()


class DynamicsModel(nn.Module):
    """Logits over the K = num_bins ** latent_dim codebook entries for every token of a clip.

    latent_dim, num_bins: the tokenizer's codebook. n_actions: as in the latent action model; an action is
    A = log2(n_actions) numbers. mixture: of the experts in its feed-forward layers; None has plain ones.

    Raises:
        ValueError: the sizes do not divide or n_actions is no power of two.
    """

    def __init__(
        self,
        sizes: TransformerConfig,
        *,
        latent_dim: int,
        num_bins: int,
        n_actions: int,
        mixture: Mixture | None = None,
    ) -> None:
        super().__init__()
        self.mixture = mixture
        self.conditioning_dim = action_width(n_actions)
        self.codebook_size = num_bins**latent_dim
        self.latent_embed = LatentEmbedding(sizes, latent_dim)
        self.transformer = STTransformer(sizes, self.conditioning_dim, mixture)
        self.output_mlp = nn.Linear(sizes.embed_dim, self.codebook_size)
        self.mask_token = nn.Parameter(torch.randn(1, 1, 1, latent_dim) * 0.02)

    def forward(
        self,
        latents: Tensor,
        actions: Tensor | None = None,
        routing: list[Tensor] | None = None,
        last: int | None = None,
        past: list[Seen] | None = None,
    ) -> Tensor:
        """Logits [B, T, P, K] for latents [B, T, P, L] and actions [B, T-1, A], [B, T, A] or None.

        With T-1 actions, action t-1 leads to frame t. With T, action t bears on frame t itself.
        With `last`, only so many last frames get logits. `routing` and `past` are as ``STTransformer`` says.

        Raises:
            ValueError: there is any other number of actions.
        """
        hidden, _ = self.transformer(self.latent_embed(latents), actions, routing, last, past)  # [B, T, P, E]
        logits: Tensor = self.output_mlp(hidden)
        return logits

    def loss(
        self,
        latents: Tensor,
        targets: Tensor,
        mask: Tensor,
        actions: Tensor | None = None,
        hidden: Tensor | None = None,
        peers: Peers = ALONE,
        last: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mean cross-entropy in nats over hidden tokens, a scalar; 0 when none is hidden.

        With experts ``balance`` is added to it, and the share of the choices that fell on each, [blocks, n], stands
        beside it.

        latents [B, T, P, L], targets long [B, T, P] their indices, mask bool [B, T, P] True where hidden,
        actions as in forward. hidden: a scalar that the sum is divided by instead of their number. last: none is hidden
        but in so many last frames, and without experts, which are all to be used evenly, nothing else is computed.
        """
        routing: list[Tensor] = []
        if last is None or self.mixture is not None:
            last = latents.shape[1]
        logits = self(torch.where(mask[..., None], self.mask_token, latents), actions, routing, last)
        targets, mask = targets[:, -last:], mask[:, -last:]
        per_token = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
        counted = mask.flatten().to(per_token.dtype)
        loss = (per_token * counted).sum() / (counted.sum() if hidden is None else hidden).clamp_min(1)
        if self.mixture is None:
            return loss, None
        shares, probabilities = peers.stacked(torch.stack(routing, dim=1)).mean(0)  # [blocks, n] each
        return loss + self.mixture.moe_aux_loss_coeff * balance(shares, probabilities), shares.detach()

    @torch.no_grad()
    def generate(
        self,
        context: Tensor,
        horizon: int,
        steps: int,
        actions: Tensor | None,
        latents_from_indices: Callable[[Tensor], Tensor],
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        schedule_k: float = 5.0,
    ) -> Tensor:
        """Continue context [B, Tc, P, L] by `horizon` frames: latents [B, Tc+horizon, P, L].

        Starts from mask tokens; each of at most `steps` passes reveals the tokens whose best guess is the
        most probable, as `unmask_counts` sets out. Temperature 0 takes that guess, a higher one samples
        with the CPU generator.

        actions: [B, Tc+horizon-1, A], [B, Tc+horizon, A] or None. latents_from_indices: the tokenizer's
        codebook, [...] to [..., L].

        Raises:
            ValueError: horizon, steps or schedule_k is not positive, temperature is negative, or positive
                without a generator.
        """
        if temperature < 0 or (temperature > 0 and generator is None):
            raise ValueError(f"{temperature=}: use 0, or a positive one together with a generator")
        B, _, P, L = context.shape
        tokens = horizon * P
        future = self.mask_token[0].to(context.dtype).expand(B, tokens, L)
        masked = torch.ones(B, tokens, dtype=torch.bool, device=context.device)
        before, leading = (actions[:, :-horizon], actions[:, -horizon:]) if actions is not None else (None, None)
        _, past = self.transformer(self.latent_embed(context), before, last=1)  # no step changes what was
        for count in unmask_counts(tokens, steps, schedule_k):
            logits = self(future.reshape(B, horizon, P, L), leading, past=past).flatten(1, 2).float()  # [B, tokens, K]
            probabilities = (logits / (temperature or 1.0)).softmax(-1)
            confidence, guess = probabilities.max(-1)
            if generator is not None and temperature > 0:
                guess = sample(probabilities, generator)
            surest = confidence.masked_fill(~masked, -1).topk(count).indices  # [B, count]
            reveal = torch.zeros_like(masked).scatter(1, surest, True)
            future = torch.where(reveal[..., None], latents_from_indices(guess), future)
            masked = masked & ~reveal
        return torch.cat([context, future.reshape(B, horizon, P, L)], dim=1)
