"""What a world model is worth on clips that training never saw: every figure of the inference gate.

Frames are [B, F, C, H, W] in [-1, 1]; every MSE is taken in [0, 1], over generated frames unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tiw_fsm.tinyworlds.baselines import predictions, squared_errors
from tiw_fsm.tinyworlds.clips import FrameData, generator, to_model, to_unit
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.tinyworlds.keys import agreement
from tiw_fsm.tinyworlds.objectives import action_statistics, count_actions
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.tinyworlds.training import autocast

DRAWS = 1000
"""Of clips, with replacement, of which an interval is made (percentile bootstrap: Efron & Tibshirani 1993)."""
CONFIDENCE = 0.95
LEAST_MSE = 1e-10
"""Below it, a PSNR is counted as 100 dB."""
POOLED = 8
"""Side, in pixels, of the squares whose means tell quickly that two frames differ."""
COMPARED = 512
"""Training frames compared at a time."""
ROUNDING = 0.01
"""What a distance may be off by before two frames are compared pixel by pixel."""


class Evaluation(NamedTuple):
    """What came of a rollout on held-out clips.

    Attributes:
        figures: all that the inference gate judges by.
        clips: the true frames, [B, context and generated frames, C, H, W].
        generated: what the model made of their contexts, [B, F, C, H, W].
        errors: MSE of each generated frame, [B, F].
        baseline: the best trivial prediction: its name.
        predicted: the one frame that it predicts for all of a clip's, [B, 1, C, H, W].
    """

    figures: dict[str, Any]
    clips: Tensor
    generated: Tensor
    errors: Tensor
    baseline: str
    predicted: Tensor


def evaluate(
    world: WorldModel,
    data: FrameData,
    config: InferenceConfig,
    clip_count: int,
    say: Callable[[str], None],
    each_step: Callable[[int], None] = lambda step: None,
) -> Evaluation:
    """Roll out on held-out clips and measure.

    Args:
        say: takes the lines that TinyWorlds' own inference script prints.
    """
    starts = data.evaluation_starts(config, clip_count)
    clips = to_model(data.clips(starts, config.frames))
    split, steps, horizon = config.context_window, config.generation_steps, config.prediction_horizon
    truth = clips[:, split:]

    def report(step: int) -> None:
        say(f"Inferring frame {step}/{steps}")
        each_step(step)

    with autocast(next(world.dynamics.parameters()).device, config.amp):
        actions = world.infer_actions(clips, config)
        generated = world.rollout(clips, actions, config, each_step=report)
        drawn = world.random_actions(actions, horizon, generator(config.seed, "actions"))
        free = world.rollout(clips, drawn, config)
        rebuilt = world.reconstruct(clips, config)
        choices = next_frames(world, clips, actions, config) if world.use_actions else None
    errors, free_errors = squared_errors(generated, truth), squared_errors(free, truth)
    tokenizer_mse = float(squared_errors(rebuilt, truth).mean())
    unit, true_motion = to_unit(generated), motion(truth)
    predicted, sigma = predictions(data, clips, config)
    trivial = {name: squared_errors(frame, truth) for name, frame in predicted.items()}
    figures = {
        "frames_expected": steps * horizon * clip_count,
        "frames_inferred": generated.shape[1] * len(clips),
        "clips": len(clips),
        "mse": float(errors.mean()),
        "mse_per_step": errors.mean(0).tolist(),
        "mse_with_context": float(errors.mean()) * truth.shape[1] / clips.shape[1],
        "mse_random_actions": float(free_errors.mean()),
        "tokenizer_mse": tokenizer_mse,
        **skill_figures(errors, trivial, sigma, config.seed),
        "motion": motion(generated) / true_motion if true_motion else None,
        "tokenizer_motion": motion(rebuilt) / true_motion if true_motion else None,
        "unseen": unseen(truth, data, tokenizer_mse),
        "statistics": {name: float(getattr(unit, name)()) for name in ("mean", "std", "min", "max")},
        **action_figures(world, data, actions, data.keys_between(starts, config.frames), config),
    }
    if choices is not None:
        figures |= control_figures(errors, free_errors, config.seed)
        figures |= {"distinct_actions": distinct(choices, tokenizer_mse), "n_actions": len(choices)}
    say("Inference stats:")
    say(f"Total frames generated: {generated.shape[1]}")
    say(f"Mean Squared Error (GT vs Pred): {figures['mse']:.6f}")
    best = min(trivial, key=lambda name: float(trivial[name].mean()))
    return Evaluation(figures, clips, generated, errors, best, predicted[best])


def skill_figures(errors: Tensor, trivial: Mapping[str, Tensor], sigma: float, seed: int) -> dict[str, Any]:
    """Trivial predictions, and skill, 1 − MSE / that of the best of them: per step, and its interval over clips.

    Args:
        errors: MSE of each generated frame, [B, F].
        trivial: those of the trivial predictions, [B, F] by name.
        sigma: of the blurred one, pixels.
    """
    each = torch.stack(list(trivial.values()))
    resampled = resamples(torch.cat([errors[None], each]).mean(2), seed)  # [1 + N, draws]
    return {
        "baselines": {name: float(values.mean()) for name, values in trivial.items()},
        "baselines_per_step": {name: values.mean(0).tolist() for name, values in trivial.items()},
        "blur_sigma": sigma,
        "skill_per_step": (1 - errors.mean(0) / each.mean(1).amin(0)).tolist(),
        "skill_interval": interval(1 - resampled[0] / resampled[1:].amin(0)),
    }


def action_figures(
    world: WorldModel, data: FrameData, actions: list[Tensor], keys: Tensor | None, config: InferenceConfig
) -> dict[str, Any]:
    """What the inferred actions that lead to generated frames are, and how well they agree with the recorded keys.

    Args:
        actions: of each step's window, as ``infer_actions`` gives them.
        keys: between all frames of the clips, [B, frames - 1]; None where nothing is recorded.
    """
    quantizer, horizon = world.actions.quantizer, config.prediction_horizon
    led_to = quantizer.indices_from_latents(torch.cat([a[:, -horizon:] for a in actions], dim=1))
    return {
        "key_agreement": None if keys is None else agreement(led_to, keys[:, config.context_window - 1 :]),
        "keys_used": world.keys_used and data.keys is not None,
        **action_statistics(count_actions(led_to, quantizer.codebook_size).cpu()),
    }


def control_figures(errors: Tensor, free_errors: Tensor, seed: int) -> dict[str, Any]:
    """ΔPSNR in dB: that under inferred actions less that under random ones (Bruce et al. 2024, arXiv:2402.15391).

    Args:
        errors: MSE of each frame generated under inferred actions, [B, F].
        free_errors: the same under random ones.
    """
    resampled = resamples(torch.stack([errors, free_errors]).mean(2), seed)
    return {
        "delta_psnr": float(psnr(errors.mean()) - psnr(free_errors.mean())),
        "delta_psnr_per_step": (psnr(errors.mean(0)) - psnr(free_errors.mean(0))).tolist(),
        "delta_psnr_interval": interval(psnr(resampled[0]) - psnr(resampled[1])),
    }


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, dB, of an MSE in [0, 1]."""
    return -10 * mse.clamp_min(LEAST_MSE).log10()


