"""Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505): a codebook without parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FiniteScalarQuantizer(nn.Module):
    """Snaps each of the L latent dimensions to one of `num_bins` evenly spaced values in [-1, 1].

    The grid has K = num_bins ** latent_dim points. The index of a point reads its bin numbers as the digits
    of a number in base `num_bins`, first dimension least significant.

    Raises:
        ValueError: latent_dim < 1 or num_bins < 2.
    """

    basis: Tensor  # [L] long, the place value of each digit

    def __init__(self, latent_dim: int, num_bins: int) -> None:
        super().__init__()
        if latent_dim < 1 or num_bins < 2:
            raise ValueError(f"{latent_dim=} and {num_bins=}: need latent_dim >= 1 and num_bins >= 2")
        self.num_bins = num_bins
        self.codebook_size = num_bins**latent_dim
        self.register_buffer("basis", num_bins ** torch.arange(latent_dim))

    def forward(self, z: Tensor) -> Tensor:
        """Quantise raw latents [..., L] of any range; float32 [..., L] on the grid.

        Rounding passes its gradient straight through, so the derivative is that of tanh.
        """
        bounded = self._to_bins(torch.tanh(z.float()))  # bf16 cannot hold the rounding residue
        return self._from_bins(bounded + (bounded.round() - bounded).detach())

    def indices_from_latents(self, latents: Tensor) -> Tensor:
        """Codebook indices, long [...], of the grid points nearest to latents [..., L]."""
        digits = self._to_bins(latents.float()).round().clamp(0, self.num_bins - 1).long()
        return (digits * self.basis).sum(-1)

    def latents_from_indices(self, indices: Tensor) -> Tensor:
        """Grid points, float32 [..., L] in [-1, 1], of codebook indices [...]."""
        digits = indices.unsqueeze(-1) // self.basis % self.num_bins
        return self._from_bins(digits.float())

    def _to_bins(self, latents: Tensor) -> Tensor:  # [-1, 1] -> [0, num_bins - 1]
        return (latents + 1) * 0.5 * (self.num_bins - 1)

    def _from_bins(self, bins: Tensor) -> Tensor:  # [0, num_bins - 1] -> [-1, 1]
        return 2 * bins / (self.num_bins - 1) - 1
