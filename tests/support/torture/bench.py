"""One run that is started over and over in one folder: what it comes to undisturbed, and whether it still does.

Every check returns the troubles it found, a line each, so that it can be shown to find some in a broken variant.
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.configs import LENIENT, OPTIONS, write_configs, write_frames
from tests.support.torture.disk import Operation, Tree, read_log, replayed
from tests.support.torture.launch import Ended, Fault, Launcher, Refusal, Started
from tests.support.torture.outcome import TIMES_AND_NAMES, differences, outcome
from tiw_fsm.errors import ExitCode, StateDamaged, TiwFsmError
from tiw_fsm.fsm.events import RunnerEvent
from tiw_fsm.run import verify
from tiw_fsm.storage.store import Store, fold

DIFFERS_BETWEEN_RUNS = (
    "run_id",
    "runner",
    "created_at",
    "updated_at",
    "interruptions",
    "stalled_starts",
    "result_sha256",
    "root",
)
SHOWN = 400
"""Letters shown of a trouble."""


@dataclass(frozen=True)
class Setup:
    """A run worth disturbing."""

    arguments: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the tiny configs."""
    script: Mapping[str, Any] | None = None
    """For the simulated engine."""
    frames: bool = False
    ends: ExitCode = ExitCode.PASSED


SIMULATED = Setup(
    ("run", "--engine", "simulated"),
    {"latent_actions": {"n_updates": 20}},
    # The latent actions' first chunk is repeated, and the first inference gate asks for a retune.
    {"losses": {"video_tokenizer": [0.005], "latent_actions": [0.5, 0.02], "dynamics": [2.0]}, "mse": [0.5, 0.01]},
)
"""Two chunks per stage, a rejected one, a failed inference gate."""
NATIVE = Setup(("run", "--max-mse", "0.9", "--allow-trivial"), {"loop": LENIENT, **OPTIONS}, frames=True)
"""The same on tiny real frames, with the training process as a child, and with all that training can be asked for."""


