"""The latent action model: one action for each pair of frames, and none that is always the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.support.models import SIZES, A, B, T, action_model, frames_that_differ, some_actions, some_frames
from tiw_fsm.tinyworlds.latent_actions import LatentActionModel


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


# --- recorded keys as a hint ------------------------------------------------------------------------------------


def test_a_hint_costs_nothing_where_no_key_is_known() -> None:
    model, frames = action_model(), some_frames()
    unknown = torch.full((B, T - 1), -1)
    assert torch.equal(model(frames, unknown, 1.0)[0], model(frames)[0])


def test_a_hint_is_the_logistic_loss_of_every_sign_that_is_known() -> None:
    model, frames = action_model(), some_frames()
    hints = torch.tensor([[0, 3, -1], [-1, 1, 2]])
    signs = torch.tensor([[[-1, -1], [1, 1], [0, 0]], [[0, 0], [1, -1], [-1, 1]]])  # the first sign counts least
    lost = torch.log1p(torch.exp(-2 * model.encoder(frames) * signs)) * (signs != 0)
    assert torch.allclose(model(frames, hints, 0.5)[0], model(frames)[0] + 0.5 * lost.mean(), atol=1e-6)


def test_a_decoder_that_is_shown_the_past_sees_it_in_training_as_at_inference() -> None:
    frames, actions = some_frames(), some_actions(T - 1)
    torch.manual_seed(0)
    decoder = LatentActionModel(SIZES, n_actions=4, context="past_frames").decoder
    assert torch.equal(decoder.train()(frames, actions), decoder.eval()(frames, actions))
