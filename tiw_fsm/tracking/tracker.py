"""What a tracker is to the feeding of it, and which there are."""

from __future__ import annotations

import netrc
import os
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tiw_fsm.config.settings import Settings
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.system.needs import installed
from tiw_fsm.tracking.items import Item
from tiw_fsm.values.plain import JsonObject

MODULES = {
    "wandb": "tiw_fsm.tracking.wandb_tracker",
    "tensorboard": "tiw_fsm.tracking.tensorboard_tracker",
}
"""Of each tracker that loop.yaml can name, by its name; it has a class ``Feeder``."""
WITHOUT_KEY = "it has no key: set WANDB_API_KEY or run `wandb login`, or set WANDB_MODE=offline"
OFFLINE = ("offline", "dryrun")


class Shown(NamedTuple):
    """The run that a tracker is to show."""

    run: str
    run_id: str
    paths: RunPaths
    project: str
    config: JsonObject
    """Of its effective configuration what is of interest beside curves."""


class Tracker(ABC):
    """A tracker that is open for a run. Its own record says what it has."""

    @abstractmethod
    def add(self, item: Item) -> None:
        """Take the stream's next item, be it one that it has or one that it lacks. Raises what it likes."""

    @abstractmethod
    def flush(self) -> None:
        """Let what was added be seen. Raises what it likes."""

    @abstractmethod
    def close(self) -> None:
        """Come to an end with all that was added. Raises what it likes."""


def opened(name: str, shown: Shown) -> Tracker:
    """The tracker of this name, which finds out what it has. Raises what it likes."""
    tracker: Tracker = import_module(MODULES[name]).Feeder(shown)
    return tracker


def wanted(settings: Settings) -> tuple[list[str], list[str]]:
    """The trackers that a run feeds, and a sentence on each that its TinyWorlds files ask for in vain."""
    named: list[str] = list(dict.fromkeys(settings.loop.trackers))
    notes = []
    if settings.use_wandb and "wandb" not in named:
        if not installed("wandb"):
            notes = ["use_wandb is true, and wandb is not installed: pip install 'tiw_fsm[wandb]'; the run goes on"]
        elif not wandb_can_log():
            notes = [f"use_wandb is true, and wandb is not fed, for {WITHOUT_KEY}; the run goes on"]
        elif os.environ.get("WANDB_MODE") != "disabled":
            named.append("wandb")
    return named, notes


def wandb_can_log() -> bool:
    """Whether W&B has a key, or needs none since it is offline, or off."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in (*OFFLINE, "disabled"):
        return True
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in map(os.path.expanduser, files):
        try:
            host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
            if Path(path).is_file() and netrc.netrc(path).authenticators(host):
                return True
        except (OSError, ValueError, netrc.NetrcParseError):  # a file, or an address, that says nothing
            continue
    return False
