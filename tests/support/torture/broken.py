"""Deliberately broken variants of the package, one for each promise: the bench must catch every one of them."""

from __future__ import annotations

import os
import pickle
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.torture.broken_child import VARIANTS
from tiw_fsm.cli import terminal
from tiw_fsm.config import yaml_source
from tiw_fsm.config.loop import Command
from tiw_fsm.engines.native import engine as native
from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.protocol import Hello, HelloRequest, InferRequest, Progress, TrainRequest, TrainResult
from tiw_fsm.errors import RunHeld
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting.html import templating
from tiw_fsm.reporting.markdown import tables
from tiw_fsm.run import activities, fingerprint, resume
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Context
from tiw_fsm.storage import checkpoint_checks, inert_pickle, places, secrets, store
from tiw_fsm.storage.picture_sweep import PictureSweep
from tiw_fsm.storage.store import Store
from tiw_fsm.system import append_log, durable, killer, locking, signals
from tiw_fsm.values.death import Killer


def state_in_place() -> None:
    """The state is written over the old one, and the generation before is not kept."""
    replace = durable.replace

    def in_place(path: Path, content: bytes, *, named_later: bool = False, **how: Any) -> None:
        if path.name == "state.json":
            path.write_bytes(content)
            durable.sync(path)
            durable.sync(path.parent)
        elif path.name != "state.prev.json":
            replace(path, content, **how)

    durable.replace = in_place


def no_fsync() -> None:
    """Nothing is ever brought to the disk."""
    os.fsync = lambda fd: None


def fsync_errors_ignored() -> None:
    """A disk that could not keep something is taken for one that did."""
    fsync = os.fsync

    def heedless(fd: Any) -> None:
        with suppress(OSError):
            fsync(fd)

    os.fsync = heedless


def optimizer_forgotten() -> None:
    """A resume takes the checkpoint's weights, but begins with a fresh optimizer."""
    train = NativeEngine.train

    def forgetful(self: NativeEngine, request: TrainRequest, progress: Progress) -> TrainResult:
        return train(self, request.evolve(weights_only=True), progress)

    NativeEngine.train = forgetful  # type: ignore[method-assign]


def no_lock() -> None:
    """Whoever comes runs the run."""

    @contextmanager
    def unguarded(self: Store) -> Iterator[None]:
        durable.make_folder(self.paths.folder)
        yield

    Store.hold = unguarded  # type: ignore[method-assign]


def pid_file() -> None:
    """The lock is a file with the number of a process, held as long as there is a process of that number."""

    @contextmanager
    def guarded(self: Store) -> Iterator[None]:
        durable.make_folder(self.paths.folder)
        if self.paths.lock.exists():
            with suppress(ProcessLookupError):
                os.kill(int(self.paths.lock.read_text()), 0)
                raise RunHeld("another process is running this run")
        self.paths.lock.write_text(str(os.getpid()))
        yield

    Store.hold = guarded  # type: ignore[method-assign]


def folders_unlocked() -> None:
    """Not broken, but as on NFS, which locks no folders: the file has to do alone."""
    locking._takes_folder = lambda descriptor, how: None


def lock_unchecked() -> None:
    """The same, and whoever once has the lock never looks whether it is still the one that others find."""
    folders_unlocked()
    locking.Lock.require = lambda self: None  # type: ignore[method-assign]


def hashes_ignored() -> None:
    """Whatever lies where a file should be is taken for it."""
    append_log.AppendLog.problem = lambda self, mark: None  # type: ignore[method-assign]
    checkpoint_checks.altered = lambda folder, sha256: []


