"""What a person sees while a run works: progress bars on a terminal, and log lines above them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from tiw_fsm.engines.protocol import Progress as Advance
from tiw_fsm.stages import Stage

BETWEEN_LINES = 30.0
"""Seconds between two lines on a long piece of work, where no bar shows it."""


class _Speed(TextColumn):
    """Updates per second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Display:
    """Progress bars on standard error, one per stage; nothing where standard error is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description:>16}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[loss]}"),
            _Speed(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    @contextmanager
    def training(self, stage: Stage, completed: int, target: int) -> Iterator[Advance]:
        """A stage's bar; call the yielded function with (completed, _, loss)."""
        task = self._task(stage.value, target)
        self._bars.update(task, total=target, completed=completed)

        def advance(done: int, total: int, loss: float | None) -> None:
            self._bars.update(task, completed=done, loss="" if loss is None else f"loss {loss:.4f}")

        yield advance

    @contextmanager
    def inferring(self, steps: int) -> Iterator[Advance]:
        """The bar of a rollout."""
        task = self._task("inference", steps)
        self._bars.reset(task, total=steps)
        yield lambda done, total, loss: self._bars.update(task, completed=done)
        self._bars.update(task, completed=steps)

    @contextmanager
    def reading(self) -> Iterator[Advance]:
        """The bar of a file that is read; where there is no terminal, a line now and then."""
        task, told = self._task("frames", 0), time.monotonic()

        def advance(done: int, total: int, loss: float | None) -> None:
            nonlocal told
            self._bars.update(task, completed=done, total=total)
            if not self.console.is_terminal and time.monotonic() - told > BETWEEN_LINES:
                told = time.monotonic()
                self.console.print(f"reading all frames once: {done} of {total} rows")

        yield advance

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, loss="")
        return self._tasks[name]
