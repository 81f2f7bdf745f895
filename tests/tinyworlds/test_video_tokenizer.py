"""The video tokenizer: causal, decodable from its indices alone, able to learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.support.models import CODEBOOK, SIZES, B, K, P, T, frames_that_differ, some_frames, some_tokens, tokenizer
from tiw_fsm.tinyworlds.video_tokenizer import VideoTokenizer


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_tokenizer_never_lets_a_later_frame_change_an_earlier_one(half: str) -> None:
    model = tokenizer()
    module, x = (model.encoder, some_frames()) if half == "encoder" else (model.decoder, some_tokens()[0])
    changed = x.clone()
    changed[:, 2] *= -0.5
    assert frames_that_differ(module(x), module(changed)) == [2, 3]


def test_tokenizer_reconstructs_from_its_indices_alone() -> None:
    model, frames = tokenizer(), some_frames()
    loss, reconstruction = model(frames)
    indices = model.tokenize(frames)
    assert indices.shape == (B, T, P)
    assert indices.dtype == torch.long
    assert 0 <= indices.min() <= indices.max() < model.codebook_size == K
    decoded = model.detokenize(model.quantizer.latents_from_indices(indices))
    assert torch.allclose(decoded, reconstruction, atol=1e-5)
    assert torch.allclose(loss, F.smooth_l1_loss(reconstruction, frames))


def test_tokenizer_learns_to_reconstruct_one_clip() -> None:
    torch.manual_seed(0)
    model, frames = VideoTokenizer(SIZES, **CODEBOOK), some_frames(1, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = model(frames)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
