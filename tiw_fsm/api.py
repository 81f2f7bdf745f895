"""The Python API: look at a run, take its world model, walk the machine on a script. docs/python.md shows each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from tiw_fsm.config.settings import Settings
from tiw_fsm.engines.simulated import Script, SimulatedEngine, SimulatedKind
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting import history, journal, status
from tiw_fsm.reporting.advice import verdict_line
from tiw_fsm.reporting.wording import not_begun
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Session
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.storage.state_folder import runs_in
from tiw_fsm.storage.store import Store
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.values.plain import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from tiw_fsm.tinyworlds.rollout import WorldModel
    from tiw_fsm.worlds.world import World

TRIES = 20
"""A run at work removes old checkpoints: a state read a moment ago may name some that are gone."""


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
        raise UsageProblem(not_begun(name, runs_in(run.store.paths.folder.parent)))
    return run


def load(
    run: str | Path,
    *,
    repo_root: Path | str = ".",
    state_dir: Path | str | None = None,
    device: str = "cpu",
    allow_failed: bool = False,
) -> World:
    """The world of a run that has passed its inference gate, to be stepped through.

    Args:
        run: its name; or a folder that ``tiw-fsm export`` made: a ``Path``, or text with a slash in it.
        repo_root: the working root of the run.
        state_dir: where runs keep their state; ``state/`` under the working root if None.
        device: ``cpu``, ``cuda``, or ``auto``.
        allow_failed: take a world that its gate has not passed, too.

    Raises:
        UsageProblem: the run has not begun, has no models yet, or has not passed; or the folder is no whole export.
        StateDamaged: state or a checkpoint cannot be trusted.
    """
    if not isinstance(run, str | Path) or not str(run):
        raise UsageProblem(f"load({run!r}): give the name of a run, or the path of an export")
    if isinstance(run, Path) or "/" in run:
        from tiw_fsm.worlds.exported import load_export

        return load_export(Path(run), device=device, allow_failed=allow_failed)
    return open_run(run, repo_root=repo_root, state_dir=state_dir).load(device, allow_failed=allow_failed)


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


class Newest(NamedTuple):
    """A world model, with the state that names its checkpoints and the settings of that state's start."""

    state: RunState
    settings: Settings
    model: WorldModel


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
        return self.store.settings(self.state)

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
        return self.newest(device).model

    def newest(self, device: str = "cpu") -> Newest:
        """``world``, and the state that named it. What a run at work has removed meanwhile is looked for anew.

        Raises:
            UsageProblem, StateDamaged: as ``world`` says.
        """
        for last in [*[False] * TRIES, True]:
            state = self.state
            try:
                settings = self.store.settings(state)
                model = _world_of(state, settings, device)
            except (StateDamaged, FileNotFoundError):
                if last or self.state.generation == state.generation:
                    raise
                continue
            if last or self.state.named_checkpoints() == state.named_checkpoints():
                break
        return Newest(state, settings, model)

    def load(self, device: str = "cpu", *, allow_failed: bool = False) -> World:
        """As ``tiw_fsm.load`` of this run."""
        self.require_world(None if allow_failed else "allow_failed=True loads it all the same")
        return self.newest_world(device)[2]

    def newest_world(self, device: str = "cpu") -> tuple[RunState, Settings, World]:
        """What ``load`` gives, whatever the gate said, and the state and the settings that it is of.

        Raises:
            UsageProblem, StateDamaged: as ``newest`` says.
        """
        from tiw_fsm.tinyworlds import determinism
        from tiw_fsm.worlds import held_out
        from tiw_fsm.worlds.devices import device_called
        from tiw_fsm.worlds.world import World

        place = device_called(device)
        state, settings, model = self.newest(str(place))
        if place.type == "cuda":
            determinism.allow_tf32(settings.inference.tf32)
        (size,) = {stage.frame_size for stage in settings.stages.values()}
        starts, keys, lacking = None, {}, ""
        try:
            data = held_out.frame_data(settings, place)
        except UsageProblem as exc:
            lacking = str(exc)
        else:
            starts = held_out.starts(data, settings.inference)
            keys = held_out.key_actions(model, data, settings.inference)
        said = gate_said(state)
        world = World(model, settings.inference, size, starts, keys=keys, verdict=said, lacking=lacking)
        return state, settings, world

    def require_world(self, remedy: str | None) -> None:
        """Raise UsageProblem if the run has no world to give away: it was simulated, or its gate has not passed it.

        Args:
            remedy: what to do about a gate that has not passed it; None takes such a world, too.
        """
        state = self.state
        if self.store.settings(state).engine == SimulatedKind.name:
            raise UsageProblem(
                f"run {state.run!r} was simulated and has no model: begin one with `tiw-fsm run --engine native`"
            )
        if remedy is not None and state.outcome != "passed":
            judged = state.inference.attempts
            said = f"{verdict_line(judged[-1].model_dump())}." if judged else gate_said(state)
            raise UsageProblem(f"run {state.run!r} has not passed its inference gate; {remedy}. {said}")

    def held_out_clips(self, count: int | None = None, device: str = "cpu") -> Tensor:
        """True clips that training never saw, [B, F, C, H, W] in [-1, 1]: the context and all that a rollout generates.

        Args:
            count: how many; as many as the gate judges, and the very same, if None.
        """
        import torch

        from tiw_fsm.tinyworlds.clips import FrameData

        state = self.state
        settings = self.store.settings(state)
        data = FrameData(settings.data, torch.device(device))
        return data.evaluation_clips(settings.inference, count or state.loop.inference.clips)


def _world_of(state: RunState, settings: Settings, device: str) -> WorldModel:
    from tiw_fsm.tinyworlds.rollout import load_world

    refs = {stage: progress.checkpoint for stage, progress in state.stages.items() if progress.checkpoint}
    if missing := [stage.value for stage in Stage if stage not in refs]:
        raise UsageProblem(f"{', '.join(missing)}: no checkpoint yet; let the run go on until it has one of each")
    folders = {stage: checkpoint_checks.verified(ref) for stage, ref in refs.items()}
    return load_world(folders, settings.stages, device)


def gate_said(state: RunState) -> str:
    """What the inference gate said, and of which checkpoint."""
    if not state.inference.attempts:
        return f"The inference gate has not judged it yet; the run is in {state.state}."
    attempt = state.inference.attempts[-1]
    mse = "no MSE" if attempt.mse is None else f"MSE {attempt.mse:.4f}, at most {attempt.max_mse:g} wanted"
    said = f"Inference gate, attempt {attempt.number}: {'passed' if attempt.passed else 'not passed'} ({mse})."
    if attempt.updates != state.stages[Stage.DYNAMICS].completed:
        said += f" It judged the dynamics after {attempt.updates} updates, not these."
    return said


class _Scripted(SimulatedKind):
    """The simulated engine with a script."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def make(self, settings: Settings, paths: StatePaths) -> SimulatedEngine:
        return SimulatedEngine(self.script)


def _state_dir(repo_root: Path | str, state_dir: Path | str | None) -> Path:
    return (Path(state_dir) if state_dir is not None else Path(repo_root) / "state").resolve()
