"""Where people read: standard output and error, and what they may be told there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tiw_fsm.errors import Interrupted, refusal
from tiw_fsm.system.signals import asked_to_stop
from tiw_fsm.values.printable import printable

STANDARD_OUTPUT = Path("standard output")
"""As messages call it."""


class Terminal(Console):
    """Where people read. When nobody does any more it is silent; Rich would end the process, and that with 1.

    A path or an error may have anything in it: nothing but Rich itself tells the terminal what to do, and what looks
    like Rich's markup, or a name of an emoji, is text.

    Raises:
        DiskRefused: at a ``print``, the disk behind standard output is full, or fails. Of standard error there is
            nobody left to tell.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*objects, **how)
        except OSError as exc:
            self.on_broken_pipe()
            if not self.stderr:
                raise refusal("writing", STANDARD_OUTPUT, exc) from exc

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _give_up(self.file)


def _give_up(file: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # Python flushes it once more at its end


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output for many lines: that nobody reads on, as ``head`` does, is no error.

    Raises:
        DiskRefused: the disk behind it is full, or fails.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError as exc:
        _give_up(sys.stdout)
        raise refusal("writing", STANDARD_OUTPUT, exc) from exc


@contextmanager
def help_told() -> Iterator[None]:
    """What typer prints by itself, such as the help, is refused by a full disk in the same words as the rest.

    Raises:
        DiskRefused: the disk behind standard output is full, or fails.
    """
    try:
        yield
    except OSError as exc:
        try:
            os.write(sys.stdout.fileno(), b"\n")
        except OSError:  # a single byte is refused, too: so this is what failed
            _give_up(sys.stdout)
            raise refusal("writing", STANDARD_OUTPUT, exc) from exc
        raise


def print_json(value: Any) -> None:
    """What ``--json`` prints.

    Raises:
        DiskRefused: the disk behind standard output is full, or fails.
    """
    with standard_output() as file:
        print(json.dumps(value, indent=1), file=file)


out, err = Terminal(), Terminal(stderr=True)


class Show(Protocol):
    """Tells a bar how much is done, of how much in all where that is known, and of what if that has changed."""

    def __call__(self, done: int, total: int | None, /, doing: str | None = None) -> None: ...


@contextmanager
def progress(doing: str, *, of_bytes: bool = False) -> Iterator[Show]:
    """A bar on a terminal for the length of the block, whose value is told what is done."""
    from rich.markup import escape
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = [*Progress.get_default_columns(), *([DownloadColumn(), TransferSpeedColumn()] if of_bytes else [])]
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(printable(doing)), total=None)

        def show(done: int, total: int | None, /, doing: str | None = None) -> None:
            named = None if doing is None else escape(printable(doing))
            bar.update(task, completed=done, total=total, description=named)

        yield show


@contextmanager
def stoppable_progress(doing: str, interrupted: str, *, of_bytes: bool = False) -> Iterator[Show]:
    """As ``progress``, where Ctrl-C, SIGTERM and the like are heeded whenever the value of the block is called.

    Raises:
        Interrupted: asked to stop, with the words ``interrupted``.
    """
    with asked_to_stop(lambda: None) as stopping, progress(doing, of_bytes=of_bytes) as bar:

        def show(done: int, total: int | None, /, doing: str | None = None) -> None:
            bar(done, total, doing)
            if stopping():
                raise Interrupted(interrupted)

        yield show
