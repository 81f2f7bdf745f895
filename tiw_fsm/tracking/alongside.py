"""The trackers of a run, as its runner sees them: a process for each, started at a commit, and left to itself.

Whatever becomes of one is a warning, at most. The runner waits for them once, when the run has ended, and not for long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from tiw_fsm.config.settings import Settings
from tiw_fsm.errors import DiskRefused
from tiw_fsm.storage.store import Store
from tiw_fsm.system import durable, short_log, signals, starter
from tiw_fsm.system.child import Child
from tiw_fsm.tracking import child as child_program
from tiw_fsm.tracking.feeding import Status, let_be
from tiw_fsm.tracking.tracker import MODULES, wanted
from tiw_fsm.values.plain import JsonObject

STARTS = 5
"""Processes that are started for a tracker, should the ones before have been killed."""
STUCK, LONGEST = 10.0, 60.0
"""At the end of a run, seconds after which a tracker is given up that lacks items and gets no further, and any tracker:
one that has them all says nothing while it sends them."""
HURRY = 3.0
"""The same for any tracker where the run was interrupted: whoever asked for that may not wait longer."""
PAUSE, TOLD = 0.05, 2.0
"""Seconds between two looks at them, and until it is said what is waited for."""
END = b"end\n"


class Trackers:
    """Those of one start of a run; none until ``start``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log: FilteringBoundLogger | None = None
        self._children: dict[str, Child | None] = {}
        self._starts: dict[str, int] = {}
        self._said: set[str] = set()

    def start(self, settings: Settings, log: FilteringBoundLogger) -> None:
        """From the next commit on, feed the trackers that the settings ask for."""
        self._log = log
        try:
            names, notes = wanted(settings)
            for note in notes:
                log.warning(note)
            with suppress(OSError):
                for name in MODULES.keys() - set(names):
                    durable.unlink(self._store.paths.tracker_status(name))
            self._children = dict.fromkeys(names)
        except Exception as exc:
            self._warn(f"trackers are not fed: {exc}")

    def committed(self) -> None:
        """After a commit: see that each tracker has its process, and say what became of one."""
        for name in self._children:
            try:
                self._look_after(name)
            except Exception as exc:
                self._warn(f"tracker {name}: {exc}")

    def close(self, *, hurry: bool, say: Callable[[str], None]) -> None:
        """Let each have the rest, for a bounded time, or until a signal asks for an end. What is left is told of."""
        if not self._starts:
            return
        self.committed()  # one may have been killed since
        children = {name: child for name, child in self._children.items() if child is not None}
        self._children = {}
        for child in children.values():
            with suppress(OSError):
                child.tell(END)
        with signals.asked_to_stop(lambda: None) as asked:
            self._wait(dict(children), HURRY if hurry else LONGEST, asked, say)
        for child in children.values():
            child.let_go()

    def _wait(
        self, waiting: dict[str, Child], longest: float, asked: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        """Until they have ended; those that get no further are ended."""
        catch_up = f"`tiw-fsm track --run {self._store.paths.folder.name}` catches up"
        begun, end = time.monotonic(), self._generation()
        heard: dict[str, tuple[float, JsonObject]] = dict.fromkeys(waiting, (begun, {}))
        told = False
        while waiting := {name: child for name, child in waiting.items() if child.poll() is None}:
            now = time.monotonic()
            heard = {name: _later(heard[name], (now, self._news(name))) for name in waiting}
            silent = {name: now - since > _patience(said, end) for name, (since, said) in heard.items()}
            for name in [name for name in waiting if asked() or silent[name] or now > begun + longest]:
                waiting.pop(name).end()
                let_be(self._store.paths, name, "it had not taken everything when the run ended")
                say(f"{name} has not taken everything yet; {catch_up}")
            if waiting and not told and now - begun > TOLD:
                told = True
                say(f"waiting for {' and '.join(waiting)} to take the rest; Ctrl-C leaves it, and {catch_up}")
            time.sleep(PAUSE)

    def _look_after(self, name: str) -> None:
        child = self._children[name]
        said = self._store.trackers().get(name)
        if child is not None and said and said["reason"]:
            self._warn(f"tracker {name}: not fed: {said['reason'].rstrip('.')}")
        if child is not None and child.poll() is None:
            return
        if child is not None:
            child.let_go()
            self._warn(f"tracker {name}: its process {child.how_it_ended()}")
            self._children[name] = None
        if self._starts.get(name, 0) < STARTS:
            self._starts[name] = self._starts.get(name, 0) + 1
            self._children[name] = self._started(name)

    def _started(self, name: str) -> Child:
        paths = self._store.paths
        Status().write(paths.tracker_status(name))
        short_log.begin_anew_if_long(paths.trackers_log)
        return Child(
            starter.command(child_program.__file__, os.getpid(), str(paths.folder), name),
            output=paths.trackers_log,
            max_silence=LONGEST,
            environment=os.environ,
        )

    def _news(self, name: str) -> JsonObject:
        with suppress(Exception):
            return self._store.trackers().get(name, {})
        return {}

    def _generation(self) -> int | None:
        """The last that is committed."""
        with suppress(Exception):
            found = self._store.document()
            return found and found.state["generation"]
        return None

    def _warn(self, what: str) -> None:
        """Once for each reason. Not even that may fail: the disk that refuses a tracker may refuse the log."""
        if self._log is not None and what not in self._said:
            self._said.add(what)
            with suppress(DiskRefused):
                self._log.warning(f"{what}. The run goes on; {self._store.paths.trackers_log} has more")


def _patience(said: JsonObject, end: int | None) -> float:
    """Seconds that a tracker may take from its last word on."""
    return LONGEST if said.get("generation") == end else STUCK


def _later(before: tuple[float, JsonObject], now: tuple[float, JsonObject]) -> tuple[float, JsonObject]:
    """When something was heard that is not what was heard before, and what."""
    return now if now[1] != before[1] else before
