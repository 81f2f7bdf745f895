"""The files of a checkpoint, as TinyWorlds names them."""

from __future__ import annotations

import re

from tiw_fsm.stages import Stage

MODEL = "model_state_dict.pt"
OPTIMIZER = "optim_state_dict.pt"
STATE = "state.pt"
"""Config, step and learning-rate schedule."""
ALL = (MODEL, OPTIMIZER, STATE)

PACKED = (".pth", ".pt")
"""How the name of a single file with a whole checkpoint ends."""
STEP = re.compile(r"(?:step|checkpoint)_?(\d{1,12})")
"""The zero-based update in a name."""
ALIASES = {
    Stage.VIDEO: re.compile(r"video_?tokenizer"),
    Stage.DYNAMICS: re.compile(r"dynamics"),
    Stage.LATENT: re.compile(r"actions?(?![a-z])|(?<![a-z])lam(?![a-z])"),
}
"""How the stages are called in names; looked for in this order."""


def stage_of(path: str) -> Stage | None:
    """Which stage's checkpoint a path names, by its last name or that of the nearest folder that tells."""
    for name in reversed(path.lower().split("/")):
        for stage, pattern in ALIASES.items():
            if pattern.search(name):
                return stage
    return None
