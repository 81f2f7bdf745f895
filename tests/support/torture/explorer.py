"""Walks every state a small run can reach, on the real controller, the real store and real files.

A node is what a process finds on the disk after a commit; an edge is what happens until the next one: an outcome of
the state's work, a death at any commit, a stop, a checkpoint that rots, each followed by a start where one is needed.
Nodes that can only behave alike are merged (``Key`` says what decides); every edge is audited by its real files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import structlog
import torch
from rich.console import Console

from tests.support.configs import write_configs
from tiw_fsm.config.settings import Settings, load_settings
from tiw_fsm.data import pictures
from tiw_fsm.engines.protocol import Engine, InferRequest, Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import Script, SimulatedEngine, SimulatedKind
from tiw_fsm.errors import ExitCode, Interrupted
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.fsm.machine import Machine
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, TRAINING, State
from tiw_fsm.reporting.html import loss
from tiw_fsm.run import controller, fingerprint
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Context, Session
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.storage.store import Store, fold
from tiw_fsm.values.frozen import CheckpointRef

Files = dict[str, bytes]
Line = dict[str, Any]


class Violation(AssertionError):
    """The run broke a promise."""


def require(holds: object, promise: str) -> None:
    if not holds:
        raise Violation(promise)


# --- what can happen --------------------------------------------------------------------------------------------


UNTROUBLED = Script()


@dataclass(frozen=True)
class Happening:
    """What the engine meets with while it does one piece of work."""

    script: Script = UNTROUBLED
    stop: bool = False
    """SIGTERM arrives before the first update."""
    updates: int | None = None
    """The work is saved after so many updates, as when SIGTERM arrives in the middle."""
    picture: bool = True
    result: Mapping[str, Any] = field(default_factory=dict)
    """What an inference result says instead."""


def _each(value: Any) -> dict[Stage, Any]:
    return dict.fromkeys(Stage, value)


TRAINED = {
    "bad loss": Happening(Script(losses=_each([9.0]))),
    "no picture": Happening(picture=False),
    "loss not finite": Happening(Script(losses=_each([None]))),
    "out of memory": Happening(Script(out_of_memory=_each(1))),
    "crash": Happening(Script(crashes=_each(1))),
    "killed": Happening(Script(killed=_each(1))),
    "stopped": Happening(stop=True),
    "cut short": Happening(updates=1),
    "good": Happening(),
}
ONLY_AT_THE_END = {"bad loss", "no picture"}
"""They count by the chunk's last update alone, so they are tried only where that is in hand."""
INFERRED = {
    "mse too high": Happening(Script(mse=[0.5])),
    "one action": Happening(Script(mse=[0.04], unique_actions=[1])),
    "no better than a copy": Happening(Script(mse=[0.02], baselines={"copy_last": 0.01, "mean_frame": 0.04})),
    "error": Happening(result={"status": "error", "error": "scripted"}),
    "other checkpoints": Happening(result={"checkpoints": {}}),
    "no picture": Happening(picture=False),
    "crash": Happening(Script(inference_crashes=1)),
    "stopped": Happening(stop=True),
    "good": Happening(),
}
NOTHING, STOP = "nothing", "stop"
"""No engine is asked; SIGTERM arrives between two pieces of work."""
ROTTEN = b"rotten"
PLAYED = "played"
"""Among the statistics of an inference result: the number of what happened in it."""
INTERRUPTED = ", starts"
"""How the name of a mere interruption ends."""


