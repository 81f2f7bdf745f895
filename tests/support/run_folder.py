"""What a run in a root has left: its state, its journal, its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.storage.store import Store


class RunFolder:
    """A run in a working root, looked at from outside."""

    def __init__(self, root: Path, run: str = "default") -> None:
        self.root = root
        self.store = Store(root / "state" / run)

    @property
    def state(self) -> RunState:
        found = self.store.load()
        assert found is not None
        return found

    def journal(self, event: str) -> list[dict[str, Any]]:
        """The facts of every such event."""
        return [line["facts"] for line in self.store.journal() if line["event"] == event]

    def events(self) -> list[str]:
        return [line["event"] for line in self.store.journal()]

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """The rows of a stage's metrics."""
        path = self.root / "results/default" / stage / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]
