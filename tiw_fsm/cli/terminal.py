"""Where people read: standard output and error, and what they may be told there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tiw_fsm.errors import DiskRefused, disk_errors
from tiw_fsm.values.printable import printable


class Terminal(Console):
    """Where people read. When nobody does any more it is silent; Rich would end the process, and that with 1.

    A path or an error may have anything in it: nothing but Rich itself tells the terminal what to do.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # Python flushes it once more at its end


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output for many lines: that nobody reads on, as ``head`` does, is no error.

    Raises:
        DiskRefused: the disk behind it is full, or fails.
    """
    try:
        with disk_errors("writing", Path("standard output")):
            try:
                yield sys.stdout
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except DiskRefused:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        raise


out, err = Terminal(highlight=False), Terminal(stderr=True, highlight=False)


@contextmanager
def progress(doing: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal for the length of the block, whose value is told (done, in all)."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = [*Progress.get_default_columns(), *([DownloadColumn(), TransferSpeedColumn()] if of_bytes else [])]
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
