"""The space-time transformer that all three models share (Genie: Bruce et al. 2024, arXiv:2402.15391).

Tokens are [B, T, P, E]. A block attends over the patches of each frame, then causally over the frames of
each patch, then applies a feed-forward layer. Layers are post-norm: norm(x + layer(x)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .division import divisors

CHANNELS = 3
MAX_FRAMES = 1024  # rows of the table of time codes
NORM_EPS = 1e-5


# ---- sizes ----


def split_embedding(embed_dim: int) -> tuple[int, int, int]:
    """Widths (x, y, time) of the three slices of an embedding that carry position; all even.

    Raises:
        ValueError: embed_dim is odd, or below 6.
    """
    if embed_dim < 6 or embed_dim % 2:
        near = max(6, embed_dim + embed_dim % 2)
        raise ValueError(
            f"{embed_dim=} has no even thirds for x, y and time: use an even number from 6 on, such as {near}"
        )
    time = embed_dim // 3 // 2 * 2
    x = (embed_dim - time) // 4 * 2
    return x, embed_dim - time - x, time


def patch_grid(frame_size: int, patch_size: int) -> tuple[int, int]:
    """Patches along (H, W) of a square frame of side `frame_size` pixels.

    Raises:
        ValueError: patch_size does not divide frame_size.
    """
    if patch_size < 1 or frame_size < patch_size or frame_size % patch_size:
        raise ValueError(f"{patch_size=} does not tile {frame_size=}: use one of {divisors(frame_size)}")
    side = frame_size // patch_size
    return side, side


@dataclass(frozen=True)
class TransformerConfig:
    """What all three models have in common, under TinyWorlds' names."""

    frame_size: int
    """Side of the square frames, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    embed_dim: int
    """Width E of a token."""
    num_heads: int
    hidden_dim: int
    """Of the feed-forward layers, which are two thirds of it wide."""
    num_blocks: int
    """Of each transformer."""
    film_init_std: float = 1e-3
    """Standard deviation of the weights through which actions first act on a layer."""

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (H, W).

        Raises:
            ValueError: patch_size does not divide frame_size.
        """
        return patch_grid(self.frame_size, self.patch_size)

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return CHANNELS * self.patch_size**2


@dataclass(frozen=True)
class Mixture:
    """What a feed-forward layer that is a mixture of experts has beside, under TinyWorlds' names."""

    num_experts: int
    top_k_experts: int
    """Experts that a token goes through."""
    moe_aux_loss_coeff: float = 0.01
    """Weight of the loss that has the experts used evenly."""


# ---- positions ----


def sinusoid(length: int, width: int) -> Tensor:
    """Sine and cosine, interleaved, of positions 0 .. length - 1; [length, width] for even width."""
    period = 10000.0 ** (torch.arange(0, width, 2) / width)
    angle = torch.arange(length)[:, None] / period  # [length, width / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def spatial_code(grid: tuple[int, int], embed_dim: int) -> Tensor:
    """Column and row codes of every patch, row by row, zero in the time slice; [P, E]."""
    x_dim, y_dim, time_dim = split_embedding(embed_dim)
    rows, columns = grid
    x = sinusoid(columns, x_dim).expand(rows, columns, x_dim)
    y = sinusoid(rows, y_dim)[:, None].expand(rows, columns, y_dim)
    return F.pad(torch.cat([x, y], dim=-1).flatten(0, 1), (0, time_dim))


def temporal_code(embed_dim: int) -> Tensor:
    """Time codes, zero outside the time slice; [MAX_FRAMES, E]."""
    x_dim, y_dim, time_dim = split_embedding(embed_dim)
    return F.pad(sinusoid(MAX_FRAMES, time_dim), (x_dim + y_dim, 0))


# ---- pixels and latents to tokens, tokens to pixels ----


