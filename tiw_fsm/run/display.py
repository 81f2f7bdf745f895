"""What a person sees while a run works: progress bars on a terminal, and log lines above them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from tiw_fsm.engines.protocol import Progress as Advance
from tiw_fsm.reporting.wording import duration
from tiw_fsm.stages import Stage

BETWEEN_LINES = 30.0
"""Seconds between two lines on a long piece of work, where no bar shows it."""
SLOW, DAY = 5.0, 86400.0
"""Seconds of an update, and of all that are to come, from which on they are told of."""
SURE = 15.0
"""Seconds of training after which the pace is known: the start of a process is in it, too."""


class _Pace(ProgressColumn):
    """What an update takes, and how long all to come will; after the first one already."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or task.fields["speed"]
        if not speed:
            return Text("ETA -:--:--")
        pace = f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(f"{pace} ETA {duration((task.remaining or 0) / speed)}")


class Display:
    """Progress bars on standard error, one per stage; nothing where standard error is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description:>16}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[loss]}"),
            _Pace(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._paced: set[Stage] = set()

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
        begun = time.monotonic()

        def advance(done: int, total: int, loss: float | None) -> None:
            seconds = time.monotonic() - begun
            speed = (done - completed) / seconds
            self._bars.update(task, completed=done, loss="" if loss is None else f"loss {loss:.4f}", speed=speed)
            if speed and seconds > SURE and stage not in self._paced:
                self._paced.add(stage)
                self._tell_if_slow(stage, 1 / speed, (target - done) / speed)

        yield advance

    def _tell_if_slow(self, stage: Stage, each: float, to_go: float) -> None:
        """What an update takes, once for a stage, where somebody may want to go no further."""
        if each < SLOW and to_go < DAY:
            return
        told = f"{stage}: an update takes {each:.1f} s here, and all that are to go {duration(to_go)}"
        smaller = "; configs/demo is a profile for two CPU cores" if to_go > DAY else ""
        self.console.print(told + smaller, style="yellow", soft_wrap=True)

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
        self._bars.update(task, visible=True)

        def advance(done: int, total: int, loss: float | None) -> None:
            nonlocal told
            self._bars.update(task, completed=done, total=total)
            if not self.console.is_terminal and time.monotonic() - told > BETWEEN_LINES:
                told = time.monotonic()
                self.console.print(f"reading all frames once: {done} of {total} rows")

        yield advance
        self._bars.update(task, visible=False)

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, loss="", speed=None)
        return self._tasks[name]
