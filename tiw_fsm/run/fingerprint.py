"""What decides the weights bit for bit, and what a difference in it means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiw_fsm.config.settings import Settings
from tiw_fsm.data import frames
from tiw_fsm.data.content import Digests
from tiw_fsm.engines.code import code_digest
from tiw_fsm.engines.protocol import Hello
from tiw_fsm.fsm.run_state import Fingerprint
from tiw_fsm.stages import Stage

SHAPE = frozenset(
    [
        "frame_size",
        "patch_size",
        "embed_dim",
        "num_heads",
        "hidden_dim",
        "num_blocks",
        "latent_dim",
        "num_bins",
        "n_actions",
        "use_moe",
        "num_experts",
    ]
)
"""Keys of a stage that its checkpoints cannot follow: the model would have another shape."""
FIXED = frozenset({"engine", "train_stage", "warm_start", "optimizer"})
"""Other keys that cannot change in the middle of a run."""
PLACES = frozenset({"run_root"})
"""Keys that tell where something lies, which decides no weight."""

CODE = {"tiw_fsm": slice(64), "the checkout": slice(64, None)}
"""Whose code each part of the digest is of."""


def take(
    settings: Settings, hello: Hello, warm_starts: Mapping[Stage, str], read: Digests | None = None
) -> Fingerprint:
    """The fingerprint of a run with these settings on this machine.

    Args:
        warm_starts: digests of checkpoints.
        read: of the frames; those that were not read stand by their bytes alone.

    Raises:
        UsageProblem, DiskRefused: as ``frames.sha256`` says.
    """
    data = settings.engine
    if settings.needs_frames:
        data = read.file if read else frames.sha256(Path(settings.data.path))
    return Fingerprint(
        config=_training_config(settings, warm_starts),
        data=data,
        content=read.content if read else None,
        code=(hello.own_code or code_digest()) + hello.code,
        torch=hello.torch,
        device=hello.device,
        threads=hello.threads,
        processes=hello.processes,
        sharded=hello.sharded,
        dialect=hello.dialect,
    )


def same_rows(old: Fingerprint, new: Fingerprint) -> bool:
    """Whether the digest of the content that ``old`` knows is ``new``'s too: of the same rows of the same file, and
    taken by the same code."""
    rows = ("dataset.skip", "dataset.preload_ratio")
    return (
        old.content is not None
        and (old.data, old.code) == (new.data, new.code)
        and all(old.config.get(key) == new.config.get(key) for key in rows)
    )


def digest(of: Fingerprint) -> str:
    """Tells two fingerprints apart in few letters, wherever the run lies. (``data`` stands for ``content`` too.)"""
    told = of.model_dump(mode="json", exclude={"config", "content"})
    config = {key: value for key, value in of.config.items() if key not in PLACES}
    return hashlib.sha256(json.dumps([told, config], sort_keys=True).encode()).hexdigest()[:16]


def _training_config(settings: Settings, warm_starts: Mapping[Stage, str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        f"{stage}.{key}": value
        for stage, values in settings.stages.items()
        for key, value in values.model_dump().items()
    }
    config |= {f"{stage}.chunk": size for stage, size in settings.loop.chunks.items()}
    config |= {warm_start_key(stage): sha256 for stage, sha256 in warm_starts.items()}
    config |= {
        "dataset.skip": settings.data.skip,
        "dataset.stride": settings.data.stride,
        "seed": settings.loop.seed,
        "train_stage": settings.train_stage,
        "engine": settings.engine,
        "run_root": settings.run_root,
    }
    if settings.data.preload_ratio is not None:
        config["dataset.preload_ratio"] = settings.data.preload_ratio
    return config


def changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Differences that are never taken silently, each in words: config, data, code, torch."""
    found = _config_changes(old.config, new.config)
    if old.data != new.data:
        found.append(f"the frames file: SHA-256 {old.data[:12]}… → {new.data[:12]}…")
    for what, part in CODE.items():
        before, after = old.code[part], new.code[part]
        if before != after:
            found.append(f"the code of {what}: {before[:12]}… → {after[:12]}…")
    if old.torch != new.torch:
        found.append(f"torch: {old.torch} → {new.torch}")
    return found


def warm_start_key(stage: Stage) -> str:
    """Where a fingerprint's config has the digest of the checkpoint that a stage began from."""
    return f"{stage}.warm_start"


def settings_changes(old: Fingerprint, settings: Settings, warm_starts: Mapping[Stage, str]) -> list[str]:
    """Differences in config and data alone, which need no engine to be seen; frames that are gone do not count."""
    found = _config_changes(old.config, _training_config(settings, warm_starts))
    path = Path(settings.data.path)
    if settings.needs_frames and path.is_file() and frames.sha256(path) != old.data:
        found.append(f"the frames file: {path} is not the one it was trained on")
    return found


def _config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {old.get(key, 'not set')} → {new.get(key, 'not set')}"
        for key in sorted((old.keys() | new.keys()) - PLACES)
        if old.get(key) != new.get(key)
    ]


def hardware_changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Differences after which a run may go on, but no longer bit for bit."""
    return [
        f"{name}: {getattr(old, name)} → {getattr(new, name)}"
        for name in ("device", "threads", "processes", "sharded")
        if getattr(old, name) != getattr(new, name)
    ]


def unacceptable(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Changed keys that a run in progress cannot follow."""
    return sorted(
        key
        for key in old.config.keys() | new.config.keys()
        if old.config.get(key) != new.config.get(key) and key.rpartition(".")[2] in SHAPE | FIXED
    )