class Pointwise(nn.Conv2d):
    """A 1x1 convolution evaluated as a linear map over the last axis: [..., in] -> [..., out].

    Kept a Conv2d so that its weight has TinyWorlds' shape [out, in, 1, 1].
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


def patchify(frames: Tensor, patch_size: int) -> Tensor:
    """Frames [B, T, C, H, W] to flat patches [B, T, P, C * patch_size**2], row by row."""
    B, T, C, H, W = frames.shape
    x = frames.reshape(B, T, C, H // patch_size, patch_size, W // patch_size, patch_size)
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The inverse of `patchify`: [B, T, P, C * patch_size**2] to frames [B, T, C, H, W]."""
    B, T = patches.shape[:2]
    x = patches.reshape(B, T, *grid, CHANNELS, patch_size, patch_size)
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)


class PatchEmbedding(nn.Module):
    """Frames [B, T, C, H, W] to tokens [B, T, P, E] that know their place in the frame.

    Raises:
        ValueError: patch_size does not divide frame_size or embed_dim does not split.
    """

    pos_spatial: Tensor  # [P, E]

    def __init__(self, sizes: TransformerConfig) -> None:
        super().__init__()
        self.patch_size = sizes.patch_size
        self.register_buffer("pos_spatial", spatial_code(sizes.grid, sizes.embed_dim), persistent=False)
        self.proj = Pointwise(sizes.patch_values, sizes.embed_dim)

    def forward(self, frames: Tensor) -> Tensor:
        tokens: Tensor = self.proj(patchify(frames, self.patch_size)) + self.pos_spatial
        return tokens


class LatentEmbedding(nn.Linear):
    """Latents [B, T, P, L] to tokens [B, T, P, E] that know their place in the frame.

    Raises:
        ValueError: patch_size does not divide frame_size or embed_dim does not split.
    """

    pos_spatial: Tensor  # [P, E]

    def __init__(self, sizes: TransformerConfig, latent_dim: int) -> None:
        code = spatial_code(sizes.grid, sizes.embed_dim)
        super().__init__(latent_dim, sizes.embed_dim)
        self.register_buffer("pos_spatial", code, persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents) + self.pos_spatial


# ---- layers ----


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, NORM_EPS)


class AdaptiveNormalizer(nn.Module):
    """RMSNorm or, given a conditioning_dim, layer norm with FiLM (Perez et al. 2017, arXiv:1709.07871).

    FiLM scales and shifts every patch of frame t by a linear function of that frame's conditioning.
    """

    def __init__(self, sizes: TransformerConfig, conditioning_dim: int | None = None) -> None:
        super().__init__()
        self.rms: RMSNorm | None = None
        self.to_gamma_beta: nn.Sequential | None = None
        if conditioning_dim is None:
            self.rms = RMSNorm(sizes.embed_dim)
        else:
            film = nn.Linear(conditioning_dim, 2 * sizes.embed_dim)
            nn.init.normal_(film.weight, std=sizes.film_init_std)
            nn.init.zeros_(film.bias)
            self.to_gamma_beta = nn.Sequential(nn.SiLU(), film)

    def forward(self, x: Tensor, conditioning: Tensor | None = None) -> Tensor:
        """Normalise x [B, T, P, E] given conditioning [B, T, A], [B, T-1, A] or None.

        The last entry acts on the last frame, and so on back. With T-1 of them the first frame is not modulated.
        Without any, a conditioned layer is a plain layer norm; an unconditioned layer ignores it.
        """
        if self.to_gamma_beta is None:
            assert self.rms is not None
            normed: Tensor = self.rms(x)
            return normed
        normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        if conditioning is None:
            return normed
        frames = x.shape[1]
        film = self.to_gamma_beta(conditioning[:, -frames:]).to(x.dtype)  # bf16 would round 1 + gamma to 1
        film = F.pad(film, (0, 0, frames - film.shape[1], 0))[:, :, None]  # [B, T, 1, 2E]
        gamma, beta = film.chunk(2, dim=-1)
        return normed * (1 + gamma) + beta


class AxisAttention(nn.Module):
    """What multi-head self-attention along an axis of [B, T, P, E] has; the base of the two kinds below.

    Raises:
        ValueError: num_heads does not divide embed_dim.
    """

    def __init__(self, sizes: TransformerConfig, conditioning_dim: int | None = None) -> None:
        super().__init__()
        embed_dim, self.num_heads = sizes.embed_dim, sizes.num_heads
        if self.num_heads < 1 or embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide {embed_dim=}: use one of {divisors(embed_dim)}"
            )
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.norm = AdaptiveNormalizer(sizes, conditioning_dim)


