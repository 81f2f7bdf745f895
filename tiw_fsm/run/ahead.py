"""Frames are read while other work goes on: a first start reads them while it waits for its training process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from tiw_fsm.data import content
from tiw_fsm.data.content import Digests
from tiw_fsm.errors import Interrupted
from tiw_fsm.tinyworlds.config import DataSource

LOOKS = 0.1
"""Seconds between two looks at how far the reading is."""


class FrameReading:
    """All rows of the frames read once, in a thread of its own."""

    def __init__(self, source: DataSource) -> None:
        self._found: Future[Digests] = Future()
        self._progress = 0, 0
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._read, args=[source])
        self._thread.start()

    def _read(self, source: DataSource) -> None:
        try:
            self._found.set_result(content.digests(source, self._advance, self._look))
        except BaseException as exc:
            self._found.set_exception(exc)

    def _advance(self, done: int, total: int) -> None:
        self._progress = done, total
        self._look()

    def _look(self) -> None:
        if self._unwanted.is_set():
            raise Interrupted("asked to stop while the frames were read")

    def digests(self, show: Callable[[int, int, None], None], stopping: Callable[[], bool]) -> Digests:
        """What was found, once all is read.

        Raises:
            UsageProblem, DiskRefused: as ``content.digests``.
            Interrupted: asked to stop meanwhile.
        """
        while not self._found.done():
            show(*self._progress, None)
            if stopping():
                self._unwanted.set()
            self._thread.join(LOOKS)
        return self._found.result()

    def end(self) -> None:
        """Read no further. Whoever began the reading ends it: a process must not come to its end within HDF5."""
        self._unwanted.set()
        self._thread.join()
