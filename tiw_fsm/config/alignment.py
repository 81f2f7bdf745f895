"""ALIGN's rules: what the files themselves must agree on, before anything is merged.

A value that a flag or training.yaml would override in the end is still misaligned when two files disagree about it:
the next reader, or the next script, would take the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tiw_fsm.stages import Stage
from tiw_fsm.values.printable import quoted

FROM_TRAINING = ("patch_size", "context_length", "frame_size", "latent_dim", "num_bins", "n_actions")
BACKBONE = ("embed_dim", "num_heads", "hidden_dim", "num_blocks")
INJECTED = {
    "dynamics": ("video_tokenizer_path", "latent_actions_path", "checkpoint"),
    "inference": ("video_tokenizer_path", "latent_actions_path", "dynamics_path"),
}

Files = Mapping[str, Mapping[str, Any]]
Where = Callable[[str, str], str]


def misaligned(files: Files, where: Where) -> list[str]:
    """Every disagreement between the files, each as one sentence with file, line and remedy.

    Args:
        files: what each YAML file says, by file name without suffix, flags not applied.
        where: gives ``file:line`` of a key in a file.
    """
    problems = [
        f"{where('training', key)}: {key} is missing; training.yaml is where all stages take it from"
        for key in FROM_TRAINING
        if files["training"].get(key) is None
    ]
    for key in FROM_TRAINING + BACKBONE:
        stated = _stated(files, key)
        differing = [(name, value) for name, value in stated if value != stated[0][1]]
        if differing:
            (first, value), *_ = stated
            listing = ", ".join(f"{quoted(other)} at {where(name, key)}" for name, other in differing)
            problems.append(
                f"{where(first, key)}: {key} is {quoted(value)} here but {listing}; give all stages one value"
            )
    for key in BACKBONE:
        if files["training"].get(key) is None:
            silent = [stage.value for stage in Stage if files[stage.value].get(key) is None]
            if len(silent) == len(Stage):
                problems.append(f"{where('training', key)}: {key} is missing; give all stages one value here")
            else:
                problems += [
                    f"{where(name, key)}: {key} is missing, here and in training.yaml; give it" for name in silent
                ]
    for name, keys in INJECTED.items():
        problems += [
            f"{where(name, key)}: {key} names a checkpoint; leave it empty, it is injected at run time "
            "(start from one with --video-checkpoint, --latent-checkpoint or --dynamics-checkpoint)"
            for key in keys
            if files[name].get(key)
        ]
    return problems


def table(files: Files, where: Where) -> list[tuple[str, str, str]]:
    """Rows (key, where it stands, value) of everything that must agree, for the reports."""
    return [
        (key, where(name, key), str(value)) for key in FROM_TRAINING + BACKBONE for name, value in _stated(files, key)
    ]


def _stated(files: Files, key: str) -> list[tuple[str, Any]]:
    names = ["training", *(stage.value for stage in Stage)]
    return [(name, files[name][key]) for name in names if files[name].get(key) is not None]
