"""The video tokenizer: frames to patch tokens and back (Genie: Bruce et al. 2024, arXiv:2402.15391)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .fsq import FiniteScalarQuantizer
from .transformer import LatentEmbedding, PatchEmbedding, Pointwise, STTransformer, TransformerConfig, unpatchify


class FrameHead(nn.Module):
    """Tokens [B, T, P, E] to the pixels of their patches, [B, T, C, H, W]."""

    def __init__(self, sizes: TransformerConfig) -> None:
        super().__init__()
        self.grid = sizes.grid
        self.patch_size = sizes.patch_size
        self.to_pixels = Pointwise(sizes.embed_dim, sizes.patch_values)

    def forward(self, tokens: Tensor) -> Tensor:
        return unpatchify(self.to_pixels(tokens), self.grid, self.patch_size)


class VideoTokenizerEncoder(nn.Module):
    """Frames [B, T, C, H, W] to raw latents [B, T, P, L]."""

    def __init__(self, sizes: TransformerConfig, latent_dim: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(sizes)
        self.transformer = STTransformer(sizes)
        self.latent_head = nn.Sequential(nn.LayerNorm(sizes.embed_dim), nn.Linear(sizes.embed_dim, latent_dim))

    def forward(self, frames: Tensor) -> Tensor:
        latents: Tensor = self.latent_head(self.transformer(self.patch_embed(frames))[0])
        return latents


class VideoTokenizerDecoder(nn.Module):
    """Quantised latents [B, T, P, L] to frames [B, T, C, H, W], or to so many `last` of them alone."""

    def __init__(self, sizes: TransformerConfig, latent_dim: int) -> None:
        super().__init__()
        self.latent_embed = LatentEmbedding(sizes, latent_dim)
        self.transformer = STTransformer(sizes)
        self.frame_head = FrameHead(sizes)

    def forward(self, latents: Tensor, last: int | None = None) -> Tensor:
        frames: Tensor = self.frame_head(self.transformer(self.latent_embed(latents), last=last)[0])
        return frames


class VideoTokenizer(nn.Module):
    """Autoencoder with a finite scalar bottleneck (Mentzer et al. 2023, arXiv:2309.15505).

    Frames are float [B, T, C, H, W] in [-1, 1]. Both halves are causal: frame t depends on frames up to t.

    sizes: of both halves. latent_dim, num_bins: the codebook, of K = num_bins ** latent_dim entries.

    Raises:
        ValueError: the sizes do not divide; the message says what would work.
    """

    def __init__(self, sizes: TransformerConfig, *, latent_dim: int, num_bins: int) -> None:
        super().__init__()
        self.encoder = VideoTokenizerEncoder(sizes, latent_dim)
        self.decoder = VideoTokenizerDecoder(sizes, latent_dim)
        self.quantizer = FiniteScalarQuantizer(latent_dim, num_bins)
        self.codebook_size = self.quantizer.codebook_size

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The smooth-L1 reconstruction loss, a scalar, and the reconstruction, shaped like frames."""
        reconstruction = self.detokenize(self.encode(frames))
        return F.smooth_l1_loss(reconstruction, frames), reconstruction

    def encode(self, frames: Tensor) -> Tensor:
        """Quantised latents [B, T, P, L] of frames."""
        latents: Tensor = self.quantizer(self.encoder(frames))
        return latents

    def tokenize(self, frames: Tensor) -> Tensor:
        """Codebook indices, long [B, T, P], of frames."""
        return self.quantizer.indices_from_latents(self.encode(frames))

    def detokenize(self, latents: Tensor, last: int | None = None) -> Tensor:
        """Frames [B, T, C, H, W] from quantised latents [B, T, P, L]; only so many ``last`` ones if that is given."""
        frames: Tensor = self.decoder(latents, last)
        return frames