def happenings(run: RunState | None) -> list[str]:
    """What can happen in the work that comes next."""
    if run is None or run.stalled_starts > run.loop.budgets.max_stalled_starts:
        return [NOTHING]
    if run.state is State.INFER:
        return list(INFERRED)
    if run.stage and (end := run.chunk_end(run.stage)) > (done := run.progress().completed):
        stop_at = min(end, (done // run.loop.checkpoint_interval + 1) * run.loop.checkpoint_interval)
        left_out = (ONLY_AT_THE_END if stop_at < end else set()) | ({"cut short"} if stop_at - done == 1 else set())
        return [name for name in TRAINED if name not in left_out]
    return [NOTHING]


class PlayedEngine(SimulatedEngine):
    """The simulated engine, playing named happenings one by one."""

    def __init__(self, names: Iterator[str]) -> None:
        super().__init__()
        self.names = names

    def _next(self, known: Mapping[str, Happening]) -> tuple[str, Happening]:
        name = next(self.names)
        name = name if name in known else "good"
        now = known[name]
        self.script = now.script
        self.calls.clear()
        if now.stop:
            signal.raise_signal(signal.SIGTERM)
        return name, now

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        _, now = self._next(TRAINED)
        if now.updates and request.start + now.updates < request.stop_at:
            request = request.evolve(stop_at=request.start + now.updates, picture=None)
        result = super().train(request, progress)
        if request.picture and not now.picture:
            Path(request.picture).unlink()
        return result

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        name, now = self._next(INFERRED)
        result = super().infer(request, progress)
        if not now.picture:
            Path(request.picture).unlink()
        statistics = result.statistics | {PLAYED: float(list(INFERRED).index(name))}
        return result.evolve(**{**now.result, "statistics": statistics})


def played(result: bytes) -> str:
    """What happened in the inference that left this result file."""
    return list(INFERRED)[int(json.loads(result)["statistics"][PLAYED])]


class PlayedKind(SimulatedKind):
    """It plays what the ``names`` of a process say."""

    def __init__(self, names: Iterator[str]) -> None:
        self.names = names

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        return PlayedEngine(self.names)


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


@contextmanager
def death_in_the_commit(survived: int = 0) -> Iterator[None]:
    """The process dies in a commit, when all is written and only state.json is not yet the new one."""
    replace, left = os.replace, iter(range(survived))

    def replace_or_die(source: Any, target: Any, **where: Any) -> None:
        if Path(target).name == "state.json" and next(left, None) is None:
            raise Killed
        replace(source, target, **where)

    with patch.object(os, "replace", replace_or_die):
        yield


class Process(Controller):
    """One life of a runner."""

    goes_on = False
    """It has made the commit that is on the disk, and is still alive: it does not start again."""
    stop = False

    def begin(self, context: Context) -> RunState:
        if self.stop:
            signal.raise_signal(signal.SIGTERM)
        before = self.committed
        if before is None or not self.goes_on:
            return super().begin(context)
        previous = self.session.store.previous()
        self.kept = before.named_checkpoints() | (previous.named_checkpoints() if previous else set())
        return before


# --- where it happens -------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """How small a run is."""

    retries: int
    crashes: int
    retunes: int
    starts: int
    updates: tuple[int, int, int]
    """Target of each stage."""
    chunk: int
    """Updates in a chunk, also in the retry chunk."""
    interval: int
    """Updates between two checkpoints."""
    policy: str = "dynamics"
    rots: int = 0
    """How many checkpoints may rot. The machine has no budget for a disk that forgets."""
    train_stage: str = "all"
    """The others are given."""

    @property
    def configs(self) -> dict[str, Any]:
        stages = {
            stage.value: {"n_updates": updates, "log_interval": self.chunk}
            for stage, updates in zip(Stage, self.updates, strict=True)
        }
        budgets = {
            "max_train_retries": self.retries,
            "max_crashes": self.crashes,
            "max_inference_retries": self.retunes,
            "max_stalled_starts": self.starts,
        }
        chunks = {stage.value: self.chunk for stage in Stage}
        loop = {
            "budgets": budgets,
            "chunks": chunks,
            "checkpoint_interval": self.interval,
            "retune": {"chunk": self.chunk},
            "retune_policy": self.policy,
        }
        return {**stages, "loop": loop}


def give_checkpoint(within: Path, stage: Stage) -> Path:
    """Another run's checkpoint, of the least that passes for one."""
    folder = within / checkpoints.folder_name(stage, completed=10)
    folder.mkdir(parents=True)
    for name in checkpoints.FILES:
        torch.save({"weight": torch.zeros(500)}, folder / name)
    checkpoints.write_manifest(folder, stage, completed=10, owner="another run")
    return folder


class World:
    """A folder in memory with one run in it, and processes that work on it."""

    def __init__(self, root: Path, size: Size) -> None:
        self.root = root
        write_configs(root / "configs", size.configs)
        self.flags = {"engine": "simulated", "train_stage": size.train_stage}
        for stage, spec in STAGES.items():
            if size.train_stage not in ("all", stage):
                self.flags[spec.checkpoint_flag] = str(give_checkpoint(root / "given", stage))
        self.settings = load_settings(self.flags, run="run", repo_root=root, engine=SimulatedKind())
        self.paths = RunPaths(Path(self.settings.run_root), root)
        self.store = Store(root / "state" / "run")
        self.console = Console(quiet=True)
        self.log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))

    def live(
        self,
        names: Iterator[str],
        witness: Callable[[RunState | None, RunState], None],
        *,
        goes_on: bool = False,
        stop: bool = False,
    ) -> ExitCode | None:
        """One life of a process; None if it was killed or stopped.

        It tells ``witness`` of each commit, once all that belongs to it is done.
        """
        self.store = Store(self.store.paths.folder)
        with self.store.hold():
            before = self.store.resume()[0]
            session = Session(self.store, before, self.settings, self.flags, PlayedKind(names), self.console, self.log)
            process = Process(session)
            process.goes_on, process.stop = goes_on, stop

            def tell() -> None:
                nonlocal before
                before, earlier = process.committed, before
                assert before is not None
                witness(earlier, before)

            session.on_commit = tell
            try:
                return process.run()
            except (Killed, Interrupted):
                return None

    def perishable(self, run: RunState) -> Path | None:
        """What may rot: a checkpoint that no gate has accepted, or a result that no gate has judged."""
        if run.state is State.GATE and run.inference.pending:
            return Path(run.inference.pending.path)
        if run.stage and (ref := run.progress().checkpoint) and ref != run.progress().accepted:
            return Path(ref.path) / checkpoints.MODEL
        return None

    def capture(self) -> Files:
        """Every file a process could find."""
        found = {}
        for top in ("state", "results"):
            for folder, _, names in os.walk(self.root / top):
                for name in names:
                    path = os.path.join(folder, name)
                    with open(path, "rb") as file:
                        found[path] = file.read()
        return found

    def restore(self, files: Files) -> None:
        """Exactly these files, and no others."""
        for top in ("state", "results", "inference_results"):
            shutil.rmtree(self.root / top, ignore_errors=True)
        for folder in {os.path.dirname(path) for path in files}:
            os.makedirs(folder, exist_ok=True)
        for path, content in files.items():
            with open(path, "wb") as file:
                file.write(content)


