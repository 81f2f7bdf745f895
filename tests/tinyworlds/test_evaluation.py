"""What a world is worth: no world that is constant, blurred, copied, noise or deaf passes, and every figure is right.

The frames are real ones, of a game in which everything moves; the gate is the default one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tiw_fsm.config.loop import InferenceGate
from tiw_fsm.data import recording
from tiw_fsm.fsm.inference_gate import InferenceResult, judge_inference
from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.baselines import blur, squared_errors
from tiw_fsm.tinyworlds.clips import FrameData, generator, to_model
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, StageConfig
from tiw_fsm.tinyworlds.evaluation import control_figures, distinct, evaluate, motion, psnr, skill_figures, unseen
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.rollout import WorldModel

STAGE = StageConfig(
    n_updates=1, learning_rate=0.003, gradient_accumulation_steps=1, batch_size_per_gpu=4, log_interval=1,
    context_length=3, frame_size=56, patch_size=28, embed_dim=24, num_heads=2, hidden_dim=24, num_blocks=1,
    latent_dim=4, num_bins=2, n_actions=4,
)  # fmt: skip
INFERENCE = InferenceConfig(generation_steps=4, decode_steps=1, temperature=0.0)
CLIPS = 16
Predict = Callable[["Pretender", Tensor, Tensor], Tensor]


class Pretender(WorldModel):
    """A world whose next frame [B, 1, C, H, W] comes of a trick."""

    def __init__(self, data: FrameData, trick: Predict) -> None:
        torch.manual_seed(0)
        models: dict[Stage, Any] = {stage: make_model(stage, STAGE).eval().requires_grad_(False) for stage in Stage}
        super().__init__(models[Stage.VIDEO], models[Stage.LATENT], models[Stage.DYNAMICS])
        self.data, self.trick = data, trick
        self.clips = data.evaluation_clips(INFERENCE, CLIPS)
        self.inferred = self.infer_actions(self.clips, INFERENCE)
        self.step = -1

    def rollout(self, *arguments: Any, **named: Any) -> Tensor:
        self.step = -1
        return super().rollout(*arguments, **named)

    def predict(self, context: Tensor, actions: Tensor, config: InferenceConfig, random: torch.Generator) -> Tensor:
        self.step = (self.step + 1) % config.generation_steps
        return self.trick(self, context, actions)

    @property
    def truth(self) -> Tensor:
        at = INFERENCE.context_window + self.step
        return self.clips[:, at : at + 1]


def obey(world: Pretender, context: Tensor, actions: Tensor) -> Tensor:
    """The truth where it is asked for, another clip's frame where another action is."""
    asked = (actions[:, -1] == world.inferred[world.step][:, -1]).all(-1)
    return torch.where(asked[:, None, None, None, None], world.truth, world.truth.roll(1, 0))


