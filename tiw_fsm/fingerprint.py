"""What decides the weights bit for bit, and what a difference in it means."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tiw_fsm import __version__, frames
from tiw_fsm.config import Settings, StageConfig
from tiw_fsm.engines.protocol import Hello
from tiw_fsm.run_state import Fingerprint

ACCEPTABLE = frozenset(
    {"n_updates", "learning_rate", "gradient_accumulation_steps", "batch_size_per_gpu", "log_interval"}
)
"""Keys of a stage that may change in the middle of a run; the others are the model's own shape or its data."""


def take(settings: Settings, hello: Hello) -> Fingerprint:
    """The fingerprint of a run with these settings on this machine."""
    return Fingerprint(
        config=_training_config(settings),
        data=frames.sha256(Path(settings.data.path)) if settings.engine != "simulated" else "simulated",
        code=code_digest(),
        torch=hello.torch,
        device=hello.device,
        threads=hello.threads,
    )


def code_digest() -> str:
    """Digest of the package version and of the code that computes: models, data, training, rollout."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted((Path(__file__).parent / "tinyworlds").glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _training_config(settings: Settings) -> dict[str, Any]:
    config: dict[str, Any] = {
        f"{stage}.{key}": value
        for stage, values in settings.stages.items()
        for key, value in values.model_dump().items()
    }
    config |= {f"{stage}.chunk": size for stage, size in settings.loop.chunks.items()}
    config |= {f"{stage}.warm_start": path for stage, path in settings.warm_starts.items()}
    config |= {
        "dataset.skip": settings.data.skip,
        "dataset.stride": settings.data.stride,
        "seed": settings.loop.seed,
        "train_stage": settings.train_stage,
        "engine": settings.engine,
    }
    if settings.data.preload_ratio is not None:
        config["dataset.preload_ratio"] = settings.data.preload_ratio
    return config


def changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Differences that are never taken silently, each in words: config, data, code, torch."""
    keys = sorted(old.config.keys() | new.config.keys())
    found = [
        f"{key}: {old.config.get(key, 'not set')} → {new.config.get(key, 'not set')}"
        for key in keys
        if old.config.get(key) != new.config.get(key)
    ]
    if old.data != new.data:
        found.append(f"the frames file: SHA-256 {old.data[:12]}… → {new.data[:12]}…")
    if old.code != new.code:
        found.append(f"the code of tiw_fsm: {old.code[:12]}… → {new.code[:12]}…")
    if old.torch != new.torch:
        found.append(f"torch: {old.torch} → {new.torch}")
    return found


def hardware_changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Differences after which a run may go on, but no longer bit for bit."""
    return [
        f"{name}: {getattr(old, name)} → {getattr(new, name)}"
        for name in ("device", "threads", "processes")
        if getattr(old, name) != getattr(new, name)
    ]


def unacceptable(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Changed keys of a stage that its checkpoints cannot follow: the model would have another shape."""
    return sorted(
        key
        for key in old.config.keys() & new.config.keys()
        if old.config[key] != new.config[key]
        and (key in ("engine", "train_stage") or key.partition(".")[2] in StageConfig.model_fields.keys() - ACCEPTABLE)
    )
