"""Feeds one tracker of a run with what is committed, for as long as the run goes on or until it has all there is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.errors import RunHeld, TiwFsmError, UsageProblem
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.storage.store import Store, now
from tiw_fsm.system import durable, locking
from tiw_fsm.tracking.items import Stream
from tiw_fsm.tracking.tracker import Shown, Tracker, opened

LOOK = 1.0
"""Seconds between two looks at the state."""
BATCH = 500
"""Items after which a tracker is flushed, and its status written."""
AGAIN = (60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0)
"""Seconds until a tracker that failed is tried again, after so many failures in a row; then the last."""
CONFIG = ("engine", "device", "train_stage", "stages", "inference", "loop", "data")
"""What of the effective configuration is shown beside the curves."""

Wait = Callable[[float], bool]
"""Wait for at most so many seconds; whether nothing more will be committed."""


class Status(NamedTuple):
    """How far a tracker is, for `tiw-fsm status`; nothing is decided by it."""

    generation: int = 0
    """Whose items it has all been given."""
    items: int = 0
    """It has been given by the process that feeds it, those that it had before among them."""
    reason: str | None = None
    """Why it gets no more, if it failed."""

    def write(self, path: Path) -> None:
        """Replace the file. A disk that does not take it costs the news alone."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.exchange(path, json.dumps({"time": now(), **self._asdict()}).encode(), synced=False)
        except (OSError, TiwFsmError) as exc:
            print(exc, file=sys.stderr, flush=True)


def feed(store: Store, name: str, wait: Wait, look: Callable[[Status], None] = lambda status: None) -> None:
    """Give the tracker ``name`` what it lacks, again and again until ``wait`` says that nothing more comes.

    A tracker that fails is tried again later, from what it has by then; at the end it is not.

    Args:
        look: is shown each new status; one that has a reason, while its exception is being handled.

    Raises:
        RunHeld: another process feeds it, and did so until the end.
        TiwFsmError: its lock cannot be had.
    """
    path = store.paths.tracker_lock(name)
    durable.make_folder(path.parent)
    while True:
        over = wait(0)
        with locking.held(path) as lock:
            if lock is not None:
                _Feeding(store, name, look).go_on(wait)
                return
        if over:
            raise RunHeld(f"another process feeds {name} with run {store.paths.folder.name!r}; let it come to an end")


class _Feeding:
    def __init__(self, store: Store, name: str, look: Callable[[Status], None]) -> None:
        self._store, self._name, self._look = store, name, look
        self._status = Status()
        self._open: tuple[Tracker, Stream] | None = None

    def go_on(self, wait: Wait) -> None:
        failures, pause = 0, 0.0
        while True:
            over = wait(pause)
            if over and failures and self._open is None:
                return
            try:
                self._give(over)
                failures, pause = 0, LOOK
            except (Exception, SystemExit) as exc:  # whatever a package of others may do
                self._open = None
                pause = AGAIN[min(failures, len(AGAIN) - 1)]
                failures += 1
                self._tell(self._status._replace(reason=reason(exc)))
            if over:
                return

    def _give(self, over: bool) -> None:
        """All that is committed; ``over`` says that it is the last time."""
        if self._open is None:
            run = shown(self._store)
            self._open = opened(self._name, run), Stream(self._store, run.paths)
            self._tell(Status())
        tracker, stream = self._open
        items = self._status.items
        for item in stream.look():
            tracker.add(item)
            items += 1
            if items % BATCH == 0:
                tracker.flush()
                self._tell(Status(items=items))
        tracker.flush()
        if (given := Status(stream.generation, items)) != self._status:
            self._tell(given)
        if over:
            tracker.close()

    def _tell(self, status: Status) -> None:
        self._status = status
        status.write(self._store.paths.tracker_status(self._name))
        self._look(status)


def shown(store: Store) -> Shown:
    """The run as its last start left it.

    Raises:
        UsageProblem: it has not begun.
        StateDamaged, DiskRefused: its state or its configuration cannot be read.
    """
    run = store.load()
    if run is None:
        raise UsageProblem(f"run {store.paths.folder.name!r} has not begun; there is nothing to track")
    config = store.config(run)
    return Shown(
        run=run.run,
        run_id=run.run_id,
        paths=RunPaths(Path(config["run_root"]), Path(config["repo_root"])),
        project=config.get("wandb_project") or "tiw_fsm",
        config={key: config[key] for key in CONFIG if key in config},
    )


def reason(exc: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(exc).split())
    return text or type(exc).__name__


def let_be(paths: StatePaths, name: str, why: str) -> None:
    """Note that the process that fed a tracker was ended before it had given everything."""
    try:
        before = json.loads(durable.read_small(paths.tracker_status(name)))
        status = Status(generation=before["generation"], items=before["items"])
    except (ValueError, LookupError, TypeError, TiwFsmError):
        status = Status()
    status._replace(reason=why).write(paths.tracker_status(name))