class Bench:
    """A folder for runs of one setup. The first, undisturbed, says what all others must come to.

    Args:
        broken: a broken variant that shall be tried against what the honest package comes to.
    """

    def __init__(self, launcher: Launcher, folder: Path, setup: Setup, broken: str | None = None) -> None:
        self.root = folder / "root"
        self.setup = setup
        self._launcher = launcher
        self._log = folder / "log"
        write_configs(self.root / "configs", setup.changes)
        if setup.frames:
            write_frames(self.root / "frames.h5")
        self.beginning = Tree.read(self.root)
        self.broken: str | None = None
        self.log = self._undisturbed()
        """Of the undisturbed run; of the broken variant's, if one is tried. What numbers of operations refer to."""
        self.end = Tree.read(self.root)
        self.expected = outcome(self.root)
        journal = self.store.journal()
        self.states = [{"generation": 0}, *(steady(fold(journal[: n + 1])) for n in range(len(journal)))]
        """The state of each generation."""
        if broken:
            self.broken = broken
            self.log = self._undisturbed()

    def in_variant(self, broken: str) -> Bench:
        """The same folder and expectations, for runs of a broken variant."""
        twin = copy(self)
        twin.broken = broken
        return twin

    @property
    def store(self) -> Store:
        return Store(self.root / "state" / "default")

    def begin(self) -> None:
        """Have nothing in the folder but what the run begins with."""
        self.beginning.materialize(self.root)

    def start(self, *flags: str, fault: Fault | None = None, refusal: Refusal | None = None) -> Started:
        """One start that nobody waits for yet, with more flags."""
        return self._launcher.start(
            self.root,
            *self.setup.arguments,
            *flags,
            fault=fault,
            refusal=refusal,
            broken=self.broken,
            script=self.setup.script,
        )

    def told(self, command: str) -> str:
        """What another command says of the run."""
        return self._launcher.start(self.root, command).wait().stdout

    def run(self, *flags: str, fault: Fault | None = None, log: Path | None = None, **script: Any) -> Ended:
        """One start, with more flags, or with other fields of the simulated engine's script."""
        played = {**(self.setup.script or {}), **script} or None
        return self._launcher.start(
            self.root, *self.setup.arguments, *flags, fault=fault, log=log, broken=self.broken, script=played
        ).wait()

    def logged(self, fault: Fault | None = None) -> tuple[Ended, list[Operation]]:
        """One start, and its log."""
        self._log.unlink(missing_ok=True)
        ended = self.run(fault=fault, log=self._log)
        return ended, read_log(self._log) if self._log.exists() else []

    def disturbed(self, fault: Fault) -> tuple[Ended, list[Operation]]:
        """A run from the beginning that meets a fault, and its log."""
        self.begin()
        return self.logged(fault)

    def killed(self, fault: Fault) -> list[str]:
        """Troubles of a run that is killed, and of the one after it."""
        ended, log = self.disturbed(fault)
        if ended.signal != signal.SIGKILL:
            return [f"{fault}: not killed, but ended with {ended.code}"]
        return [f"{fault}: {trouble}" for trouble in self.troubles_after(log)]

    def refused(self, fault: Fault) -> list[str]:
        """Troubles of a run whose disk refuses something, and of the one after it."""
        ended, log = self.disturbed(fault)
        if ended.code == self.setup.ends:  # it did not need what failed
            troubles = self.came_out_otherwise() or self.ends_otherwise_after_a_cut(log)
        elif ended.code != ExitCode.DISK or "Traceback" in ended.stderr or not clear(ended.stderr):
            troubles = [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-SHOWN:]!r}"]
        else:
            troubles = self.troubles_after(log)
        return [f"{fault}: {trouble[:SHOWN]}" for trouble in troubles]

    def lost(self, generation: int) -> list[str]:
        """Why the state on disk is neither the acknowledged generation nor the one after it."""
        try:
            run = self.store.load()
        except TiwFsmError as exc:
            return [f"the state of generation {generation} cannot be loaded: {exc}"]
        found = run.generation if run else 0
        if not generation <= found <= generation + 1:
            return [f"generation {generation} was acknowledged, but {found} is on the disk"]
        return []

    def strayed(self) -> list[str]:
        """Where the state that a first start left is not what an undisturbed run has in the same generation."""
        run = self.store.load()
        found = steady(run.model_dump(mode="json", exclude_none=True)) if run else {"generation": 0}
        refusals = sum(line["event"] == RunnerEvent.REFUSED for line in self.store.journal())
        found["generation"] -= refusals  # a start that the disk refused is one commit more, and changes nothing else
        expected = self.states[found["generation"]]
        return [f"the state is another one: {trouble}" for trouble in differences(expected, found)]

    def not_whole(self) -> list[str]:
        """What `tiw-fsm verify` finds: whatever the state names is there, at any moment."""
        return [problem for _, problems in verify.findings(self.store) for problem in problems]

    def troubles_after(self, log: Sequence[Operation]) -> list[str]:
        """Of what a first start with this log left, and of the run that goes on from there."""
        return self.lost(acknowledged(log)) or self.strayed() or self.not_whole() or self.ends_otherwise()

    def ends_otherwise(self) -> list[str]:
        """How a run that goes on from here ends otherwise than an undisturbed one."""
        ended = self.run()
        if ended.code != self.setup.ends:
            return [f"the next run ended with {ended.code or ended.signal}, saying {ended.stderr[-SHOWN:]!r}"]
        return self.came_out_otherwise()

    def came_out_otherwise(self) -> list[str]:
        """Where what the ended run left is not what an undisturbed one leaves."""
        try:
            return [trouble[:SHOWN] for trouble in differences(self.expected, outcome(self.root))]
        except (OSError, ValueError, StateDamaged) as exc:
            return [f"what it left cannot be read: {exc}"]

    def ends_otherwise_after_a_cut(self, log: Sequence[Operation]) -> list[str]:
        """As ``ends_otherwise``, if the power goes now and the disk kept only what it had to."""
        replayed(self.beginning, log).durable().materialize(self.root)
        return [f"after a power cut, {trouble}" for trouble in self.ends_otherwise()]

    def _undisturbed(self) -> list[Operation]:
        self.begin()
        ended, log = self.logged()
        assert ended.code == self.setup.ends, ended.stderr
        return log


def clear(said: str) -> bool:
    """Whether the last thing said names the file, says what to do, and nothing twice."""
    last = said.strip().splitlines()[-1]
    sentences = re.split(r"(?<=\.) ", last)
    return "/" in last and "run again" in last and len(set(sentences)) == len(sentences)


def steady(value: Any) -> Any:
    """A state's document without what differs between two runs."""
    if isinstance(value, str):
        return TIMES_AND_NAMES.sub("…", value)
    if isinstance(value, list):
        return [steady(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: steady(item) for key, item in value.items() if key not in DIFFERS_BETWEEN_RUNS}
    if "pending" in kept:  # the result file tells the time in its picture's name, so it has another hash each time
        kept["pending"] = kept["pending"]["path"]
    return kept


def acknowledged(log: Sequence[Operation]) -> int:
    """The generation of the last commit that returned."""
    return max((op.acknowledged for op in log if op.acknowledged is not None), default=0)


def spread(total: int, some: int) -> list[int]:
    """Numbers from 1 to ``total``: all, or ``some``, one by chance out of each equal part, and the last."""
    if some >= total:
        return list(range(1, total + 1))
    chance = random.Random(total)
    parts = [round(total * n / some) for n in range(some + 1)]
    return [*(chance.randint(first + 1, last) for first, last in pairwise(parts)), total]
