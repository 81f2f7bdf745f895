"""The space-time transformer: what sees what, and how patches and places are told apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models import SIZES, B, P, T, frames_that_differ, lively, seeded, some_frames
from tiw_fsm.tinyworlds.transformer import (
    MAX_FRAMES,
    PatchEmbedding,
    SpatialAttention,
    STTransformer,
    TemporalAttention,
    patchify,
    split_embedding,
    unpatchify,
)


@given(st.integers(3, 200))
def test_embedding_splits_into_three_even_widths(half: int) -> None:
    widths = split_embedding(2 * half)
    assert sum(widths) == 2 * half
    assert all(width >= 2 and width % 2 == 0 for width in widths)


def test_patches_hold_one_square_each_and_join_into_the_frames_again() -> None:
    frames = some_frames()
    patches = patchify(frames, 4)
    assert torch.equal(patches[1, 2, 1], frames[1, 2, :, :4, 4:].flatten())  # patch 1: top right
    assert torch.equal(unpatchify(patches, (2, 2), 4), frames)


def test_equal_patches_get_distinct_tokens_at_distinct_places() -> None:
    tokens = PatchEmbedding(SIZES)(torch.zeros(1, 1, 3, 8, 8))[0, 0]
    assert len(tokens.unique(dim=0)) == P


def test_spatial_attention_stays_within_a_frame() -> None:
    x, layer = torch.randn(B, T, P, 12, generator=seeded()), lively(SpatialAttention(SIZES))
    changed = x.clone()
    changed[:, 1, 0] += 1
    before, after = layer(x), layer(changed)
    assert frames_that_differ(before, after) == [1]
    assert frames_that_differ(before[:, 1], after[:, 1]) == [0, 1, 2, 3]  # patches of that frame


def test_temporal_attention_stays_within_a_patch_and_looks_back_only() -> None:
    x, layer = torch.randn(B, T, P, 12, generator=seeded()), lively(TemporalAttention(SIZES))
    changed = x.clone()
    changed[:, 1, 2] += 1
    before, after = layer(x)[0], layer(changed)[0]
    assert frames_that_differ(before, after) == [1, 2, 3]
    assert frames_that_differ(before[:, 3], after[:, 3]) == [2]  # patches of the last frame


def test_frames_are_told_apart_by_time() -> None:
    x = torch.zeros(1, T, P, 12)
    out = lively(STTransformer(SIZES))(x)[0]
    assert frames_that_differ(out, out[:, :1].expand_as(out)) == [1, 2, 3]


def test_transformer_rejects_more_frames_than_it_has_time_codes() -> None:
    with pytest.raises(ValueError, match=str(MAX_FRAMES)):
        STTransformer(SIZES)(torch.zeros(1, MAX_FRAMES + 1, 1, 12))
