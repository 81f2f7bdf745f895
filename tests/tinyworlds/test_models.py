"""What holds for all three models: sizes that are refused, bfloat16, the same clip on every device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.models import (
    CODEBOOK,
    B,
    P,
    T,
    action_model,
    dynamics,
    expert_dynamics,
    seeded,
    some_actions,
    some_frames,
    some_tokens,
    tokenizer,
)
from tiw_fsm.tinyworlds.dynamics import draw_mask
from tiw_fsm.tinyworlds.fsq import FiniteScalarQuantizer

# ---- sizes ----


@pytest.mark.parametrize("build", [tokenizer, action_model, dynamics])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"patch_size": 3}, r"one of \[1, 2, 4, 8\]"),
        ({"patch_size": 16}, r"one of \[1, 2, 4, 8\]"),
        ({"num_heads": 5}, r"one of \[1, 2, 3, 4, 6, 12\]"),
        ({"embed_dim": 13, "num_heads": 1}, "such as 14"),
        ({"embed_dim": 4}, "such as 6"),
    ],
)
def test_sizes_that_do_not_divide_are_rejected_with_ones_that_would(
    build: Callable[..., nn.Module], change: dict[str, int], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        build(**change)


@pytest.mark.parametrize("build", [action_model, dynamics])
@pytest.mark.parametrize(("n_actions", "says"), [(6, "use 8"), (1, "use 2"), (0, "use 2")])
def test_action_counts_that_are_no_power_of_two_are_rejected(
    build: Callable[..., nn.Module], n_actions: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        build(n_actions=n_actions)


# ---- precision and devices ----


def all_losses(device: str) -> list[Tensor]:
    frames, (latents, targets) = some_frames().to(device), (part.to(device) for part in some_tokens())
    mask = draw_mask(B, T, P, seeded()).to(device)
    return [
        tokenizer().to(device)(frames)[0],
        action_model().to(device)(frames)[0],
        dynamics().to(device).loss(latents, targets, mask, some_actions(T - 1).to(device))[0],
        expert_dynamics().to(device).loss(latents, targets, mask, some_actions(T - 1).to(device))[0],
    ]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bf16_autocast_stays_close_to_float32(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    exact = all_losses("cpu")
    with torch.autocast(device, torch.bfloat16):
        rough = all_losses(device)
    for loss, reference in zip(rough, exact, strict=True):
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.allclose(loss.cpu(), reference, rtol=0.1)


@pytest.mark.gpu
def test_a_seed_generates_the_same_clip_on_cuda_as_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, (context, _), actions = dynamics().double(), some_tokens(frames=3), some_actions(4)
    clips = [
        model.to(device)
        .generate(
            context.double().to(device),
            2,
            6,
            actions.double().to(device),
            FiniteScalarQuantizer(**CODEBOOK).to(device).latents_from_indices,
            temperature=1.0,
            generator=seeded(),
        )
        .cpu()
        for device in ("cpu", "cuda")
    ]
    assert torch.allclose(*clips)
