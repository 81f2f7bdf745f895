"""Our own kernels against torch's: the same numbers and gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.models import seeded
from tiw_fsm.tinyworlds import kernels


def random(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    drawn = seeded(seed)
    return [torch.randn(shape, generator=drawn, requires_grad=True) for shape in shapes]


def assert_alike(one: Callable[..., Tensor], other: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    results = []
    for make in (one, other):
        out = make(*inputs)
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    batch=st.integers(1, 3),
    frames=st.integers(1, kernels.FEW_FRAMES + 2),
    patches=st.integers(1, 5),
    heads=st.integers(1, 4),
    width=st.integers(1, 5),
    data=st.data(),
)
def test_over_frames_is_causal_attention_of_each_patch(
    seed: int, batch: int, frames: int, patches: int, heads: int, width: int, data: st.DataObject
) -> None:
    last = data.draw(st.integers(1, frames))

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, width)).permute(0, 2, 3, 1, 4) for x in (q, k, v))  # [B, P, heads, T, d]
        scores = q @ k.mT / width**0.5
        hidden = torch.ones(last, frames, dtype=torch.bool).triu(frames - last + 1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return (weights @ v).permute(0, 3, 1, 2, 4).flatten(3)

    own = batch, last, patches, heads * width
    all_frames = batch, frames, patches, heads * width
    inputs = random(seed, own, all_frames, all_frames)
    assert_alike(lambda q, k, v: kernels.over_frames(q, k, v, heads), attention, inputs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 40), width=st.integers(1, 70), scale=st.floats(1e-3, 1e3))
def test_rms_norm_is_torchs(seed: int, rows: int, width: int, scale: float) -> None:
    x, weight = random(seed, (2, 3, rows, width), (width,))
    with torch.no_grad():  # beside 0 a gradient is the difference of two numbers that are large and nearly equal
        x /= x.square().mean(-1, keepdim=True).sqrt()
    assert_alike(
        lambda x, w: kernels.rms_norm(x * scale, w, 1e-5),
        lambda x, w: F.rms_norm(x * scale, (width,), w, 1e-5),
        [x, weight],
    )


def test_rms_norm_of_nothing_is_nothing() -> None:
    assert torch.equal(kernels.rms_norm(torch.zeros(1, 2, 3, 4), torch.ones(4), 1e-5), torch.zeros(1, 2, 3, 4))
