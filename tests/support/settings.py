"""The effective settings of a working root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiw_fsm.config.settings import Settings, load_settings
from tiw_fsm.engines import registry


def settings_of(root: Path, **flags: Any) -> Settings:
    """What the run ``default`` there would run with, by flags of the command line."""
    kind = registry.find(flags.get("engine", "native"))
    return load_settings(flags, run="default", repo_root=root, engine=kind)
