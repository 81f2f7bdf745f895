"""The stage in training between two requests: a trainer, the checkpoint that it stands at, and what it did beyond."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tiw_fsm.engines.protocol import TrainRequest
from tiw_fsm.tinyworlds.objectives import Row
from tiw_fsm.tinyworlds.training import Trainer

AHEAD_SECONDS = 0.25
"""What an update may take of which more are done than were asked for: who asks for something else waits for one."""


class LiveTrainer:
    """A trainer, and where it stands.

    What updates compute depends on nothing but where they begin. So those that follow can be done while their
    checkpoint is still being written and committed, and are there when they are asked for. If they never are, the
    trainer stands nowhere that a request begins, and is let go of.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._at: tuple[Any, ...] | None = None
        self._request: TrainRequest | None = None
        """The last one."""
        self._ahead: list[Row] = []
        """Rows of the updates done beyond it."""
        self._seconds = 0.0
        """What these took."""
        self._fast = False

    def is_at(self, request: TrainRequest) -> bool:
        """Whether it stands exactly where the request begins, and all that it did beyond is a part of it."""
        last, begins = self._request, (*_identity(request), request.resume and request.resume.sha256)
        if last is None or self._at != begins:
            return False
        same_way = (request.tuning, request.schedule) == (last.tuning, last.schedule)
        return not self._ahead or (same_way and request.start + len(self._ahead) <= request.stop_at)

    def train(
        self, request: TrainRequest, should_stop: Callable[[], bool], progress: Callable[[int, float], None]
    ) -> tuple[list[Row], float]:
        """The rows of the updates asked for, and the seconds that these took; fewer if it is asked to stop."""
        rows, seconds = self._ahead, self._seconds
        self._request, self._at, self._ahead, self._seconds = request, None, [], 0.0
        began = time.monotonic()
        start = request.start + len(rows)
        rows = rows + self.trainer.train(
            start, request.stop_at, request.tuning, request.schedule, should_stop, progress
        )
        seconds += time.monotonic() - began
        self._fast = seconds <= AHEAD_SECONDS * len(rows)
        return rows, seconds

    def stands_at(self, sha256: str) -> None:
        """The checkpoint of the last request's updates has this digest."""
        assert self._request is not None
        self._at = (*_identity(self._request), sha256)

    def go_ahead(self, until: Callable[[], bool]) -> None:
        """Do updates that follow the last request, one by one, if such take no time."""
        request = self._request
        while request is not None and self._fast and len(self._ahead) < request.ahead and not until():
            began = time.monotonic()
            update = request.stop_at + len(self._ahead)
            self._ahead += self.trainer.train(
                update, update + 1, request.tuning, request.schedule, lambda: False, lambda done, loss: None
            )
            self._seconds += time.monotonic() - began


def _identity(request: TrainRequest) -> tuple[Any, ...]:
    """All that a trainer is made of."""
    return request.stage, request.config, request.seed, request.inputs, request.processes
