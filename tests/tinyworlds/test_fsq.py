"""The finite scalar quantizer: indices, latents, the grid and the gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models import codebook, seeded
from tiw_fsm.tinyworlds.fsq import FiniteScalarQuantizer

codebooks = st.builds(FiniteScalarQuantizer, latent_dim=st.integers(1, 4), num_bins=st.integers(2, 6))


@given(codebooks)
@settings(max_examples=15, deadline=None)
def test_every_index_survives_the_trip_to_its_latent_and_back(fsq: FiniteScalarQuantizer) -> None:
    indices = torch.arange(fsq.codebook_size)
    latents = fsq.latents_from_indices(indices)
    assert latents.abs().max() == 1
    assert torch.equal(fsq.indices_from_latents(latents), indices)
    assert len(latents.unique(dim=0)) == fsq.codebook_size == fsq.num_bins ** latents.shape[1]


@given(codebooks, st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_quantising_moves_to_a_grid_point_at_most_half_a_bin_away(fsq: FiniteScalarQuantizer, seed: int) -> None:
    z = torch.randn(2, 3, len(fsq.basis), generator=seeded(seed)) * 3
    snapped = fsq(z)
    assert torch.allclose(snapped, fsq.latents_from_indices(fsq.indices_from_latents(snapped)), atol=1e-6)
    assert (snapped - z.tanh()).abs().max() <= 1 / (fsq.num_bins - 1) + 1e-5


def test_quantiser_passes_the_gradient_of_tanh_straight_through() -> None:
    z = torch.linspace(-2, 2, 10, requires_grad=True)
    FiniteScalarQuantizer(latent_dim=10, num_bins=4)(z).sum().backward()
    assert z.grad is not None
    assert torch.allclose(z.grad, 1 - z.detach().tanh() ** 2, atol=1e-6)


def test_quantiser_takes_any_leading_shape() -> None:
    fsq = FiniteScalarQuantizer(latent_dim=2, num_bins=3)
    for shape in [(), (5,), (2, 3, 4)]:
        indices = torch.randint(9, shape, generator=seeded())
        assert fsq.latents_from_indices(indices).shape == (*shape, 2)
        assert torch.equal(fsq.indices_from_latents(fsq.latents_from_indices(indices)), indices)


def test_codebooks_that_hold_nothing_are_rejected() -> None:
    for latent_dim, num_bins in [(0, 4), (3, 1)]:
        with pytest.raises(ValueError, match="num_bins >= 2"):
            FiniteScalarQuantizer(latent_dim, num_bins)


def test_the_first_latent_dimension_is_the_least_significant_digit() -> None:
    assert codebook(torch.tensor([0, 1, 3])).tolist() == [[-1, -1], [0, -1], [-1, 0]]
