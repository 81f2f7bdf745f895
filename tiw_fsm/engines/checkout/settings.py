"""What the checkout engine needs beside the settings of all engines."""

from __future__ import annotations

from typing import Any

from tiw_fsm.values.frozen import FrozenModel, Positive


class CheckoutSettings(FrozenModel):
    """What only the checkout engine needs."""

    dataset: str
    """The name its scripts know."""
    configs: dict[str, str]
    """Its YAML files, by name."""
    chosen: dict[str, dict[str, Any]] = {}
    """What ``--set`` has in the place of what the files say, by the file whose script is told: keys, nested by dots."""
    torchrun: str | None = None
    processes: Positive = 1
    processes_typed: bool = False
    """The number was typed; else it is training.yaml's, which holds where the device allows."""
    shards: bool = False
    """FSDP instead of DDP."""
    sample_index: int | None = None
    """inference.yaml's clip, where it names one."""
