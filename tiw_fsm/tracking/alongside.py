"""The trackers of a run, as its runner sees them: a process for each, started at a commit, and left to itself.

Whatever becomes of one is a warning, at most. The runner waits for them once, when the run has ended, and not for long.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from tiw_fsm.config.settings import Settings
from tiw_fsm.errors import DiskRefused
from tiw_fsm.storage.store import Store
from tiw_fsm.system import durable, short_log
from tiw_fsm.system.child import Child
from tiw_fsm.tracking import child as child_module
from tiw_fsm.tracking.feeding import Status, let_be
from tiw_fsm.tracking.tracker import MODULES, wanted

STARTS = 5
"""Processes that are started for a tracker, should the ones before have been killed."""
STUCK, LONGEST = 10.0, 60.0
"""At the end of a run, seconds after which a tracker is given up that gets no further, and any tracker."""
HURRY = 3.0
"""The same for any tracker where the run was interrupted: whoever asked for that may not wait longer."""
PAUSE = 0.05
END = b"end\n"


class Trackers:
    """Those of one start of a run; none until ``start``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log: FilteringBoundLogger | None = None
        self._children: dict[str, Child | None] = {}
        self._starts: dict[str, int] = {}
        self._said: set[tuple[str, str]] = set()

    def start(self, settings: Settings, log: FilteringBoundLogger) -> None:
        """From the next commit on, feed the trackers that the settings ask for."""
        self._log = log
        names, notes = wanted(settings)
        for note in notes:
            log.warning(note)
        with suppress(OSError):
            for name in MODULES.keys() - set(names):
                durable.unlink(self._store.paths.tracker_status(name))
        self._children = dict.fromkeys(names)

    def committed(self) -> None:
        """After a commit: see that each tracker has its process, and say what became of one."""
        for name in self._children:
            try:
                self._look_after(name)
            except Exception as exc:
                self._warn(name, str(exc))

    def close(self, *, hurry: bool) -> list[str]:
        """Let each have the rest, for a bounded time; a sentence on each that did not take it."""
        self.committed()
        waiting = {name: child for name, child in self._children.items() if child is not None}
        self._children = {}
        for child in waiting.values():
            with suppress(OSError):
                child.tell(END)
        late = self._wait(waiting, HURRY if hurry else LONGEST)
        for name in late:
            let_be(self._store.paths, name, "it had not taken everything when the run ended")
        run = self._store.paths.folder.name
        return [f"{name} has not taken everything yet; `tiw-fsm track --run {run}` catches up" for name in late]

    def _wait(self, waiting: dict[str, Child], longest: float) -> list[str]:
        """Until they have ended, or are given up and ended; the names of those."""
        begun = time.monotonic()
        heard = dict.fromkeys(waiting, (begun, b""))
        late = []
        while waiting:
            for name, child in list(waiting.items()):
                news, now = self._news(name), time.monotonic()
                if news != heard[name][1]:
                    heard[name] = now, news
                if child.poll() is None and now - heard[name][0] < STUCK and now - begun < longest:
                    continue
                if child.poll() is None:
                    child.end()
                    late.append(name)
                child.let_go()
                del waiting[name]
            time.sleep(PAUSE if waiting else 0)
        return late

    def _look_after(self, name: str) -> None:
        child = self._children[name]
        said = self._store.trackers().get(name)
        if child is not None and said and said["reason"]:
            self._warn(name, said["reason"])
        if child is not None and child.poll() is None:
            return
        if child is not None:
            child.let_go()
            self._warn(name, f"its process {child.how_it_ended()}")
            self._children[name] = None
        if self._starts.get(name, 0) < STARTS:
            self._starts[name] = self._starts.get(name, 0) + 1
            self._children[name] = self._started(name)

    def _started(self, name: str) -> Child:
        paths = self._store.paths
        Status().write(paths.tracker_status(name))
        short_log.begin_anew_if_long(paths.trackers_log)
        return Child(
            [sys.executable, "-P", str(Path(child_module.__file__)), str(os.getpid()), str(paths.folder), name],
            output=paths.trackers_log,
            max_silence=LONGEST,
            environment=os.environ,
        )

    def _news(self, name: str) -> bytes:
        try:
            return durable.read_small(self._store.paths.tracker_status(name))
        except Exception:
            return b""

    def _warn(self, name: str, what: str) -> None:
        """Once for each reason. Not even that may fail: the disk that refuses a tracker may refuse the log."""
        if self._log is not None and (name, what) not in self._said:
            self._said.add((name, what))
            with suppress(DiskRefused):
                more = f"{self._store.paths.trackers_log} has more"
                self._log.warning(f"{name} is not fed: {what.rstrip('.')}. The run goes on; {more}")
