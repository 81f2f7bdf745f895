"""Flags that take the place of a key: the typed value is in force under each of its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.settings import settings_of
from tiw_fsm.config.flags import FLAGS
from tiw_fsm.config.settings import Settings
from tiw_fsm.tinyworlds.config import StageConfig

VALUES: dict[str, Any] = {
    "dataset": "frames.h5", "device": "cpu", "target_updates": 7, "init_learning_rate": 0.02, "init_grad_accum": 3,
    "init_batch_size": 2, "init_log_interval": 4, "generation_steps": 3, "context_window": 3, "prediction_horizon": 2,
    "decode_steps": 6, "preload_ratio": 0.5, "temperature": 0.7, "teacher_forced": True, "seed": 11,
    "video_chunk": 21, "latent_chunk": 22, "dynamics_chunk": 23, "max_mse": 0.5, "allow_trivial": True,
    "min_skill": 0.1, "min_delta_psnr": 1.5, "min_motion": 0.4,
    "max_train_retries": 6, "max_inference_retries": 7, "max_crashes": 8, "max_stalled_starts": 9, "retry_chunk": 31,
    "retry_init_learning_rate": 0.03, "retry_lr_decay": 0.6, "retry_lr_floor": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("flag", [flag.name for flag in FLAGS.values() if flag.overrides])
def test_a_flag_takes_effect_where_it_should(root: Path, flag: str) -> None:
    """The effective settings hold the typed value, under the names of the key it overrides."""
    changed = settings_of(root, **{flag: VALUES[flag]})
    for target in FLAGS[flag].overrides:
        assert in_force(changed, target) == VALUES[flag], target


def in_force(settings: Settings, target: str) -> Any:
    file, *keys = target.split(".")
    if file == "training" and keys[0] in StageConfig.model_fields:
        (value,) = {getattr(stage, keys[0]) for stage in settings.stages.values()}
        return value
    if file in ("training", "inference") and keys[0] in ("dataset", "device"):
        return settings.device if keys[0] == "device" else Path(settings.data.path).name
    value = settings.inference.model_dump() if file == "inference" else settings.loop.model_dump(mode="json")
    for key in keys:
        value = value[key]
    return value
