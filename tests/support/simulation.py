"""Runs on the simulated engine, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from tests.support.run_folder import RunFolder
from tiw_fsm.config.settings import Settings
from tiw_fsm.engines.protocol import Engine
from tiw_fsm.engines.simulated import Script, SimulatedEngine, SimulatedKind
from tiw_fsm.errors import ExitCode
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Session
from tiw_fsm.storage.paths import StatePaths


class Given(SimulatedKind):
    """The simulated engine, as one that is there already."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        return self.engine


class Simulation(RunFolder):
    """Runs on the simulated engine, in this process."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.engine = SimulatedEngine()

    def run(self, script: Script | None = None, **flags: Any) -> ExitCode:
        """One start. Flags are those of the command line."""
        self.engine = SimulatedEngine(script)
        return self.run_with(self.engine, **flags)

    def run_with(self, engine: SimulatedEngine, *, accept_changes: bool = False, **typed: Any) -> ExitCode:
        return self.run_as(Given(engine), accept_changes=accept_changes, **typed)

    def run_as(self, kind: SimulatedKind, *, accept_changes: bool = False, **typed: Any) -> ExitCode:
        with self.store.hold():
            session = Session.open(
                self.store,
                {"engine": "simulated", **typed},
                repo_root=self.root,
                console=Console(quiet=True),
                kind=kind,
                accept_changes=accept_changes,
            )
            return Controller(session).run()
