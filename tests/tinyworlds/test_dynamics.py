"""The dynamics: masks, loss, and generation frame by frame."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.models import (
    CODEBOOK,
    SIZES,
    A,
    B,
    K,
    P,
    T,
    codebook,
    dynamics,
    frames_that_differ,
    seeded,
    some_actions,
    some_tokens,
)
from tiw_fsm.tinyworlds.dynamics import (
    MASKS,
    DynamicsModel,
    draw_disturbance,
    draw_mask,
    draw_next_frame_mask,
    sample,
    unmask_counts,
)
from tiw_fsm.tinyworlds.fsq import FiniteScalarQuantizer


def test_dynamics_never_lets_a_later_frame_change_an_earlier_one() -> None:
    model, (latents, _), actions = dynamics(), some_tokens(), some_actions(T - 1)
    changed = latents.clone()
    changed[:, 2] *= -0.5
    before = model(latents, actions)
    assert before.shape == (B, T, P, K)
    assert frames_that_differ(before, model(changed, actions)) == [2, 3]


@pytest.mark.parametrize(("count", "affected"), [(T - 1, [2, 3]), (T, [1, 2, 3])])
def test_an_action_changes_only_the_frames_from_its_own_on(count: int, affected: list[int]) -> None:
    """With T-1 actions, action 1 leads to frame 2; with T, action 1 belongs to frame 1."""
    model, (latents, _), actions = dynamics(), some_tokens(), some_actions(count)
    changed = actions.clone()
    changed[:, 1] += 1
    assert frames_that_differ(model(latents, actions), model(latents, changed)) == affected


def test_before_training_a_zero_action_is_no_action() -> None:
    model, (latents, _) = DynamicsModel(SIZES, **CODEBOOK, n_actions=4), some_tokens()
    assert torch.allclose(model(latents, torch.zeros(B, T - 1, A)), model(latents), atol=1e-6)
    assert not torch.allclose(model(latents, torch.ones(B, T - 1, A)), model(latents), atol=1e-6)


def test_dynamics_rejects_a_wrong_number_of_actions() -> None:
    with pytest.raises(ValueError, match="give 3 or 4"):
        dynamics()(some_tokens()[0], some_actions(2))


def test_loss_is_the_mean_cross_entropy_of_hidden_tokens() -> None:
    model, (latents, targets), actions = dynamics(), some_tokens(), some_actions(T - 1)
    mask = draw_mask(B, T, P, seeded())
    shown = torch.where(mask[..., None], model.mask_token, latents)
    expected = F.cross_entropy(model(shown, actions)[mask], targets[mask])
    assert torch.allclose(model.loss(latents, targets, mask, actions)[0], expected, atol=1e-5)


def test_loss_ignores_targets_of_visible_tokens_and_latents_of_hidden_ones() -> None:
    model, (latents, targets), actions = dynamics(), some_tokens(), some_actions(T - 1)
    mask = draw_mask(B, T, P, seeded())
    loss = model.loss(latents, targets, mask, actions)[0]
    other_targets = (targets + 1) % K
    assert torch.equal(model.loss(latents, torch.where(mask, targets, other_targets), mask, actions)[0], loss)
    assert torch.equal(model.loss(latents.masked_fill(mask[..., None], 9), targets, mask, actions)[0], loss)
    assert not torch.equal(model.loss(latents, other_targets, mask, actions)[0], loss)


def test_loss_is_zero_when_nothing_is_hidden() -> None:
    latents, targets = some_tokens()
    assert dynamics().loss(latents, targets, torch.zeros(B, T, P, dtype=torch.bool))[0] == 0


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_mask_leaves_every_patch_visible_in_some_frame(batch: int, frames: int, patches: int, seed: int) -> None:
    mask = draw_mask(batch, frames, patches, seeded(seed))
    assert mask.shape == (batch, frames, patches)
    assert mask.dtype == torch.bool
    assert not mask.all(dim=1).any()
    assert torch.equal(mask, draw_mask(batch, frames, patches, seeded(seed)))


def test_mask_hides_from_half_to_all_of_the_tokens_at_a_ratio_that_varies() -> None:
    """Of 40 frames one is kept visible on top, hence the factor 39/40."""
    rates = [draw_mask(8, 40, 16, seeded(seed)).float().mean().item() * 40 / 39 for seed in range(30)]
    assert all(0.47 < rate < 1 for rate in rates)
    assert max(rates) - min(rates) > 0.3


def generated(model: DynamicsModel, context: Tensor, steps: int = 6, **options: object) -> Tensor:
    actions = some_actions(context.shape[1] + 1, len(context))
    return model.generate(context, 2, steps, actions, codebook, **options)


def test_generation_keeps_the_context_and_fills_the_rest_from_the_codebook() -> None:
    context, _ = some_tokens(frames=3)
    clip = generated(dynamics(), context)
    assert clip.shape == (B, 5, P, 2)
    assert torch.equal(clip[:, :3], context)
    fsq = FiniteScalarQuantizer(**CODEBOOK)
    assert torch.equal(clip[:, 3:], codebook(fsq.indices_from_latents(clip[:, 3:])))


def test_one_step_at_temperature_zero_takes_the_argmax_everywhere() -> None:
    model, (context, _) = dynamics(), some_tokens(frames=3)
    blank = torch.cat([context, model.mask_token.expand(B, 2, P, -1)], dim=1)
    expected = codebook(model(blank, some_actions(4))[:, 3:].argmax(-1))
    assert torch.equal(generated(model, context, steps=1)[:, 3:], expected)


def test_each_step_reveals_the_surest_tokens_and_shows_them_to_the_next() -> None:
    """Against a plain decoder that works on one clip and one token at a time."""
    model, (context, _) = dynamics(), some_tokens(batch=3, frames=3)
    actions = some_actions(4, batch=3)
    expected = []
    for clip, action in zip(context, actions, strict=True):
        video = torch.cat([clip, model.mask_token[0].detach().expand(2, P, -1)])
        hidden = [(t, p) for t in (3, 4) for p in range(P)]
        for count in unmask_counts(2 * P, 6, 5.0):
            odds = model(video[None], action[None])[0].softmax(-1).detach()
            order = sorted(hidden, key=lambda spot, odds=odds: -odds[spot].max().item())
            for spot in order[:count]:
                video[spot] = codebook(odds[spot].argmax())
            hidden = order[count:]
        expected.append(video)
    assert torch.allclose(generated(model, context), torch.stack(expected))


def test_sampled_generation_follows_its_generator() -> None:
    model, (context, _) = dynamics(), some_tokens(batch=4, frames=3)
    once, again, other, cold = (
        generated(model, context, temperature=temperature, generator=seeded(seed))
        for temperature, seed in [(1.0, 0), (1.0, 0), (1.0, 1), (0.0, 1)]
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(cold, generated(model, context))


def test_generation_leaves_global_randomness_alone() -> None:
    model, (context, _) = dynamics(), some_tokens()
    before = torch.get_rng_state()
    generated(model, context, temperature=1.0, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_meets_the_distribution_and_never_draws_the_impossible() -> None:
    odds = torch.tensor([0.0, 0.2, 0.0, 0.7, 0.1, 0.0])
    drawn = sample(odds.expand(20_000, 6), seeded())
    assert torch.allclose(drawn.bincount(minlength=6) / 20_000, odds, atol=0.02)
    assert not ((drawn == 0) | (drawn == 2) | (drawn == 5)).any()


@given(st.integers(1, 400), st.integers(1, 30), st.floats(0.5, 9))
@settings(deadline=None)
def test_decoding_reveals_every_token_within_the_steps(total: int, steps: int, schedule_k: float) -> None:
    counts = unmask_counts(total, steps, schedule_k)
    assert sum(counts) == total
    assert len(counts) <= steps
    assert all(count >= max(1, total // 16) for count in counts[:-1])


def test_schedule_starts_slow_and_ends_fast() -> None:
    assert unmask_counts(64, 4, 5.0) == [4, 4, 4, 52]


def test_no_more_than_sixteen_passes_are_made_however_many_steps_are_allowed() -> None:
    assert len(unmask_counts(64, 100, 5.0)) <= 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"horizon": 0}, "positive"),
        ({"steps": 0}, "positive"),
        ({"schedule_k": 0.0}, "positive"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1.0}, "generator"),
    ],
)
def test_generation_rejects_settings_that_mean_nothing(change: dict[str, float], says: str) -> None:
    options = {"horizon": 2, "steps": 3, "actions": None, "latents_from_indices": codebook, **change}
    with pytest.raises(ValueError, match=says):
        dynamics().generate(some_tokens()[0], **options)


# --- options beyond TinyWorlds ----------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 40), st.integers(0, 5))
def test_a_next_frame_mask_hides_at_least_about_half_of_the_last_frame_and_nothing_else(
    batch: int, frames: int, patches: int, seed: int
) -> None:
    mask = draw_next_frame_mask(batch, frames, patches, seeded(seed))
    assert mask.shape == (batch, frames, patches)
    assert not mask[:, :-1].any()
    assert torch.equal(mask, draw_next_frame_mask(batch, frames, patches, seeded(seed)))


def test_a_next_frame_mask_hides_between_half_and_all_of_it() -> None:
    shares = [float(draw_next_frame_mask(8, 2, 500, seeded(seed))[:, -1].float().mean()) for seed in range(20)]
    assert 0.48 < min(shares) < 0.6
    assert 0.9 < max(shares) <= 1


def test_the_loss_of_a_hidden_last_frame_is_the_same_where_only_that_frame_is_computed() -> None:
    model, (latents, indices) = dynamics(), some_tokens()
    inputs = latents, indices, draw_next_frame_mask(B, T, P, seeded()), some_actions(T - 1)
    found = []
    for last in (None, MASKS["next_frame"].last):
        loss, _ = model.loss(*inputs, last=last)
        gradients = torch.autograd.grad(loss, model.parameters(), allow_unused=True, materialize_grads=True)
        found.append((loss.detach(), *gradients))
    for whole, last_alone in zip(*found, strict=True):
        torch.testing.assert_close(last_alone, whole, rtol=1e-4, atol=1e-6)


def test_each_clip_has_a_share_of_its_own_of_tokens_that_are_another_clips() -> None:
    hit, others = draw_disturbance(4, 3, 100, 0.5, seeded())
    assert sorted(others.tolist()) == [0, 1, 2, 3]
    assert 0.05 < float(hit.float().mean()) < 0.5
    assert float(hit.flatten(1).float().mean(1).std()) > 0.02


def test_nothing_is_disturbed_by_a_share_of_nothing() -> None:
    assert not draw_disturbance(2, 3, 4, 0.0, seeded()).hit.any()
