"""The three stages of a world model."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """The three models, in training order. The values are TinyWorlds' folder names."""

    VIDEO = "video_tokenizer"
    LATENT = "latent_actions"
    DYNAMICS = "dynamics"
