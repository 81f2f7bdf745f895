"""Deliberately broken variants of the package, one for each promise: the bench must catch every one of them."""

from __future__ import annotations

import os
import pickle
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.protocol import Progress, TrainRequest, TrainResult
from tiw_fsm.errors import RunHeld
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.run import fingerprint, resume
from tiw_fsm.run.session import Context
from tiw_fsm.storage import checkpoints, places
from tiw_fsm.storage.picture_sweep import PictureSweep
from tiw_fsm.storage.store import Store
from tiw_fsm.system import append_log, durable, signals


def state_in_place() -> None:
    """The state is written over the old one, and the generation before is not kept."""
    replace = durable.replace

    def in_place(path: Path, content: bytes, *, named_later: bool = False) -> None:
        if path.name == "state.json":
            path.write_bytes(content)
            durable.sync(path)
            durable.sync(path.parent)
        elif path.name != "state.prev.json":
            replace(path, content)

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


def hashes_ignored() -> None:
    """Whatever lies where a file should be is taken for it."""
    append_log.AppendLog.problem = lambda self, mark: None  # type: ignore[method-assign]
    checkpoints.altered = lambda folder, sha256: []


def unpickled() -> None:
    """Checkpoints are read as Python reads pickles."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: object) -> None:
            """Tensors do not matter here."""

    def read(path: Path) -> tuple[Any, list[str]]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{path.stem}/data.pkl") as file:
            return Unpickler(file).load(), []

    checkpoints.read_with_globals = read


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


def changes_unnoticed() -> None:
    """Whatever decides the weights may change, and nobody says so."""
    fingerprint.changes = lambda old, new: []


def paths_absolute() -> None:
    """A state names files by where they lay when it was written."""
    places.relative = lambda path, root: path


def leftovers_forgotten() -> None:
    """A start knows only the pictures that it has seen named itself."""
    begin = PictureSweep.__init__
    PictureSweep.__init__ = lambda self, paths, states: begin(self, paths, ())  # type: ignore[method-assign]


BROKEN: dict[str, Callable[[], None]] = {
    "crashes_forgotten": crashes_forgotten,
    "leftovers_forgotten": leftovers_forgotten,
    "paths_absolute": paths_absolute,
    "hangup_unheeded": hangup_unheeded,
    "changes_unnoticed": changes_unnoticed,
    "unpickled": unpickled,
    "links_followed": links_followed,
    "hashes_ignored": hashes_ignored,
    "no_lock": no_lock,
    "pid_file": pid_file,
    "state_in_place": state_in_place,
    "no_fsync": no_fsync,
    "fsync_errors_ignored": fsync_errors_ignored,
    "optimizer_forgotten": optimizer_forgotten,
}