@contextmanager
def world(size: Size, fallback: Path) -> Iterator[World]:
    """A world in memory.

    For speed, nothing is synced (that it is where it must be is shown by other tests), pictures are one ready-made
    drawing, and processes share what each would make anew and alike: the digest of the code, and the machine, which
    holds nothing from one step to the next. None of it changes what a process finds or does.
    """
    drawn = fallback / "drawn.png"
    pictures.draw_strips(drawn, "played", [("frames", np.zeros((1, 4, 4, 3), np.uint8))])
    ready = drawn.read_bytes()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        stack.enter_context(patch.object(os, "fsync", lambda descriptor: None))
        stack.enter_context(patch.object(loss, "figure", lambda *arguments: None))
        stack.enter_context(patch.object(pictures, "draw_strips", lambda path, *_: path.write_bytes(ready)))
        stack.enter_context(patch.object(fingerprint, "code_digest", cache(fingerprint.code_digest)))
        stack.enter_context(patch.object(controller, "Machine", cache(Machine)))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory or fallback)))
        yield World(root, size)


# --- what must hold ---------------------------------------------------------------------------------------------

BUDGETS = {
    "rejected": "max_train_retries",
    "crashed": "max_crashes",
    "killed": "max_crashes",
    "out_of_memory": "max_crashes",
    "gate_failed": "max_inference_retries",
    "started": "max_stalled_starts",
}
"""What each event uses up."""
OF_THE_WHOLE_RUN = {"max_inference_retries", "max_stalled_starts"}
"""The other budgets are each state's own."""


