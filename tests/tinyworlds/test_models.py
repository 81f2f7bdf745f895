"""Behaviour of the three TinyWorlds models, on models small enough for a laptop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tiw_fsm.tinyworlds.dynamics import DynamicsModel, draw_mask, sample, unmask_counts
from tiw_fsm.tinyworlds.fsq import FiniteScalarQuantizer
from tiw_fsm.tinyworlds.latent_actions import LatentActionModel
from tiw_fsm.tinyworlds.transformer import (
    MAX_FRAMES,
    PatchEmbedding,
    SpatialAttention,
    STTransformer,
    TemporalAttention,
    TransformerConfig,
    patchify,
    split_embedding,
    unpatchify,
)
from tiw_fsm.tinyworlds.video_tokenizer import VideoTokenizer

SIZES = TransformerConfig(frame_size=8, patch_size=4, embed_dim=12, num_heads=2, hidden_dim=9, num_blocks=1)
CODEBOOK = {"latent_dim": 2, "num_bins": 3}
B, T, P, K, A = 2, 4, 4, 9, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


M = TypeVar("M", bound=nn.Module)


def lively(model: M) -> M:  # initial FiLM weights are near zero: make every input count
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return model


def tokenizer(**changes: int) -> VideoTokenizer:
    torch.manual_seed(0)
    return lively(VideoTokenizer(replace(SIZES, **changes), **CODEBOOK))


def action_model(n_actions: int = 4, **changes: int) -> LatentActionModel:
    torch.manual_seed(0)
    return lively(LatentActionModel(replace(SIZES, **changes), n_actions=n_actions))


def dynamics(n_actions: int = 4, **changes: int) -> DynamicsModel:
    torch.manual_seed(0)
    return lively(DynamicsModel(replace(SIZES, **changes), **CODEBOOK, n_actions=n_actions))


def some_frames(batch: int = B, frames: int = T) -> Tensor:
    return torch.rand(batch, frames, 3, 8, 8, generator=seeded()) * 2 - 1


def some_tokens(batch: int = B, frames: int = T) -> tuple[Tensor, Tensor]:
    """Latents [B, T, P, L] and their indices [B, T, P]."""
    indices = torch.randint(K, (batch, frames, P), generator=seeded())
    return codebook(indices), indices


def some_actions(count: int, batch: int = B) -> Tensor:
    return torch.randn(batch, count, A, generator=seeded(5))


def codebook(indices: Tensor) -> Tensor:
    return FiniteScalarQuantizer(**CODEBOOK).latents_from_indices(indices)


def frames_that_differ(a: Tensor, b: Tensor) -> list[int]:
    """Indices along axis 1 at which a and b are not the same."""
    return [t for t in range(a.shape[1]) if not torch.allclose(a[:, t], b[:, t], atol=1e-6)]


# ---- finite scalar quantiser ----

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


# ---- transformer ----


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
    x, layer = torch.randn(B, T, P, 12, generator=seeded()), lively(SpatialAttention(12, 2))
    changed = x.clone()
    changed[:, 1, 0] += 1
    before, after = layer(x), layer(changed)
    assert frames_that_differ(before, after) == [1]
    assert frames_that_differ(before[:, 1], after[:, 1]) == [0, 1, 2, 3]  # patches of that frame


def test_temporal_attention_stays_within_a_patch_and_looks_back_only() -> None:
    x, layer = torch.randn(B, T, P, 12, generator=seeded()), lively(TemporalAttention(12, 2))
    changed = x.clone()
    changed[:, 1, 2] += 1
    before, after = layer(x), layer(changed)
    assert frames_that_differ(before, after) == [1, 2, 3]
    assert frames_that_differ(before[:, 3], after[:, 3]) == [2]  # patches of the last frame


def test_frames_are_told_apart_by_time() -> None:
    x = torch.zeros(1, T, P, 12)
    out = lively(STTransformer(SIZES))(x)
    assert frames_that_differ(out, out[:, :1].expand_as(out)) == [1, 2, 3]


def test_transformer_rejects_more_frames_than_it_has_time_codes() -> None:
    with pytest.raises(ValueError, match=str(MAX_FRAMES)):
        STTransformer(SIZES)(torch.zeros(1, MAX_FRAMES + 1, 1, 12))


# ---- video tokenizer ----


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


# ---- latent action model ----


def test_action_model_returns_one_action_and_one_prediction_per_pair_of_frames() -> None:
    model, frames = action_model(), some_frames()
    _, predicted, indices = model(frames)
    assert predicted.shape == (B, T - 1, 3, 8, 8)
    actions = model.encode(frames)
    assert actions.shape == (B, T - 1, A)
    assert torch.allclose(actions.abs(), torch.ones_like(actions))
    assert torch.equal(indices, model.quantizer.indices_from_latents(actions))


def test_an_action_is_inferred_from_no_frame_beyond_its_pair() -> None:
    encoder, frames = action_model().encoder, some_frames()
    changed = frames.clone()
    changed[:, 2] *= -0.5
    assert frames_that_differ(encoder(frames), encoder(changed)) == [1, 2]


@pytest.mark.parametrize(("training", "affected"), [(True, []), (False, [1, 2])])
def test_decoder_sees_frames_after_the_first_only_outside_training(training: bool, affected: list[int]) -> None:
    decoder, frames, actions = action_model().decoder.train(training), some_frames(), some_actions(T - 1)
    changed = frames.clone()
    changed[:, 1] *= -0.5
    assert frames_that_differ(decoder(frames, actions), decoder(changed, actions)) == affected
    changed[:, 0] *= -0.5
    assert frames_that_differ(decoder(frames, actions), decoder(changed, actions)) == [0, 1, 2]


def test_actions_shape_the_prediction_of_the_frame_they_lead_to_and_later_ones() -> None:
    decoder, frames, actions = action_model().decoder, some_frames(), some_actions(T - 1)
    changed = actions.clone()
    changed[:, 1] += 1
    assert frames_that_differ(decoder(frames, actions), decoder(frames, changed)) == [1, 2]


def test_clips_that_all_get_the_same_action_pay_the_full_variance_penalty() -> None:
    model, frames = action_model(), some_frames(1).expand(3, -1, -1, -1, -1)
    loss, predicted, _ = model(frames)
    assert torch.allclose(loss - F.smooth_l1_loss(predicted, frames[:, 1:]), torch.tensor(1.0), atol=1e-5)


def test_actions_that_vary_enough_pay_no_penalty() -> None:
    model, frames = action_model(), some_frames(6)
    with torch.no_grad():
        model.encoder.action_head[-1].weight.mul_(20)
    loss, predicted, _ = model(frames)
    assert torch.allclose(loss, F.smooth_l1_loss(predicted, frames[:, 1:]))


def test_a_single_frame_holds_no_action() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        action_model()(some_frames(frames=1))


# ---- dynamics: forward and loss ----


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
    assert torch.allclose(model.loss(latents, targets, mask, actions), expected, atol=1e-5)


def test_loss_ignores_targets_of_visible_tokens_and_latents_of_hidden_ones() -> None:
    model, (latents, targets), actions = dynamics(), some_tokens(), some_actions(T - 1)
    mask = draw_mask(B, T, P, seeded())
    loss = model.loss(latents, targets, mask, actions)
    other_targets = (targets + 1) % K
    assert torch.equal(model.loss(latents, torch.where(mask, targets, other_targets), mask, actions), loss)
    assert torch.equal(model.loss(latents.masked_fill(mask[..., None], 9), targets, mask, actions), loss)
    assert not torch.equal(model.loss(latents, other_targets, mask, actions), loss)


def test_loss_is_zero_when_nothing_is_hidden() -> None:
    latents, targets = some_tokens()
    assert dynamics().loss(latents, targets, torch.zeros(B, T, P, dtype=torch.bool)) == 0


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


# ---- dynamics: generation ----


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


def test_codebooks_that_hold_nothing_are_rejected() -> None:
    for latent_dim, num_bins in [(0, 4), (3, 1)]:
        with pytest.raises(ValueError, match="num_bins >= 2"):
            FiniteScalarQuantizer(latent_dim, num_bins)


# ---- interchange with TinyWorlds' checkpoints: names and shapes must not move ----

BLOCK = """
    spatial_attn.q_proj.weight 12 12
    spatial_attn.q_proj.bias 12
    spatial_attn.k_proj.weight 12 12
    spatial_attn.k_proj.bias 12
    spatial_attn.v_proj.weight 12 12
    spatial_attn.v_proj.bias 12
    spatial_attn.out_proj.weight 12 12
    spatial_attn.out_proj.bias 12
    temporal_attn.q_proj.weight 12 12
    temporal_attn.q_proj.bias 12
    temporal_attn.k_proj.weight 12 12
    temporal_attn.k_proj.bias 12
    temporal_attn.v_proj.weight 12 12
    temporal_attn.v_proj.bias 12
    temporal_attn.out_proj.weight 12 12
    temporal_attn.out_proj.bias 12
    ffn.w_v.weight 6 12
    ffn.w_v.bias 6
    ffn.w_g.weight 6 12
    ffn.w_g.bias 6
    ffn.w_o.weight 12 6
    ffn.w_o.bias 12