class SpatialAttention(AxisAttention):
    """Each patch attends to all patches of its own frame."""

    def forward(self, x: Tensor, conditioning: Tensor | None = None) -> Tensor:
        mixed = kernels.over_patches(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.num_heads)
        out: Tensor = self.norm(x + self.out_proj(mixed), conditioning)
        return out


class Seen(NamedTuple):
    """What later frames see of earlier ones in a block: keys and values of temporal attention, [B, T, P, E] each."""

    keys: Tensor
    values: Tensor


class TemporalAttention(AxisAttention):
    """Each patch attends to the same patch in its own and earlier frames."""

    def forward(
        self, x: Tensor, conditioning: Tensor | None = None, last: int | None = None, past: Seen | None = None
    ) -> tuple[Tensor, Seen]:
        """As ``STTransformerBlock`` says."""
        k, v = self.k_proj(x), self.v_proj(x)
        if past is not None:
            k, v = torch.cat([past.keys, k], 1), torch.cat([past.values, v], 1)
        x = x if last is None else x[:, -last:]
        mixed = kernels.over_frames(self.q_proj(x), k, v, self.num_heads)
        out: Tensor = self.norm(x + self.out_proj(mixed), conditioning)
        return out, Seen(k, v)


class SwiGLU(nn.Module):
    """Gated linear unit (Shazeer 2020, arXiv:2002.05202), two thirds of hidden_dim wide: [..., E] to [..., E]."""

    def __init__(self, sizes: TransformerConfig) -> None:
        super().__init__()
        width = 2 * sizes.hidden_dim // 3
        self.w_v = nn.Linear(sizes.embed_dim, width)
        self.w_g = nn.Linear(sizes.embed_dim, width)
        self.w_o = nn.Linear(width, sizes.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_o(F.silu(self.w_v(x)) * self.w_g(x))
        return out


class SwiGLUFFN(SwiGLU):
    """Feed-forward layer of one gated linear unit."""

    def __init__(self, sizes: TransformerConfig, conditioning_dim: int | None = None) -> None:
        super().__init__(sizes)
        self.norm = AdaptiveNormalizer(sizes, conditioning_dim)

    def forward(self, x: Tensor, conditioning: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """x [B, T, P, E] to the same shape; nothing is routed."""
        out: Tensor = self.norm(x + super().forward(x), conditioning)
        return out


class MixtureFFN(nn.Module):
    """Feed-forward layer of experts, of which a router chooses top_k for each token (Shazeer et al. 2017,
    arXiv:1701.06538).

    An expert computes the tokens that chose it and no others. One that none chose gets gradients of 0.

    Raises:
        ValueError: there are fewer experts than a token goes through.
    """

    never_compiled = ("_outputs",)

    def __init__(self, sizes: TransformerConfig, mixture: Mixture, conditioning_dim: int | None = None) -> None:
        super().__init__()
        count, self.top_k = mixture.num_experts, mixture.top_k_experts
        if not 1 <= self.top_k <= count:
            raise ValueError(f"a token cannot go through {self.top_k} of {count} experts: choose from 1 to {count}")
        self.router = nn.Linear(sizes.embed_dim, count, bias=False)
        self.experts = nn.ModuleList(SwiGLU(sizes) for _ in range(count))
        self.norm = AdaptiveNormalizer(sizes, conditioning_dim)

    def forward(self, x: Tensor, conditioning: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """x [B, T, P, E] to the same shape, conditioned as by ``AdaptiveNormalizer``.

        routing: gets, [2, n], the share of the choices that fell on each expert, and the router's mean probability
        of it.
        """
        tokens = x.flatten(0, 2)  # [N, E]
        logits = self.router(tokens)  # [N, n]
        best, chosen = logits.topk(self.top_k)  # [N, k]
        outputs = self._outputs(tokens, chosen) * best.softmax(-1)[..., None]
        if routing is not None:
            shares = F.one_hot(chosen, len(self.experts)).float().mean((0, 1))
            routing.append(torch.stack([shares, logits.softmax(-1).mean(0)]))
        out: Tensor = self.norm(x + outputs.sum(1).view_as(x), conditioning)
        return out

    def _outputs(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """What the chosen experts [N, k] make of tokens [N, E]: [N, k, E].

        Never compiled: how many tokens an expert gets changes with every batch, and a program made for some counts and
        not for others would round as its process happened to meet them.
        """
        order = chosen.flatten().argsort(stable=True)
        counts = F.one_hot(chosen, len(self.experts)).sum((0, 1)).tolist()
        sorted_tokens = tokens.index_select(0, order // self.top_k)
        outputs = torch.cat([
            expert(part) for expert, part in zip(self.experts, torch.split(sorted_tokens, counts), strict=True)
        ])  # fmt: skip
        return outputs.index_select(0, order.argsort()).view(*chosen.shape, -1)


class STTransformerBlock(nn.Module):
    """Spatial attention, causal temporal attention, feed-forward: [B, T, P, E] to the same shape.

    With `last` the result is of so many last frames alone, and so is what is computed for it. `past`, of earlier
    frames, is attended to before those given. Beside the result stands what these and later frames see of all.
    """

    def __init__(
        self, sizes: TransformerConfig, conditioning_dim: int | None = None, mixture: Mixture | None = None
    ) -> None:
        super().__init__()
        self.spatial_attn = SpatialAttention(sizes, conditioning_dim)
        self.temporal_attn = TemporalAttention(sizes, conditioning_dim)
        self.ffn = (
            MixtureFFN(sizes, mixture, conditioning_dim) if mixture is not None else SwiGLUFFN(sizes, conditioning_dim)
        )

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor | None = None,
        routing: list[Tensor] | None = None,
        last: int | None = None,
        past: Seen | None = None,
    ) -> tuple[Tensor, Seen]:
        x = self.spatial_attn(x, conditioning)
        x, seen = self.temporal_attn(x, conditioning, last, past)
        return self.ffn(x, conditioning, routing), seen


class STTransformer(nn.Module):
    """Adds time codes to tokens that already carry their place, then applies `num_blocks` blocks.

    mixture: of the experts in the blocks' feed-forward layers; None has plain ones.

    Raises:
        ValueError: embed_dim does not split over heads or over x, y and time.
    """

    pos_temporal: Tensor  # [MAX_FRAMES, E]

    def __init__(
        self, sizes: TransformerConfig, conditioning_dim: int | None = None, mixture: Mixture | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("pos_temporal", temporal_code(sizes.embed_dim), persistent=False)
        blocks = (STTransformerBlock(sizes, conditioning_dim, mixture) for _ in range(sizes.num_blocks))
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor | None = None,
        routing: list[Tensor] | None = None,
        last: int | None = None,
        past: list[Seen] | None = None,
    ) -> tuple[Tensor, list[Seen]]:
        """Tokens [B, T, P, E] and conditioning [B, T, A], [B, T-1, A] or None to [B, T, P, E].

        Args:
            routing: gets the routing [2, n] of each block, as ``MixtureFFN`` tells it, if there are experts.
            last: if given, only so many last frames are wanted, and what they do not depend on is not computed.
            past: what this method returned with the frames before these, which are seen as if given with them.

        Returns:
            The tokens, and what each block keeps for the frames that follow.

        Raises:
            ValueError: there are more than MAX_FRAMES, or the conditioning has another length.
        """
        T = x.shape[1]
        begin = past[0].keys.shape[1] if past else 0
        if begin + T > MAX_FRAMES:
            raise ValueError(f"{begin + T} frames: at most {MAX_FRAMES} have a time code")
        if conditioning is not None and conditioning.shape[1] not in (T, T - 1):
            raise ValueError(f"{conditioning.shape[1]} actions for {T} frames: give {T - 1} or {T}")
        x = x + self.pos_temporal[begin : begin + T, None]
        seen: list[Seen] = []
        for number, block in enumerate(self.blocks, 1):
            wanted = last if number == len(self.blocks) else None
            x, kept = block(x, conditioning, routing, wanted, past[len(seen)] if past else None)
            seen.append(kept)
        return x, seen