class Recount:
    """What the run has used of its budgets, counted from the events of its journal alone.

    Adding a line fails if the run went on with a budget overdrawn, or ended for one that was not.
    """

    def __init__(self, budgets: Mapping[str, int], lines: list[Line]) -> None:
        self.budgets = budgets
        self.used: Counter[tuple[str, str]] = Counter()
        self.accepted: dict[str, str] = {}
        self.attempts = self.starts = 0
        self._before_saved: Counter[str] = Counter()
        for line in lines:
            self._add(line)

    def of(self, budget: str, state: State | str = "") -> int:
        return self.used[budget, "" if budget in OF_THE_WHOLE_RUN else str(state)]

    def _add(self, line: Line) -> None:
        event, here, there = line["event"], line["from"], line["to"]
        if event not in ("started", "stalled") and here != State.REPORT:
            require(self.of("max_stalled_starts") <= self.budgets["max_stalled_starts"], "it went on although stalled")
        budget = "max_stalled_starts" if event == "stalled" else BUDGETS.get(event)
        if event in BUDGETS:
            self.used[str(budget), "" if budget in OF_THE_WHOLE_RUN else here] += 1
        if budget and event != "started":
            overdrawn = self.of(budget, here) > self.budgets[budget]
            require((there == State.REPORT) == overdrawn, f"{budget} is not exact: {self.of(budget, here)} by {event}")
            require(line["changes"].get("budget_used") == (budget if overdrawn else None), "the wrong budget is blamed")
        elif here != State.REPORT:
            require(there != State.REPORT or event == "gate_passed", f"{event} ended the run")
        self._clear(line)

    def _clear(self, line: Line) -> None:
        event, here, there = line["event"], line["from"], line["to"]
        if event == "started":
            self.starts += 1
            gone_back = line["changes"].get("stages", {}).values()
            if any("crashes" in change for change in gone_back):  # the checkpoint is gone that had cleared them
                self.used["max_crashes", here] = self._before_saved[here]
        if event == "saved":
            self._before_saved[here] = self.of("max_crashes", here)
            self.used["max_crashes", here] = self.used["max_stalled_starts", ""] = 0
        if event == "aligned":
            self.accepted |= line["facts"]["warm_starts"]
        if event == "accepted":
            self.used["max_train_retries", here] = 0
            self.accepted[line["facts"]["stage"]] = line["facts"]["checkpoint"]
        if there != here:
            self.used["max_stalled_starts", ""] = 0
            if there == State.INFER and event != "result_lost":
                self.used["max_crashes", there] = 0
                self.attempts += 1


def audit(before: RunState | None, after: RunState, store: Store, spoiled: frozenset[Path] = frozenset()) -> None:
    """Hold a commit against everything that must hold after it. ``spoiled`` files rotted on the way."""
    lines, found = store.journal(), store.document()
    assert found is not None
    require(fold(store.stored_lines(found)) == found.stored, "the journal does not fold to the state")
    require(found.state["generation"] == after.generation == len(lines), "a generation has no line, or more than one")
    _audit_budgets(after, Recount(after.loop.budgets.model_dump(), lines), lines)
    _audit_checkpoints(after, spoiled)
    if before is not None:
        _audit_progress(before, after, lines[-1], spoiled)
    if lines[-1]["event"] in ("gate_passed", "gate_failed"):
        _audit_gate(after, passed=lines[-1]["event"] == "gate_passed")
    if after.state in TERMINAL:
        work = [line["event"] for line in lines if line["event"] not in ("started", "interrupted")]
        require(work[-1] == "reported", "it ended without a report")
        require((after.state is State.PASSED) == (work[-2] == "gate_passed"), f"{after.state} after {work[-2]}")
        if after.state is State.PASSED:
            _audit_gate(after, passed=True)


def _audit_budgets(run: RunState, counted: Recount, lines: list[Line]) -> None:
    """The state's counters are the journal's; the event that overdraws a budget ends the run and is not counted."""
    shown = {
        ("max_inference_retries", ""): run.retunes,
        ("max_stalled_starts", ""): run.stalled_starts,
        ("max_crashes", State.INFER): run.inference.crashes,
    }
    for state, stage in TRAINING.items() if run.stages else ():
        shown["max_train_retries", state] = run.stages[stage].retries
        shown["max_crashes", state] = run.stages[stage].crashes
    for (budget, state), number in shown.items():
        expected = counted.of(budget, state)
        if budget != "max_stalled_starts":
            expected = min(expected, counted.budgets[budget])
        require(number == expected, f"{budget} {state}: the state says {number}, the journal {expected}")
    require(run.inference.started == counted.attempts, "an inference attempt was not counted before its work")
    accepted = {stage.value: p.accepted.path for stage, p in run.stages.items() if p.accepted}
    require(accepted == counted.accepted, f"accepted were {counted.accepted}, the state names {accepted}")
    interruptions = counted.starts + (lines[-1]["event"] == "interrupted")
    require(run.interruptions == interruptions, "an interruption was not counted, or twice")