"""
PLAIN_NORMS = """
    spatial_attn.norm.rms.weight 12
    temporal_attn.norm.rms.weight 12
    ffn.norm.rms.weight 12
"""
FILM_NORMS = """
    spatial_attn.norm.to_gamma_beta.1.weight 24 2
    spatial_attn.norm.to_gamma_beta.1.bias 24
    temporal_attn.norm.to_gamma_beta.1.weight 24 2
    temporal_attn.norm.to_gamma_beta.1.bias 24
    ffn.norm.to_gamma_beta.1.weight 24 2
    ffn.norm.to_gamma_beta.1.bias 24
"""
TOKENIZER = """
    encoder.patch_embed.proj.weight 12 48 1 1
    encoder.patch_embed.proj.bias 12
    encoder.latent_head.0.weight 12
    encoder.latent_head.0.bias 12
    encoder.latent_head.1.weight 2 12
    encoder.latent_head.1.bias 2
    decoder.latent_embed.weight 12 2
    decoder.latent_embed.bias 12
    decoder.frame_head.to_pixels.weight 48 12 1 1
    decoder.frame_head.to_pixels.bias 48
    quantizer.basis 2
"""
ACTION_MODEL = """
    encoder.patch_embed.proj.weight 12 48 1 1
    encoder.patch_embed.proj.bias 12
    encoder.action_head.0.weight 24
    encoder.action_head.0.bias 24
    encoder.action_head.1.weight 8 24
    encoder.action_head.1.bias 8
    encoder.action_head.3.weight 2 8
    encoder.action_head.3.bias 2
    quantizer.basis 2
    decoder.mask_token 1 1 1 12
    decoder.patch_embed.proj.weight 12 48 1 1
    decoder.patch_embed.proj.bias 12
    decoder.frame_head.0.weight 12
    decoder.frame_head.0.bias 12
    decoder.frame_head.1.weight 48 12
    decoder.frame_head.1.bias 48
