"""What of a run is played: the newest checkpoints its state names, read and never touched, and what to know of them."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch

from tiw_fsm.api import Run
from tiw_fsm.config.settings import Settings
from tiw_fsm.data import frames
from tiw_fsm.engines.simulated import SimulatedKind
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.play.keymap import KeyMap, propose
from tiw_fsm.play.world import Game, Player
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.system import processors
from tiw_fsm.tinyworlds import determinism
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.rollout import WorldModel

TRIES = 20
"""A run at work removes old checkpoints: a state read a moment ago may name some that are gone."""
TRIED_STARTS = 4
"""Held-out starts from which every action is tried, to see whether they lead to different frames."""


class Opened(NamedTuple):
    """A run to be played.

    Attributes:
        name: of the run.
        updates: of each stage, by its name in words: done, and all that it shall have.
        verdict: what the inference gate said of these checkpoints, in a sentence.
        warnings: what a player should know, a sentence each.
    """

    name: str
    game: Game
    keymap: KeyMap
    updates: dict[str, tuple[int, int]]
    verdict: str
    warnings: list[str]


def open_game(run: Run, device: str) -> Opened:
    """Load what is played.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageProblem: the run has no model (yet), its frames cannot be used, or the device is not there.
        StateDamaged: a checkpoint is not what the state vouches for.
    """
    settings = run.settings
    if settings.engine == SimulatedKind.name:
        raise UsageProblem(
            f"run {run.state.run!r} was simulated and has no model to play: begin one with "
            "`tiw-fsm run --engine native --run NAME`, and play that"
        )
    place = chosen_device(device)
    state, model = _newest(run, str(place))
    game = Game(model, _frames(settings, place), settings.inference)
    keymap = propose(game)
    updates = {STAGES[stage].words: (progress.completed, progress.target) for stage, progress in state.stages.items()}
    return Opened(state.run, game, keymap, updates, verdict(state), warnings(game, keymap))


def chosen_device(device: str) -> torch.device:
    """The device to compute on, with torch set up as the native engine sets it up, so that the bits are the gate's.

    Raises:
        UsageProblem: it is not there.
    """
    for name, value in determinism.ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # before CUDA is first used
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UsageProblem("device cuda: this machine has no CUDA device that torch can use; give --device cpu")
    determinism.make_deterministic(processors.share(torch.get_num_threads()))
    return torch.device("cuda" if there and device != "cpu" else "cpu")


def verdict(state: RunState) -> str:
    """What the inference gate said, and of which checkpoint."""
    if not state.inference.attempts:
        return f"The inference gate has not judged it yet; the run is in {state.state}."
    attempt = state.inference.attempts[-1]
    mse = "no MSE" if attempt.mse is None else f"MSE {attempt.mse:.4f}, at most {attempt.max_mse:g} wanted"
    said = f"Inference gate, attempt {attempt.number}: {'passed' if attempt.passed else 'not passed'} ({mse})."
    if attempt.updates != state.stages[Stage.DYNAMICS].completed:
        said += f" It judged the dynamics after {attempt.updates} updates, not these."
    return said


def warnings(game: Game, keymap: KeyMap) -> list[str]:
    """What a player should know of this model, a sentence each."""
    found = []
    used = sum(share > 0 for share in keymap.uses)
    if not game.model.use_actions:
        found.append("These dynamics were trained without actions: whatever you press, the model goes on by itself.")
    elif used == 1:
        found.append("The model infers one and the same action on all held-out clips: its actions have collapsed.")
    if game.model.use_actions and all_the_same(game):
        found.append("All actions lead to the same frames: what you press makes no difference to this model.")
    if shared := [keys for keys in keymap.shared() if len(keys) > 1]:
        told = "; ".join(", ".join(keys) for keys in shared)
        found.append(f"Some keys press the same action, because the model does not tell them apart: {told}.")
    if keymap.known_by == "nothing":
        found.append("Neither recorded keys nor motion say what the arrows should press: choose for yourself.")
    return found


def all_the_same(game: Game) -> bool:
    """Whether no action leads elsewhere than any other, from a few held-out starts."""
    for start in np.linspace(0, len(game.starts) - 1, min(TRIED_STARTS, len(game.starts))).astype(int):
        seen = set()
        for action in range(game.n_actions):
            player = Player(game, int(start))
            seen.add(player.step(action).tobytes())
            if len(seen) > 1:
                return False
    return True


def _newest(run: Run, device: str) -> tuple[RunState, WorldModel]:
    """The models that the state names, and that state. What a run at work has removed meanwhile is looked for anew."""
    for last in [*[False] * TRIES, True]:
        state = run.state
        try:
            model = run.world(device)
        except (StateDamaged, FileNotFoundError):
            if last or run.state.generation == state.generation:
                raise
            continue
        if last or run.state.named_checkpoints() == state.named_checkpoints():
            break
    return state, model


def _frames(settings: Settings, device: torch.device) -> FrameData:
    """The frames to start from.

    Raises:
        UsageProblem: they are gone, or hold no start.
    """
    config = settings.inference
    (size,) = {stage.frame_size for stage in settings.stages.values()}
    held_out = frames.HeldOut(clips=1, length=config.context_window + config.prediction_horizon)
    problems = frames.inspect(settings.data, frame_size=size, training_length=held_out.length, held_out=held_out)
    if problems:
        raise UsageProblem(problems)
    determinism.allow_tf32(config.tf32)
    return FrameData(settings.data, device)