def _audit_checkpoints(run: RunState, spoiled: frozenset[Path]) -> None:
    for stage, progress in run.stages.items():
        require(
            progress.completed == (progress.checkpoint.completed if progress.checkpoint else 0),
            f"{stage} claims {progress.completed} updates, its checkpoint holds others",
        )
        for ref in progress.named_checkpoints():
            if ref != progress.accepted and run.state in TERMINAL | {State.REPORT} and _model(ref) in spoiled:
                continue  # the run ended when it had rotted
            require(Path(ref.path).is_dir(), f"{ref.path}, which the state names, is gone")
            require(checkpoints.digest(Path(ref.path)) == ref.sha256, f"{ref.path} is not what the state names")


def _model(ref: CheckpointRef | None) -> Path | None:
    return ref and Path(ref.path) / checkpoints.MODEL


def _audit_progress(before: RunState, after: RunState, line: Line, spoiled: frozenset[Path]) -> None:
    event = line["event"]
    for stage, old in before.stages.items():
        new, at_work = after.stages[stage], stage is before.stage
        floor = old.accepted.completed if old.accepted else 0
        if event == "accepted" and at_work:
            require(new.accepted == old.checkpoint == new.checkpoint, f"{stage}: not what was accepted is kept")
        else:
            require(new.accepted == old.accepted, f"{stage}: the accepted checkpoint was forgotten at {event}")
        if event == "rejected" and at_work and after.state is before.state:
            require((new.completed, new.checkpoint) == (floor, old.accepted), f"{stage}: repeated from elsewhere")
        else:
            lowest = floor if event == "started" and _model(old.checkpoint) in spoiled else old.completed
            require(new.completed >= lowest, f"{stage}: {event} took {old.completed} back to {new.completed}")
        if event == "saved" and at_work:
            require(new.completed > old.completed, f"{stage}: a checkpoint without progress")
    if event in ("started", "interrupted"):
        incidental = {"generation", "updated_at", "runner", "interruptions", "stalled_starts"}
        changed = {key for key in before.model_dump() if getattr(before, key) != getattr(after, key)}
        require(changed <= incidental | ({"stages"} if spoiled else set()), f"{event} changed {changed}")


def _audit_gate(run: RunState, *, passed: bool) -> None:
    """A verdict is that of what the engine played, not only of what the attempt says of itself."""
    attempt = run.inference.attempts[-1]
    happened = played(Path(attempt.result or "").read_bytes())
    require(passed == attempt.passed == all(attempt.conditions.values()) == (happened == "good"), f"gate: {happened}")


# --- the walk ---------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """What decides everything a run may still do: two nodes with one key are one.

    Left out is what nothing reads to choose a row or a file's content: times, ids, paths, digests and verdicts;
    ``generation``, ``attempt`` and ``inference.started``, which only number things; ``interruptions``; the tuning but
    for the distance of checkpoints, since the played losses do not depend on it, and with it ``crashed_at``. In REPORT
    only the outcome is left to be said. ``Explorer._compare`` puts all this to the test.
    """

    state: State
    ended_by: tuple[str | None, str | None]
    rots_left: int
    whole: bool = True
    """All named checkpoints are what they were."""
    starts: int = 0
    retunes: int = 0
    inference_crashes: int = 0
    played: str | None = None
    """The attempt to be judged; all that will fail are one, unless the retune goes back by cause."""
    stages: tuple[tuple[Any, ...], ...] = ()
    in_hand: tuple[Any, ...] = ()
    """What the gate of the chunk in hand will find."""
    fallback: tuple[int, int] | None = None
    """Updates and crashes that a start goes back to if the newest checkpoint rots."""


class Move(NamedTuple):
    """What happens next, until a commit after which a process is alive."""

    name: str
    lives: tuple[Life, ...]
    rots: bool = False


class Life(NamedTuple):
    """The part of a process's life in which ``happening`` happens; it ends after one commit, or in it."""

    happening: str = NOTHING
    goes_on: bool = True
    dies: bool = False