"""
DYNAMICS = """
    mask_token 1 1 1 2
    latent_embed.weight 12 2
    latent_embed.bias 12
    output_mlp.weight 9 12
    output_mlp.bias 9
"""


def shapes(listing: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    rows = (line.split() for line in listing.splitlines() if line)
    return {prefix + name: tuple(map(int, sizes)) for name, *sizes in rows}


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            tokenizer,
            shapes(TOKENIZER)
            | shapes(BLOCK + PLAIN_NORMS, "encoder.transformer.blocks.0.")
            | shapes(BLOCK + PLAIN_NORMS, "decoder.transformer.blocks.0."),
        ),
        (
            action_model,
            shapes(ACTION_MODEL)
            | shapes(BLOCK + PLAIN_NORMS, "encoder.transformer.blocks.0.")
            | shapes(BLOCK + FILM_NORMS, "decoder.transformer.blocks.0."),
        ),
        (dynamics, shapes(DYNAMICS) | shapes(BLOCK + FILM_NORMS, "transformer.blocks.0.")),
    ],
)
def test_weights_keep_the_names_and_shapes_of_tinyworlds(
    build: Callable[[], nn.Module], expected: dict[str, tuple[int, ...]]
) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()} == expected


def wave(model: M) -> M:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            ramp_of_parameter = torch.arange(parameter.numel()).add(1.0)
            parameter.copy_(ramp_of_parameter.mul(len(name)).sin().view_as(parameter))
    return model


def ramp(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


@torch.no_grad()
def test_the_same_weights_compute_what_they_compute_in_tinyworlds() -> None:
    """The numbers were printed by TinyWorlds' own models under these weights and inputs."""
    frames, latents, actions = ramp(2, 3, 3, 8, 8), ramp(2, 3, 4, 2), ramp(2, 2, 2)
    autoencoder, action, world = wave(tokenizer()), wave(action_model()), wave(dynamics())
    outputs = {
        autoencoder.detokenize(latents): [-1.86524, -2.88881, -2.95827],
        autoencoder.encoder(frames): [-0.23288, -0.32504, 0.24982],
        action.train()(frames)[1]: [0.0366, -0.38697, 0.82588],
        action.eval().decoder(frames, actions): [-0.40686, -0.44645, 0.63981],
        world(latents, actions): [2.59065, 0.99269, 1.6916],
    }
    for output, expected in outputs.items():
        probes = output.flatten()[:: output.numel() // 3][:3]
        assert torch.allclose(probes, torch.tensor(expected), atol=1e-4)


def test_the_first_latent_dimension_is_the_least_significant_digit() -> None:
    assert codebook(torch.tensor([0, 1, 3])).tolist() == [[-1, -1], [0, -1], [-1, 0]]


# ---- precision and devices ----


def all_losses(device: str) -> list[Tensor]:
    frames, (latents, targets) = some_frames().to(device), (part.to(device) for part in some_tokens())
    mask = draw_mask(B, T, P, seeded()).to(device)
    return [
        tokenizer().to(device)(frames)[0],
        action_model().to(device)(frames)[0],
        dynamics().to(device).loss(latents, targets, mask, some_actions(T - 1).to(device)),
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
