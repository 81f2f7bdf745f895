"""What of a run is played: the newest checkpoints its state names, read and never touched, and what to know of them."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch

from tiw_fsm.api import Run, gate_said
from tiw_fsm.engines.simulated import SimulatedKind
from tiw_fsm.errors import UsageProblem
from tiw_fsm.play.keymap import KeyMap, propose
from tiw_fsm.play.world import Game, Player
from tiw_fsm.stages import STAGES
from tiw_fsm.system import processors
from tiw_fsm.tinyworlds import determinism
from tiw_fsm.worlds.devices import device_called
from tiw_fsm.worlds.held_out import frame_data

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
    if run.settings.engine == SimulatedKind.name:
        raise UsageProblem(
            f"run {run.state.run!r} was simulated and has no model to play: begin one with "
            "`tiw-fsm run --engine native --run NAME`, and play that"
        )
    place = chosen_device(device)
    state, settings, model = run.newest(str(place))
    determinism.allow_tf32(settings.inference.tf32)
    game = Game(model, frame_data(settings, place), settings.inference)
    keymap = propose(game)
    updates = {STAGES[stage].words: (progress.completed, progress.target) for stage, progress in state.stages.items()}
    return Opened(state.run, game, keymap, updates, gate_said(state), warnings(game, keymap))


def chosen_device(device: str) -> torch.device:
    """The device to compute on, with torch set up as the native engine sets it up, so that the bits are the gate's.

    Raises:
        UsageProblem: it is not there.
    """
    for name, value in determinism.ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # before CUDA is first used
    place = device_called(device)
    determinism.make_deterministic(processors.share(torch.get_num_threads()))
    return place


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