START = Life(goes_on=False)


@dataclass
class Node:
    """A run as it lies on the disk."""

    key: Key
    run: RunState | None
    files: Files
    spoiled: frozenset[Path] = frozenset()


class Explorer:
    """Walks the graph of a world depth first. Of the nodes merged, every one in ``twins`` is walked from as well."""

    def __init__(self, world: World, size: Size, *, twins: int = 97) -> None:
        self.world, self.size = world, size
        self.successors: dict[Key, dict[str, Key]] = {}
        self.schedules: dict[Key, int] = {}
        self.hopeful: dict[Key, bool] = {}
        self.rows: set[tuple[State, Event, State]] = set()
        """Source, event and target of every row taken."""
        self.lives = 0
        self._twins, self._merged = twins, 0
        self._path: list[str] = []
        self._open: set[Key] = set()
        self.root = Key(State.ALIGN, (None, None), size.rots)

    def explore(self) -> None:
        """Walk all of it.

        Raises:
            Violation: a promise was broken; the message tells by what sequence of happenings.
        """
        root = Node(self.root, None, {})
        try:
            self._walk(root)
        except Exception as exc:
            path = "\n  ".join(self._path)
            raise Violation(f"{type(exc).__name__}: {exc}\nafter\n  {path}") from exc

    @property
    def edges(self) -> int:
        return sum(map(len, self.successors.values()))

    def _walk(self, node: Node) -> None:
        """Depth first: a node is finished when everything after it is. Meeting an unfinished one is a cycle."""
        key = node.key
        self._open.add(key)
        self.successors[key] = {}
        self.schedules[key] = int(key.state in TERMINAL)
        self.hopeful[key] = key.state is State.PASSED
        if key.state in TERMINAL:
            self._require_rest(node)
        for move in self.moves(node):
            self._path.append(move.name)
            found = self.follow(node, move)
            self.successors[key][move.name] = found.key
            if found.key == key:
                require(self._may_wait(key), f"{move.name} can go on for ever in {key}")
            else:
                require(found.key not in self._open, f"a cycle over {found.key}")
                if found.key not in self.schedules:
                    self._walk(found)
                else:
                    self._compare(found)
                self.schedules[key] += self.schedules[found.key]
                self.hopeful[key] |= self.hopeful[found.key]
            self._path.pop()
        self._open.remove(key)
        self._require_one_interruption(key)
        to_be_judged = key.in_hand or key.played
        if key.state is not State.FAILED and not to_be_judged and not self._may_wait(key):
            require(self.hopeful[key], f"nothing that can happen lets the run pass any more: {key}")

    def _may_wait(self, key: Key) -> bool:
        """Where starts are no longer counted, since all that is left is to write the report: as often as it takes."""
        return key.state is State.REPORT or key.starts > self.size.starts

    def _require_one_interruption(self, key: Key) -> None:
        """Death anywhere in the work, in any commit, or a stop: the next start finds the same run."""
        ends = {found for name, found in self.successors[key].items() if name.endswith(INTERRUPTED)}
        require(len(ends) <= 1, f"interruptions of {key} differ: {ends}")

    def _require_rest(self, node: Node) -> None:
        """An ended run stays as it ended, however often it is started."""
        self.world.restore(node.files)
        code = self._live(START, lambda before, after: require(False, f"a commit after {node.key.state}"))
        require(code == (0 if node.key.state is State.PASSED else 1), f"exit code {code} after {node.key.state}")

    def _compare(self, twin: Node) -> None:
        """Every so-manieth node that is merged with one walked before is walked from as well: they must agree."""
        self._merged += 1
        if self._merged % self._twins == 0:
            for move in self.moves(twin):
                self._path.append(move.name)
                found, expected = self.follow(twin, move).key, self.successors[twin.key][move.name]
                require(found == expected, f"merged nodes differ: {found} instead of {expected}")
                self._path.pop()

    # --- one step -----------------------------------------------------------------------------------------------

    def moves(self, node: Node) -> Iterator[Move]:
        """Everything that can happen next."""
        run = node.run
        if node.key.state in TERMINAL:
            return
        for name in happenings(run):
            if name != "stopped":
                yield Move(name, (Life(name),))
                yield Move(f"{name}, dies in the commit{INTERRUPTED}", (Life(name, dies=True), START))
            elif run is not None:
                yield Move(f"{name}{INTERRUPTED}", (Life(name), START))
        if run is None:
            return
        yield Move(f"dies{INTERRUPTED}", (START,))
        yield Move(f"dies, starts, dies in that commit{INTERRUPTED}", (START._replace(dies=True), START))
        if node.key.starts <= self.size.starts:
            yield Move(f"{STOP}{INTERRUPTED}", (Life(STOP), START))
        if node.key.rots_left and self.world.perishable(run):
            yield Move("rots, dies, starts again", (START,), rots=True)
            if happenings(run) == [NOTHING]:
                yield Move("rots", (Life(),), rots=True)
                yield Move("rots, dies in the commit, starts again", (Life(dies=True), START), rots=True)

    def follow(self, node: Node, move: Move) -> Node:
        """The node after ``move``, every commit on the way audited."""
        self.world.restore(node.files)
        spoiled = node.spoiled
        if move.rots and node.run and (path := self.world.perishable(node.run)):
            path.write_bytes(ROTTEN)
            spoiled |= {path}
        committed: list[RunState] = []

        def witness(before: RunState | None, after: RunState) -> None:
            audit(before, after, self.world.store, spoiled)
            line = self.world.store.journal()[-1]
            if line["event"] in set(Event):
                self.rows.add((State(line["from"] or State.ALIGN), Event(line["event"]), State(line["to"])))
            committed.append(after)
            raise Killed

        for life in move.lives:
            self._live(life, witness)
        require(committed, "it ended without a commit")
        run = committed[-1]
        return Node(self.key(run, node.key.rots_left - move.rots), run, self.world.capture(), spoiled)

    def _live(self, life: Life, witness: Callable[[RunState | None, RunState], None]) -> ExitCode | None:
        self.lives += 1
        with death_in_the_commit() if life.dies else nullcontext():
            return self.world.live(iter([life.happening]), witness, goes_on=life.goes_on, stop=life.happening == STOP)

    def key(self, run: RunState, rots_left: int) -> Key:
        key = Key(run.state, (run.budget_used, run.failed_in), rots_left)
        if run.state in TERMINAL | {State.REPORT}:
            models = [_model(p.checkpoint) for p in run.stages.values()]
            whole = all(model.exists() and model.read_bytes() != ROTTEN for model in models if model)
            return key._replace(rots_left=0, whole=whole)
        key = key._replace(
            starts=min(run.stalled_starts, self.size.starts + 1),
            retunes=run.retunes,
            inference_crashes=run.inference.crashes,
            stages=tuple(
                (
                    *(p.target, p.completed, p.chunk_start, p.retries, p.crashes, p.warm_start),
                    *(ref and ref.update for ref in (p.checkpoint, p.accepted)),
                    min(p.tuning.log_interval, run.loop.checkpoint_interval),
                )
                for p in run.stages.values()
            ),
        )
        if run.state is State.GATE and run.inference.pending:
            content = Path(run.inference.pending.path).read_bytes()
            happened = "rotten" if content == ROTTEN else played(content)
            told_apart = happened in ("good", "rotten") or run.loop.retune_policy == "cause"
            key = key._replace(played=happened if told_apart else "bad")
        if run.stage and (progress := run.progress()).completed >= run.chunk_end(run.stage):
            rows = self.world.paths.metrics(run.stage).read_bytes()[: progress.metrics.bytes].splitlines()
            key = key._replace(in_hand=(json.loads(rows[-1])["loss"], progress.picture is not None))
        if run.stage and rots_left and (previous := self.world.store.previous()) and previous.state is run.state:
            old, new = previous.progress(), run.progress()
            if old.attempt == new.attempt and old.checkpoint != new.checkpoint:
                key = key._replace(fallback=(old.completed, old.crashes))
        return key