def resamples(of_clips: Tensor, seed: int) -> Tensor:
    """Means over clips drawn with replacement, the same clips for every row: [N, B] to [N, draws]."""
    clips = of_clips.shape[1]
    picks = torch.randint(clips, (DRAWS, clips), generator=generator(seed, "bootstrap"))
    return of_clips.cpu()[:, picks].mean(2)


def interval(draws: Tensor) -> list[float]:
    """The central share ``CONFIDENCE`` of [draws]: its low and its high end."""
    tail = (1 - CONFIDENCE) / 2
    return [float(draws.quantile(tail)), float(draws.quantile(1 - tail))]


def motion(frames: Tensor) -> float:
    """Mean absolute difference of neighbouring frames, pixels in [0, 1]; 0 of a single frame."""
    unit = to_unit(frames)
    return float((unit[:, 1:] - unit[:, :-1]).abs().mean()) if frames.shape[1] > 1 else 0.0


@torch.no_grad()
def next_frames(world: WorldModel, clips: Tensor, actions: list[Tensor], config: InferenceConfig) -> Tensor:
    """The frame after the context under each action there is: [actions, B, C, H, W], sampled with equal luck."""
    context, horizon = clips[:, : config.context_window], config.prediction_horizon
    quantizer = world.actions.quantizer
    found = []
    for action in range(quantizer.codebook_size):
        chosen = actions[0].clone()
        chosen[:, -horizon:] = quantizer.latents_from_indices(torch.tensor(action, device=chosen.device))
        found.append(world.predict(context, chosen, config, generator(config.seed, "choices"))[:, 0])
    return torch.stack(found)


def distinct(choices: Tensor, tokenizer_mse: float) -> int:
    """How many different next frames the actions lead to.

    Two lead to the same one if it differs by no more than the tokenizer errs, or if a third is the same as both.

    Args:
        choices: the next frame under each action, [actions, B, C, H, W].
    """
    group = list(range(len(choices)))
    for one, other in combinations(range(len(choices)), 2):
        if float(squared_errors(choices[one][:, None], choices[other][:, None]).mean()) <= tokenizer_mse:
            group = [group[one] if member == group[other] else member for member in group]
    return len(set(group))


def unseen(truth: Tensor, data: FrameData, tokenizer_mse: float) -> float:
    """Share of true frames [B, F, C, H, W] of which training saw none as near as the tokenizer's own error.

    The means of squares of pixels differ by no more than the pixels do, so that most pairs are told apart by them.
    """
    judged = to_unit(truth).flatten(0, 1)
    pooled = _pooled(judged)
    found = torch.zeros(len(judged), dtype=torch.bool, device=judged.device)
    radius = (tokenizer_mse * judged[0].numel()) ** 0.5
    for block in torch.split(data.training.nonzero().flatten().to(data.device), COMPARED):
        frames = data.frames[data.place[block]].permute(0, 3, 1, 2).float() / 255
        missing = (~found).nonzero().flatten()
        near = torch.cdist(pooled[missing], _pooled(frames)) <= radius * (1 + ROUNDING)
        candidates, neighbours = missing[near.any(1)], frames[near.any(0)]
        distances = torch.cdist(judged[candidates].flatten(1), neighbours.flatten(1))
        found[candidates] = (distances <= radius).any(1)
    return float((~found).double().mean())


def _pooled(frames: Tensor) -> Tensor:
    """Frames [N, C, H, W] to [N, M] whose squared distances are at most those of the frames."""
    side = min(POOLED, frames.shape[-1], frames.shape[-2])
    return F.avg_pool2d(frames, side).flatten(1) * side
