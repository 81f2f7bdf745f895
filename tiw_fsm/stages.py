"""The stages of a world model: one table of everything that is true of a stage, whoever asks. Imports nothing.

The gates and ladders are those of the user's document, in the words of ``loop.yaml``; ``config/loop.py`` gives them
their types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class Stage(StrEnum):
    """The models, in training order. The values are TinyWorlds' folder names."""

    VIDEO = "video_tokenizer"
    LATENT = "latent_actions"
    DYNAMICS = "dynamics"


class StageSpec(NamedTuple):
    """What is true of one stage.

    Attributes:
        flag: how flags and states call it: ``--<flag>-checkpoint``, ``--<flag>-chunk``, ``TRAIN_<FLAG>``.
        words: how a sentence calls it.
        chunk: updates between two gates.
        gate: when a chunk is accepted: the bounds of each verdict.
        ladder: what a rejected chunk is repeated with.
        typical_loss: one that its gate accepts; what the simulated engine plays when its script says nothing.
        script: a checkout's training script.
        inputs: stages whose checkpoints it is trained against.
        aliases: how TinyWorlds calls it in names of files and folders, as a regular expression.
        counts_on: a warm start goes on counting where its checkpoint's updates end; else it counts from 0.
    """

    flag: str
    words: str
    chunk: int
    gate: Mapping[str, Any]
    ladder: Mapping[str, Any]
    typical_loss: float
    script: str
    aliases: str
    inputs: tuple[Stage, ...] = ()
    counts_on: bool = False

    @property
    def checkpoint_flag(self) -> str:
        """The flag that names a checkpoint to start from."""
        return f"{self.flag}_checkpoint"


STAGES: dict[Stage, StageSpec] = {
    Stage.VIDEO: StageSpec(
        flag="video",
        words="tokenizer",
        chunk=5000,
        gate={
            "continue": {"final": {"max": 0.01}, "late_over_mid": {"max": 1.05}},
            "watch": {"final": {"max": 0.02}},
        },
        ladder={"learning_rate_factor": 0.5, "accumulation_step": 1, "log_interval_floor": 500},
        typical_loss=0.005,
        script="scripts/train_video_tokenizer.py",
        aliases=r"video_?tokenizer",
    ),
    Stage.LATENT: StageSpec(
        flag="latent",
        words="latent actions",
        chunk=1000,
        gate={
            "continue": {"final": {"max": 0.06}, "unique_actions": {"min": 2}, "action_entropy": {"min": 0.4}},
            "watch": {"final": {"max": 0.1}, "unique_actions": {"min": 2}},
        },
        ladder={"learning_rate_factor": 0.8, "log_interval_floor": 250},
        typical_loss=0.02,
        script="scripts/train_latent_actions.py",
        aliases=r"actions?(?![a-z])|(?<![a-z])lam(?![a-z])",
    ),
    Stage.DYNAMICS: StageSpec(
        flag="dynamics",
        words="dynamics",
        chunk=2000,
        gate={
            "retune": {"final": {"min": 6.0}, "rise": {"min": 0.0}},
            "continue": {"late_over_mid": {"max": 1.02}, "rise": {"max": 0.2}, "final": {"max": 5.0}},
            "watch": {"late_over_mid": {"max": 1.08}, "rise": {"max": 0.5}},
        },
        ladder={"learning_rate_factor": 0.2, "accumulation_step": -1, "log_interval_floor": 500},
        typical_loss=2.0,
        script="scripts/train_dynamics.py",
        aliases=r"dynamics",
        inputs=(Stage.VIDEO, Stage.LATENT),
        counts_on=True,
    ),
}
"""In training order."""

PACKED = (".pth", ".pt")
"""How the name of a single file with a whole checkpoint of TinyWorlds ends."""


def stage_of(path: str) -> Stage | None:
    """Which stage's checkpoint a path names: by its last name, or that of the nearest folder that tells."""
    for name in reversed(path.lower().split("/")):
        found = [stage for stage, spec in STAGES.items() if re.search(spec.aliases, name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def step_of(path: str) -> int | None:
    """The zero-based update that a path says a checkpoint was saved after."""
    found = re.findall(r"(?:step|checkpoint)_?(\d{1,12})", path)
    return int(found[-1]) if found else None