def unpickled() -> None:
    """Checkpoints are read as Python reads pickles."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: object) -> None:
            """Tensors do not matter here."""

    def read(path: Path) -> tuple[Any, list[str]]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{path.stem}/data.pkl") as file:
            return Unpickler(file).load(), []

    checkpoint_checks.read_with_globals = read


def links_followed() -> None:
    """A link in the place of a file is as good as the file."""
    durable.require_plain = lambda path: None


def crashes_forgotten() -> None:
    """Each start begins to count the deaths of the child anew."""
    resumed = resume.resumed

    def forgetful(context: Context, before: RunState, config_sha256: str) -> Any:
        for stage in before.stages:
            before = before.with_stage(stage, crashes=0)
        return resumed(context, before, config_sha256)

    resume.resumed = forgetful


def hangup_unheeded() -> None:
    """A closed terminal is left to what the system does about it."""
    signals.STOP = tuple(number for number in signals.STOP if number != signal.SIGHUP)


def signals_apart() -> None:
    """Each signal is a request of its own, however close they come."""
    signals.ONE_REQUEST = 0.0


def kills_blamed_on_the_child() -> None:
    """Whoever ended a child, it is taken to have died of what it did."""
    killer.judge = lambda status, words, kills: Killer.OWN


def children_unheld() -> None:
    """A new child is taken for what the one before it was."""
    start = NativeEngine._start

    def trusting(self: NativeEngine, request: HelloRequest) -> Hello:
        found = start(self, request)
        return self._hello or found

    NativeEngine._start = trusting  # type: ignore[method-assign]


def changes_unnoticed() -> None:
    """Whatever decides the weights may change, and nobody says so."""
    fingerprint.changes = lambda old, new: []


def paths_absolute() -> None:
    """A state names files by where they lay when it was written."""
    places.relative = lambda path, root: path


def frames_unheeded() -> None:
    """Nobody compares the frames that a child has loaded with those that the run began with."""
    train, infer = NativeEngine.train, NativeEngine.infer

    def heedless(self: NativeEngine, request: TrainRequest, progress: Progress) -> TrainResult:
        return train(self, request.evolve(frames=None), progress)

    def heedless_too(self: NativeEngine, request: InferRequest, progress: Progress) -> InferenceResult:
        return infer(self, request.evolve(frames=None), progress)

    NativeEngine.train, NativeEngine.infer = heedless, heedless_too  # type: ignore[method-assign]
    activities.require_frames = lambda request, result: None


def clock_stands_still() -> None:
    """Not broken: all that the package says of the time is one second, as in a sweep whose runs end together."""

    class Still(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 31, 12, 0, 0, tzinfo=tz)

    activities.datetime = store.datetime = Still  # type: ignore[attr-defined]


def rubbish_is_fatal() -> None:
    """What cannot be removed is taken for a disk that fails."""
    durable.NOT_YET.clear()


def refusals_cost_starts() -> None:
    """A start that the disk refuses counts as one without progress."""
    Controller._take_back = lambda self, exc: None  # type: ignore[method-assign]


def unmarked_names() -> None:
    """Pictures and reports are named by the second alone, and all in one."""
    clock_stands_still()
    RunState.mark = ""  # type: ignore[assignment, method-assign]


def commands_shown() -> None:
    """The command of ``on_finish`` stands in state, journal and configuration, as in older versions."""
    Command._display = Command.get_secret_value  # type: ignore[method-assign]
    secrets.hidden = lambda document: document


def umask_obeyed() -> None:
    """A file for its owner alone is made as every other."""
    replace = durable.replace

    def heedless(path: Path, content: bytes, *, named_later: bool = False, mode: int | None = None) -> None:
        replace(path, content, named_later=named_later)

    durable.replace = heedless


def last_key_wins() -> None:
    """YAML is read as it comes: of a key given twice the last counts."""
    yaml_source._mistakes = lambda node: []


def numbers_believed() -> None:
    """A checkpoint may have any number as a key."""
    inert_pickle._LONGEST_INTEGER = 10**9
    inert_pickle._is_key = lambda key: True


def shown_as_it_is() -> None:
    """What comes from outside is written to the terminal and into reports as it is."""
    for module in (terminal, templating, tables):
        module.printable = lambda text, lines=False: text  # type: ignore[attr-defined]


def leftovers_forgotten() -> None:
    """A start knows only the pictures that it has seen named itself."""
    begin = PictureSweep.__init__
    PictureSweep.__init__ = lambda self, paths, states: begin(self, paths, ())  # type: ignore[method-assign]


def child_broken(variant: str) -> Callable[[], None]:
    """The process that trains is a variant of ``broken_child``'s."""

    def broken() -> None:
        native.child_program.__file__ = str(Path(__file__).with_name("broken_child.py"))
        os.environ["BROKEN_CHILD"] = variant

    return broken


BROKEN: dict[str, Callable[[], None]] = {
    **{variant: child_broken(variant) for variant in VARIANTS},
    "commands_shown": commands_shown,
    "umask_obeyed": umask_obeyed,
    "last_key_wins": last_key_wins,
    "numbers_believed": numbers_believed,
    "shown_as_it_is": shown_as_it_is,
    "crashes_forgotten": crashes_forgotten,
    "leftovers_forgotten": leftovers_forgotten,
    "paths_absolute": paths_absolute,
    "hangup_unheeded": hangup_unheeded,
    "changes_unnoticed": changes_unnoticed,
    "frames_unheeded": frames_unheeded,
    "children_unheld": children_unheld,
    "kills_blamed_on_the_child": kills_blamed_on_the_child,
    "signals_apart": signals_apart,
    "unpickled": unpickled,
    "links_followed": links_followed,
    "hashes_ignored": hashes_ignored,
    "clock_stands_still": clock_stands_still,
    "rubbish_is_fatal": rubbish_is_fatal,
    "refusals_cost_starts": refusals_cost_starts,
    "unmarked_names": unmarked_names,
    "no_lock": no_lock,
    "folders_unlocked": folders_unlocked,
    "lock_unchecked": lock_unchecked,
    "pid_file": pid_file,
    "state_in_place": state_in_place,
    "no_fsync": no_fsync,
    "fsync_errors_ignored": fsync_errors_ignored,
    "optimizer_forgotten": optimizer_forgotten,
}