TRIVIAL: dict[str, tuple[Predict, set[str]]] = {
    "constant": (
        lambda world, context, actions: (world.data.mean_training_frame() * 2 - 1).expand_as(context[:, -1:]),
        {"skill_above_min", "delta_psnr_above_min", "motion_above_min"},
    ),
    "one colour": (
        lambda world, context, actions: context[:, :1].mean(dim=(3, 4), keepdim=True).expand_as(context[:, :1]),
        {"skill_above_min", "delta_psnr_above_min"},
    ),
    "blurred": (
        lambda world, context, actions: blur(context[:, -1:], 2.0),
        {"skill_above_min", "delta_psnr_above_min"},
    ),
    "copied": (
        lambda world, context, actions: context[:, -1:],
        {"skill_above_min", "delta_psnr_above_min", "motion_above_min", "beats_copy_last"},
    ),
    "noise": (
        lambda world, context, actions: torch.rand(context[:, -1:].shape, generator=generator("noise")) * 2 - 1,
        {"skill_above_min", "delta_psnr_above_min", "beats_mean_frame"},
    ),
    "deaf": (lambda world, context, actions: world.truth, {"delta_psnr_above_min"}),
    "a game without its player": (
        lambda world, context, actions: world.truth.lerp(world.truth.mean(0, keepdim=True), 0.3),
        {"delta_psnr_above_min"},
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FrameData:
    path = tmp_path_factory.mktemp("frames") / "planet.h5"
    recording.record(path, frames=640, seed=1, episode_length=32)
    return FrameData(DataSource(path=str(path), skip=0, stride=1), torch.device("cpu"))


def judged(data: FrameData, trick: Predict) -> tuple[dict[str, Any], dict[str, bool]]:
    """The figures of a world, and those conditions of the default gate that are about the world."""
    figures, *_ = evaluate(Pretender(data, trick), data, INFERENCE, CLIPS, say=lambda line: None)
    result = InferenceResult.model_validate({"status": "ok", "png_valid": True, "png": "there.png", **figures})
    attempt = judge_inference(result, {}, InferenceGate(max_mse=1.0), number=1, updates=1)
    assert attempt.conditions.pop("checkpoints_as_named") is False, "there are none"
    return figures, attempt.conditions


def test_a_world_that_moves_and_obeys_passes(data: FrameData) -> None:
    figures, conditions = judged(data, obey)
    assert all(conditions.values()), conditions
    assert figures["mse"] == 0
    assert figures["skill_interval"] == [1, 1]
    assert figures["motion"] == pytest.approx(1)


@pytest.mark.parametrize("kind", TRIVIAL)
def test_no_trivial_world_passes(data: FrameData, kind: str) -> None:
    """Even where the largest MSE is no bar at all."""
    trick, why = TRIVIAL[kind]
    _, conditions = judged(data, trick)
    assert why <= {name for name, held in conditions.items() if not held}


def test_a_world_that_breaks_down_is_no_better_for_it(data: FrameData) -> None:
    """A figure that is not finite is none that could not be measured."""

    def explode(world: Pretender, context: Tensor, actions: Tensor) -> Tensor:
        asked = (actions[:, -1] == world.inferred[world.step][:, -1]).all(-1)
        return torch.where(asked[:, None, None, None, None], world.truth, torch.nan)

    _, conditions = judged(data, explode)
    assert conditions["delta_psnr_above_min"] is False


# --- the figures ------------------------------------------------------------------------------------------------


def test_an_interval_holds_the_figure_and_closes_with_more_clips() -> None:
    def of(clips: int) -> tuple[float, float]:
        errors = 0.01 + 0.02 * torch.rand(clips, 5, generator=generator("errors", clips))
        low, high = skill_figures(errors, {"only": torch.full((clips, 5), 0.05)}, 0.0, seed=0)["skill_interval"]
        assert low < 1 - float(errors.mean()) / 0.05 < high
        return low, high

    (low, high), (lower, higher) = of(400), of(10)
    assert high - low < (higher - lower) / 2


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    errors, free = torch.rand(8, 3, generator=generator("a")), torch.rand(8, 3, generator=generator("b"))
    assert control_figures(errors, free, seed=1) == control_figures(errors, free, seed=1)
    assert control_figures(errors, free, seed=1) != control_figures(errors, free, seed=2)


def test_control_is_the_difference_of_the_psnr_of_mean_errors() -> None:
    figures = control_figures(torch.full((4, 3), 0.001), torch.full((4, 3), 0.01), seed=0)
    assert figures["delta_psnr"] == pytest.approx(10)
    assert figures["delta_psnr_per_step"] == pytest.approx([10, 10, 10])
    assert figures["delta_psnr_interval"] == pytest.approx([10, 10])
    assert float(psnr(torch.tensor(0.0))) == pytest.approx(100)


def test_skill_goes_by_the_best_trivial_prediction_of_each_step() -> None:
    trivial = {"one": torch.tensor([[0.1, 0.4]]).expand(3, 2), "other": torch.tensor([[0.2, 0.2]]).expand(3, 2)}
    figures = skill_figures(torch.tensor([[0.05, 0.05]]).expand(3, 2), trivial, 0.0, seed=0)
    assert figures["skill_per_step"] == pytest.approx([0.5, 0.75])


def test_motion_is_that_between_neighbouring_frames() -> None:
    still = torch.zeros(1, 3, 3, 8, 8)
    blinking = torch.stack([still[:, 0], still[:, 0] + 1, still[:, 0]], dim=1)
    assert motion(still) == 0
    assert motion(blinking) == pytest.approx(0.5), "two steps, each half of the range"


def test_actions_are_distinct_where_they_lead_to_different_frames() -> None:
    frames = torch.rand(3, 2, 3, 8, 8, generator=generator("frames"))
    assert distinct(frames[[0, 1, 2, 1]], tokenizer_mse=1e-6) == 3
    assert distinct(frames[[0, 0, 0, 0]], tokenizer_mse=1e-6) == 1
    assert distinct(frames, tokenizer_mse=1.0) == 1, "within what the tokenizer itself confuses"


def test_frames_that_training_saw_are_seen_and_others_are_not(data: FrameData) -> None:
    """Agrees with comparing every frame with every frame, pixel by pixel."""
    trained = to_model(data.clips(data.clip_starts(4, held_out=False)[::37], 4))
    assert unseen(trained, data, tokenizer_mse=1e-6) == 0
    assert unseen(trained.flip(-1, -3), data, tokenizer_mse=1e-6) == 1
    held_out = data.evaluation_clips(INFERENCE, CLIPS)
    rows = data.training.nonzero().flatten()
    known = to_model(data.frames[data.place[rows]][None])[0]
    judged_frames = held_out.flatten(0, 1)[::3]
    nearest = torch.stack([squared_errors(known[:, None], frame[None, None]).amin() for frame in judged_frames])
    for tokenizer_mse in (1e-6, 0.01, 0.03):
        expected = float((nearest > tokenizer_mse).double().mean())
        assert unseen(judged_frames[None], data, tokenizer_mse) == pytest.approx(expected)
