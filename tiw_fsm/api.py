"""The Python API: look at a run, take its world model, walk the machine on a script. docs/python.md shows each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tiw_fsm.config.settings import Settings
from tiw_fsm.engines.simulated import Script, SimulatedEngine, SimulatedKind
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting import history, journal, status
from tiw_fsm.reporting.wording import not_begun
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Session, saved_settings
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.storage.store import Store
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.values.plain import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from tiw_fsm.tinyworlds.rollout import WorldModel


def open_run(name: str = "default", *, repo_root: Path | str = ".", state_dir: Path | str | None = None) -> Run:
    """The run called ``name``, to be looked at. Nothing is locked or changed; a run at work goes on.

    Args:
        repo_root: the working root.
        state_dir: where runs keep their state; ``state/`` under the working root if None.

    Raises:
        UsageProblem: it has not begun.
        StateDamaged: its state cannot be trusted, or a newer version wrote it.
    """
    run = Run(Store(_state_dir(repo_root, state_dir) / name))
    if run.store.load() is None:
        raise UsageProblem(not_begun(name))
    return run


def simulate(
    script: Script,
    name: str = "simulated",
    *,
    repo_root: Path | str = ".",
    state_dir: Path | str | None = None,
    **flags: Any,
) -> Run:
    """Start, or resume, a run on the simulated engine, and go on until it ends: what would happen if …?

    Losses, MSE, crashes and out-of-memory come from ``script``; gates, ladders, budgets and reports are the real ones.

    Args:
        flags: those of ``tiw-fsm run``, by their names with underscores.

    Raises:
        UsageProblem: the configs or flags cannot be used.
        RunHeld: another process is running this run.
    """
    store = Store(_state_dir(repo_root, state_dir) / name)
    with store.hold():
        typed = {"engine": SimulatedKind.name, **flags}
        kind = _Scripted(script)
        console = Console(quiet=True)
        Controller(Session.open(store, typed, repo_root=Path(repo_root), console=console, kind=kind)).run()
    return Run(store)


class Run:
    """One run, as its state folder tells of it. Every look reads it anew."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def state(self) -> RunState:
        """Everything the run knows of itself.

        Raises:
            StateDamaged: it is gone, or cannot be trusted.
        """
        state = self.store.load()
        if state is None:
            raise StateDamaged(f"the state of run {self.store.paths.folder.name!r} is gone")
        return state

    def status(self) -> JsonObject:
        """What ``tiw-fsm status --json`` prints."""
        return status.status(self.store)

    def history(self) -> list[JsonObject]:
        """What ``tiw-fsm history --json`` prints: every step, oldest first."""
        return list(history.entries(self.store.lines()))

    def gates(self, stage: Stage | str | None = None) -> list[JsonObject]:
        """The facts of every stage gate, oldest first; of one stage or of all."""
        return journal.chunk_gates(self.store.lines(), None if stage is None else Stage(stage))

    def verdicts(self) -> list[Attempt]:
        """Every judged inference attempt, oldest first."""
        return journal.attempts(self.store.lines())

    @property
    def settings(self) -> Settings:
        """The effective configuration of its last start.

        Raises:
            StateDamaged: it is gone, or not as that start left it.
        """
        return saved_settings(self.store, self.state)

    @property
    def inference(self) -> InferenceConfig:
        """What its inference gate rolls out with."""
        return self.settings.inference

    def world(self, device: str = "cpu") -> WorldModel:
        """The world model its state names, loaded without executing anything in the files.

        Raises:
            UsageProblem: not all stages have a checkpoint yet.
            StateDamaged: a checkpoint is not what the state vouches for.
        """
        from tiw_fsm.tinyworlds.rollout import load_world

        refs = {stage: progress.checkpoint for stage, progress in self.state.stages.items() if progress.checkpoint}
        if missing := [stage.value for stage in Stage if stage not in refs]:
            raise UsageProblem(f"{', '.join(missing)}: no checkpoint yet; let the run go on until it has one of each")
        folders = {stage: checkpoints.verified(ref) for stage, ref in refs.items()}
        return load_world(folders, self.settings.stages, device)

    def held_out_clips(self, count: int | None = None, device: str = "cpu") -> Tensor:
        """True clips that training never saw, [B, F, C, H, W] in [-1, 1]: the context and all that a rollout generates.

        Args:
            count: how many; as many as the gate judges, and the very same, if None.
        """
        import torch

        from tiw_fsm.tinyworlds.clips import FrameData

        settings = self.settings
        data = FrameData(settings.data, torch.device(device))
        return data.evaluation_clips(settings.inference, count or self.state.loop.inference.clips)


class _Scripted(SimulatedKind):
    """The simulated engine with a script."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def make(self, settings: Settings, paths: StatePaths) -> SimulatedEngine:
        return SimulatedEngine(self.script)


def _state_dir(repo_root: Path | str, state_dir: Path | str | None) -> Path:
    return (Path(state_dir) if state_dir is not None else Path(repo_root) / "state").resolve()
