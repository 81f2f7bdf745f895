"""TinyWorlds' newer keys, of optimizer and experts: who takes them, what they come to, and when they leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import LENIENT, write_configs
from tests.support.settings import settings_of
from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.config import StageConfig

STOCK = {
    "optimizer": "adamw", "muon_momentum": 0.95, "muon_backend_steps": 5,
    "use_moe": False, "num_experts": 4, "top_k_experts": 2, "moe_aux_loss_coeff": 0.01,
}  # fmt: skip
"""As TinyWorlds' training.yaml has them."""


def stages(root: Path, **changes: Any) -> dict[Stage, StageConfig]:
    write_configs(root / "configs", {"loop": LENIENT, **changes})
    return settings_of(root).stages


@pytest.mark.parametrize("idle", [{}, {"muon_momentum": 0.5, "num_experts": 1, "moe_aux_loss_coeff": 0.0}])
def test_keys_without_effect_leave_no_trace(root: Path, idle: dict[str, Any]) -> None:
    """A run that was begun before they were known has the config that it always had."""
    before = {stage: config.model_dump_json() for stage, config in stages(root).items()}
    now = {stage: config.model_dump_json() for stage, config in stages(root, training=STOCK | idle).items()}
    assert now == before
    assert not any(key in text for key in STOCK for text in now.values())


def test_the_optimizer_is_every_stages_and_the_experts_are_the_dynamics(root: Path) -> None:
    found = stages(root, training={"optimizer": "muon", "use_moe": True, "num_experts": 3})
    assert {config.optimizer for config in found.values()} == {"muon"}
    assert [config.use_moe for config in found.values()] == [False, False, True]
    saved = found[Stage.DYNAMICS].model_dump()
    assert {key: saved[key] for key in STOCK} == STOCK | {"optimizer": "muon", "use_moe": True, "num_experts": 3}


def test_a_stages_own_file_may_say_them_too(root: Path) -> None:
    found = stages(root, dynamics={"use_moe": True, "optimizer": "muon"})
    assert [config.optimizer for config in found.values()] == ["adamw", "adamw", "muon"]
    assert found[Stage.DYNAMICS].use_moe
