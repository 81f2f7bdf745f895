"""One start of a run: all that the loop and the activities work with, as one thing that can be opened from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from structlog.typing import FilteringBoundLogger

from tiw_fsm.config import chosen
from tiw_fsm.config.flags import to_remember
from tiw_fsm.config.settings import Settings, load_settings
from tiw_fsm.engines import registry
from tiw_fsm.engines.protocol import Engine, EngineKind, Hello
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.run.ahead import FrameReading
from tiw_fsm.run.concealment import concealed
from tiw_fsm.run.display import Display
from tiw_fsm.run.log import make_log
from tiw_fsm.stages import Stage
from tiw_fsm.storage import run_root
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.storage.store import Store
from tiw_fsm.system.append_log import AppendLog


@dataclass
class Session:
    """One start of a run. Open it inside ``store.hold()``.

    Attributes:
        before: the state to go on from; None for a run that never began.
        flags: those typed now and at earlier starts.
        on_commit: called after each commit; must not raise.
    """

    store: Store
    before: RunState | None
    settings: Settings
    flags: Mapping[str, Any]
    kind: EngineKind
    console: Console
    log: FilteringBoundLogger
    accept_changes: bool = False
    require_exact: bool = False
    on_commit: Callable[[], None] = lambda: None

    @classmethod
    def open(
        cls,
        store: Store,
        typed: Mapping[str, Any],
        *,
        repo_root: Path,
        console: Console,
        kind: EngineKind | None = None,
        accept_changes: bool = False,
        require_exact: bool = False,
    ) -> Self:
        """Load the state, merge the flags, read the configs.

        Args:
            typed: flags by name; they win over those saved at earlier starts, and all of them over the YAML files.
            kind: an engine of your own in the place of the one that the flags name.

        Raises:
            StateDamaged: neither generation of the state can be trusted.
            UsageProblem: flags or configs cannot be used; nothing was changed.
        """
        before, damage = store.resume()
        flags, kind, settings = configured(store, before, typed, repo_root, kind)
        log = make_log(console, store.paths.log)
        for what in damage:
            log.warning(f"{what} Going on from the generation before.")
        before = concealed(store, before, settings.repo_root, log)
        return cls(store, before, settings, flags, kind, console, log, accept_changes, require_exact)

    @property
    def command(self) -> str | None:
        """What shall be run when the run has ended."""
        command = self.settings.loop.on_finish
        return command.get_secret_value() if command else None

    @property
    def paths(self) -> RunPaths:
        """Where the run's artifacts go."""
        return RunPaths(Path(self.settings.run_root), Path(self.settings.repo_root))


def configured(
    store: Store, before: RunState | None, typed: Mapping[str, Any], repo_root: Path, kind: EngineKind | None = None
) -> tuple[dict[str, Any], EngineKind, Settings]:
    """The flags in force, typed ones over those saved with ``before``; the engine they name, unless it is given as
    ``kind``; and the settings they make of the YAML files.

    Raises:
        UsageProblem: flags or configs cannot be used.
    """
    flags = to_remember(chosen.merged(before.flags if before else {}, typed), repo_root)
    kind = kind or registry.find(flags.get("engine", "native"))
    name = store.paths.folder.name
    return flags, kind, load_settings(flags, run=name, repo_root=repo_root, engine=kind, typed=typed.keys())


@dataclass
class Context:
    """A session whose engine is ready: what activities work with."""

    session: Session
    engine: Engine
    hello: Hello
    display: Display
    holding: ExitStack
    """What is held until the start ends."""
    stopping: Callable[[], bool] = lambda: False
    """Whether the run was asked to stop."""
    reading: FrameReading | None = None
    """Of the frames, where it began early."""
    metrics: dict[Stage, AppendLog] = field(init=False)
    """Each stage's metrics file."""

    def __post_init__(self) -> None:
        self.metrics = {stage: AppendLog(self.paths.metrics(stage)) for stage in Stage}

    def claim_run_root(self, run: RunState) -> None:
        """Hold the run root for ``run``, before anything is changed in it.

        Raises:
            UsageProblem, RunHeld, DiskRefused: as ``run_root.claimed``.
        """
        self.holding.enter_context(run_root.claimed(self.paths, run.run_id, self.store.paths.folder))

    @property
    def settings(self) -> Settings:
        return self.session.settings

    @property
    def store(self) -> Store:
        return self.session.store

    @property
    def paths(self) -> RunPaths:
        return self.session.paths

    @property
    def log(self) -> FilteringBoundLogger:
        return self.session.log
