"""A run's page on the disk: what goes into it is gathered here, and written beside the state.

The page is derived: it vouches for nothing and nothing is read from it. So it is replaced whole, but not synced: what a
power cut may do to it, the next start or `tiw-fsm report` mends, and a run is spared the wait.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from tiw_fsm.data import pictures
from tiw_fsm.errors import DiskRefused, StateDamaged, TiwFsmError, disk_errors
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting import curves
from tiw_fsm.reporting.html.page import PageData, Picture, page
from tiw_fsm.reporting.journal import attempts as journal_attempts
from tiw_fsm.reporting.journal import best_of
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.storage.store import Store, now
from tiw_fsm.system import append_log, durable
from tiw_fsm.values.plain import JsonObject, LogPosition

PICTURES = 4
"""Attempts whose pictures go into the page: the last ones, and the best."""
LARGEST = 3 << 20
"""Bytes a picture may have, to go into the page."""
MOST_PIXELS = 1 << 24
"""The same, once unpacked."""
INTERVAL, SHARE = 10.0, 0.01
"""Seconds between two writings, and the share of a run's time that they may take."""


def gather(store: Store, *, alive: bool | None = None) -> PageData | None:
    """What there is to tell of a run; None before it has begun. What only adorns may be missing or damaged: then the
    page says so.

    Raises:
        StateDamaged: the state or its journal cannot be read.
        DiskRefused: they cannot, because the disk fails.
    """
    alive = store.alive() if alive is None else alive
    run = store.load()
    if run is None:
        return None
    journal, problems = store.journal(), list[str]()
    config = _config(store, run, problems)
    return PageData(
        name=store.paths.folder.name,
        now=now(),
        alive=alive,
        run=run,
        journal=journal,
        curves=_curves(config, run, problems),
        config=config,
        attempts=_attempts(journal),
        chunks={stage: _picture(p.picture) for stage, p in run.stages.items() if p.picture},
        refused=None if alive else store.refused(),
        problems=problems,
    )


def _config(store: Store, run: RunState, problems: list[str]) -> JsonObject:
    try:
        return store.config(run)
    except (ValueError, TiwFsmError) as exc:
        problems.append(f"{store.paths.config} cannot be used, so neither configuration nor losses are shown: {exc}")
        return {}


def _curves(config: JsonObject, run: RunState, problems: list[str]) -> dict[Stage, curves.Curve]:
    if not config:
        return {}
    paths = RunPaths(Path(config["run_root"]), Path(config["repo_root"]))
    found = {}
    for stage, progress in run.stages.items():
        try:
            rows = append_log.AppendLog(paths.metrics(stage)).read(LogPosition(), progress.metrics)
            found[stage] = curves.read(rows)
        except (TiwFsmError, ValueError, LookupError) as exc:
            problems.append(f"The losses of {stage} are not shown: {exc}")
    return found


def _attempts(journal: list[JsonObject]) -> dict[int, Picture]:
    judged = journal_attempts(journal)
    best = best_of(judged)
    shown = {attempt.number: attempt.png for attempt in [*judged[-PICTURES:], *([best] if best else [])]}
    return {number: _picture(png, moving=True) for number, png in shown.items()}


def _picture(path: str | None, *, moving: bool = False) -> Picture:
    """A picture as it goes into the page; one that cannot be had has the reason in its place."""
    if path is None:
        return Picture("picture", problem="the attempt left none")
    name = Path(path).name
    try:
        content = durable.read_small(Path(path), LARGEST)
    except (ValueError, StateDamaged, DiskRefused) as exc:
        return Picture(name, problem=f"not shown, {exc}")
    if not _is_whole(content):
        return Picture(name, problem="not shown, it is no whole PNG, or a huge one")
    motion = _motion(content) if moving else None
    return Picture(name, content, motion if motion is None or len(motion) <= LARGEST else None)


@lru_cache(maxsize=4 * PICTURES)
def _is_whole(content: bytes) -> bool:
    """Found out once by a runner that shows the same pictures again and again."""
    return pictures.is_png(io.BytesIO(content), MOST_PIXELS)


@lru_cache(maxsize=2 * PICTURES)
def _motion(content: bytes) -> bytes | None:
    return pictures.motion(content)


def write(paths: StatePaths, text: str) -> Path:
    """Replace the page.

    Raises:
        DiskRefused: the disk did not take it; the page is the old one.
    """
    with disk_errors("writing", paths.page):
        durable.exchange(paths.page, text.encode(), synced=False)
    return paths.page


def refresh(store: Store, *, alive: bool) -> None:
    """Write the page, as the runner of the run.

    Raises:
        StateDamaged, DiskRefused: as ``gather`` and ``write``.
    """
    if data := gather(store, alive=alive):
        write(store.paths, page(data))


def write_now(store: Store) -> Path | None:
    """Write the page of a run as it is now, for whoever asked; None, and nothing is written, before it has begun.

    Raises:
        StateDamaged, DiskRefused: as ``gather`` and ``write``.
    """
    data = gather(store)
    return write(store.paths, page(data)) if data else None


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

    def committed(self) -> None:
        """After a commit: write the page, unless it was written just now."""
        if self._clock() >= self._due:
            self._write(alive=True)

    def ended(self) -> None:
        """At the end, whatever it was: the page tells of a run that nobody works on."""
        self._write(alive=False)

    def _write(self, *, alive: bool) -> None:
        began = self._clock()
        try:
            refresh(self.store, alive=alive)
        except Exception as exc:
            self._warn(f"the page {self.store.paths.page} is not up to date: {exc}")
        took = self._clock() - began
        self._due = began + took + max(INTERVAL, took / SHARE)

    def _warn(self, what: str) -> None:
        if what != self._warned:
            self._warned = what
            with suppress(DiskRefused):
                self.log.warning(what)
