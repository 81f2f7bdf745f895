"""A working root for tests: tiny configs, lenient gates, tiny frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

TINY: dict[str, dict[str, Any]] = {
    "training": {
        "dataset": "frames.h5",
        "patch_size": 8,
        "context_length": 4,
        "frame_size": 16,
        "latent_dim": 3,
        "num_bins": 4,
        "n_actions": 4,
        "embed_dim": 24,
        "num_heads": 2,
        "hidden_dim": 24,
        "num_blocks": 1,
        "device": "cpu",
    },
    "video_tokenizer": {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "n_updates": 20,
        "learning_rate": 0.003,
        "log_interval": 5,
    },
    "latent_actions": {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "n_updates": 10,
        "learning_rate": 0.003,
        "log_interval": 5,
    },
    "dynamics": {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "n_updates": 20,
        "learning_rate": 0.003,
        "log_interval": 5,
    },
    "inference": {"generation_steps": 4, "temperature": 0.0},
    "loop": {
        "chunks": {"video_tokenizer": 10, "latent_actions": 10, "dynamics": 10},
        "checkpoint_interval": 5,
        "inference": {"clips": 2},
        "retune": {"chunk": 10},
    },
}


OPTIONS: dict[str, dict[str, Any]] = {
    "latent_actions": {"key_hint_weight": 0.1, "film_init_std": 0.3, "decoder_context": "past_frames"},
    "dynamics": {"film_init_std": 0.3, "masking": "next_frame", "context_noise": 0.2},
}
"""Every option of training that TinyWorlds does not have."""


LENIENT = {"gates": {stage: {"from_update": 10_000} for stage in ("video_tokenizer", "latent_actions", "dynamics")}}
"""Stage gates that let any finite chunk through that does not double its loss."""


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def write_configs(folder: Path, changes: Mapping[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in merged(TINY, changes or {}).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def write_frames(path: Path, *, episodes: int = 20, length: int = 24, size: int = 16, seed: int = 0) -> None:
    """A bright square that walks over a dark field, by seeded steps: learnable, and no two episodes alike.

    ``actions`` says the step that leads to the next row: far more different ones than a tiny model has actions.
    """
    rng = np.random.default_rng(seed)
    frames = np.full((episodes * length, size, size, 3), 30, np.uint8)
    actions = np.full(episodes * length, -1)
    for episode in range(episodes):
        y, x = rng.integers(0, size - 4, 2)
        for t in range(length):
            dy, dx = rng.integers(-2, 3, 2)
            y, x = np.clip([y + dy, x + dx], 0, size - 4)
            frames[episode * length + t, y : y + 4, x : x + 4] = (220, 180, 60)
            if t > 0:
                actions[episode * length + t - 1] = 5 * (dy + 2) + dx + 2
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames)
        file.create_dataset("episode", data=np.repeat(np.arange(episodes), length))
        file.create_dataset("actions", data=actions)
        file.attrs["stride"] = 1


def numbered_frames(path: Path, rows: int, episode: list[int] | None = None) -> Path:
    """A file whose frame n has the brightness n, so that a clip says which rows it holds."""
    with h5py.File(path, "w") as file:
        file["frames"] = np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, 8, 8, 3))
        if episode is not None:
            file["episode"] = np.array(episode)
    return path
