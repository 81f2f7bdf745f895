"""The files of a checkpoint, as TinyWorlds names them."""

from __future__ import annotations

MODEL = "model_state_dict.pt"
OPTIMIZER = "optim_state_dict.pt"
STATE = "state.pt"
"""Config, step and learning-rate schedule."""
