"""A run's page kept current by its runner.

What writes it takes a quarter of a second to import and to compile. That is done in a thread, while the runner waits
for its training process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from tiw_fsm.errors import DiskRefused
from tiw_fsm.storage.store import Store

if TYPE_CHECKING:
    from tiw_fsm.reporting.html.writer import Reader

INTERVAL, SHARE = 10.0, 0.01
"""Seconds between two writings, and the share of a run's time that they may take."""


class PageWriter:
    """Keeps a run's page current while it runs, and never stands in its way.

    Whatever goes wrong is a warning, at most: a page is not worth a run. Not even the warning may fail, for the disk
    that refuses the page may refuse the log; if it refuses what the run needs, the next commit says so.
    """

    def __init__(self, store: Store, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.log = log
        self._clock = clock
        self._due = 0.0
        self._warned = ""
        self._reader: Reader | None = None
        threading.Thread(target=_prepare).start()

    def committed(self) -> None:
        """After a commit: write the page, unless it was written just now."""
        if self._clock() >= self._due:
            self._write(alive=True)

    def ended(self) -> None:
        """At the end, whatever it was: the page tells of a run that nobody works on."""
        self._write(alive=False)

    def _write(self, *, alive: bool) -> None:
        from tiw_fsm.reporting.html import writer

        began = self._clock()
        try:
            self._reader = self._reader or writer.Reader()
            writer.refresh(self.store, alive=alive, reader=self._reader)
        except Exception as exc:
            self._reader = None  # what was read half way would be read twice
            self._warn(f"the page {self.store.paths.page} is not up to date: {exc}")
        took = self._clock() - began
        self._due = began + took + max(INTERVAL, took / SHARE)

    def _warn(self, what: str) -> None:
        if what != self._warned:
            self._warned = what
            with suppress(DiskRefused):
                self.log.warning(what)


def _prepare() -> None:
    """Have all at hand that the first page needs."""
    with suppress(Exception):  # who writes the page will say what is wrong
        from tiw_fsm.reporting.html import templating, writer  # noqa: F401

        templating.environment().get_template("page.html.j2")
