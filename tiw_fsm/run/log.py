"""Logging with structlog: a sentence on the terminal, a JSON line with every fact in the run's log file."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import cast

import structlog
from rich.console import Console
from rich.text import Text
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable, short_log

STYLES = {"warning": "yellow", "error": "bold red"}


class _LogFile:
    """Grows to a bound, and begins anew then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        short_log.begin_anew_if_long(self._path)
        durable.require_plain(self._path)
        with disk_errors("opening", self._path):
            self._file = open(self._path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the process
            self._left = short_log.LARGEST - os.fstat(self._file.fileno()).st_size

    def write(self, line: str) -> None:
        if self._left < 0:
            self._file.close()
            self._open()
        with disk_errors("writing", self._path):
            self._file.write(line)
        self._left -= len(line)


def make_log(console: Console, path: Path) -> FilteringBoundLogger:
    """A logger that writes sentences to ``console`` and JSON lines to ``path``.

    Raises:
        DiskRefused: the file cannot be opened; later, that it cannot be written.
        StateDamaged: no plain file stands in its place.
    """
    file = _LogFile(path)

    def to_file(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        file.write(json.dumps(event, default=str) + "\n")
        return event

    def to_console(logger: WrappedLogger, method: str, event: EventDict) -> str:
        sentence = Text(f"{str(event['timestamp'])[11:19]}  ", style="dim")
        sentence.append(str(event["event"]), style=STYLES.get(method, ""))
        with suppress(OSError):  # a terminal that was closed, a pipe nobody reads: no reason to stop
            console.print(sentence, soft_wrap=True)
        return ""

    return cast(
        FilteringBoundLogger,
        structlog.wrap_logger(
            structlog.ReturnLogger(),  # the processors have written everything
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                to_file,
                to_console,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        ),
    )
