"""A run's page on the disk: what goes into it is gathered here, and written beside the state.

The page is derived: it vouches for nothing and nothing is read from it. So it is replaced whole, but not synced: what a
power cut may do to it, the next start or `tiw-fsm report` mends, and a run is spared the wait.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path

from tiw_fsm.data import pictures
from tiw_fsm.errors import DiskRefused, StateDamaged, TiwFsmError, disk_errors
from tiw_fsm.fsm.run_state import RunState, StageProgress
from tiw_fsm.reporting import curves
from tiw_fsm.reporting.html.page import PageData, Picture, page
from tiw_fsm.reporting.journal import best_of
from tiw_fsm.reporting.past import Past
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


class Reader:
    """What has been read of a run's journal and metrics: of the same run, what is new is read alone."""

    def __init__(self) -> None:
        self.past = Past()
        self._metrics: dict[Path, Metrics] = {}

    def losses(self, path: Path, progress: StageProgress, rejected: Sequence[int]) -> curves.Losses:
        """A stage's losses.

        Raises:
            StateDamaged, DiskRefused: the metrics are not what the state vouches for.
            ValueError, LookupError: they are none.
        """
        metrics = self._metrics.pop(path, None) or Metrics(path)
        found = metrics.read(progress, rejected)
        self._metrics[path] = metrics  # one that failed half way is not used again
        return found


class Metrics:
    """What has been read of a stage's metrics. The rows of the attempt in hand may be taken back, so they are read anew
    each time."""

    def __init__(self, path: Path) -> None:
        self._log = append_log.AppendLog(path)
        self._read = LogPosition()
        self._losses = curves.Losses()

    def read(self, progress: StageProgress, rejected: Sequence[int]) -> curves.Losses:
        """As ``Reader.losses``."""
        for curve in curves.read(self._log.lines(self._read, progress.attempt_metrics)):
            self._losses.extend(curve, rejected)
        self._read = progress.attempt_metrics
        in_hand = copy(self._log)  # it goes on from what is verified, and leaves it as it is
        rows = curves.read(in_hand.lines(progress.attempt_metrics, progress.metrics))
        return self._losses.followed_by(rows, rejected)


def gather(store: Store, *, alive: bool | None = None, reader: Reader | None = None) -> PageData | None:
    """What there is to tell of a run; None before it has begun. What only adorns may be missing or damaged: then the
    page says so.

    Args:
        reader: what was read for the same run's page before.

    Raises:
        StateDamaged: the state or its journal cannot be read.
        DiskRefused: they cannot, because the disk fails.
    """
    alive = store.alive() if alive is None else alive
    found = store.newest()
    if found is None:
        return None
    reader = reader or Reader()
    run, problems = found.run, list[str]()
    past = reader.past.follow(store, found)
    config = _config(store, run, problems)
    return PageData(
        name=store.paths.folder.name,
        now=now(),
        alive=alive,
        run=run,
        past=past,
        losses=_losses(config, run, reader, problems),
        config=config,
        attempts=_attempts(past),
        chunks={stage: _picture(p.picture) for stage, p in run.stages.items() if p.picture},
        refused=None if alive else store.refused(),
        problems=problems,
    )


def _config(store: Store, run: RunState, problems: list[str]) -> JsonObject:
    try:
        return store.config(run)
    except TiwFsmError as exc:
        problems.append(f"neither configuration nor losses are shown: {exc}")
        return {}


def _losses(config: JsonObject, run: RunState, reader: Reader, problems: list[str]) -> dict[Stage, curves.Losses]:
    if not config:
        return {}
    paths = RunPaths(Path(config["run_root"]), Path(config["repo_root"]))
    found = {}
    for stage, progress in run.stages.items():
        try:
            found[stage] = reader.losses(paths.metrics(stage), progress, reader.past.rejected[stage])
        except (TiwFsmError, ValueError, LookupError) as exc:
            problems.append(f"The losses of {stage} are not shown: {exc}")
    return found


def _attempts(past: Past) -> dict[int, Picture]:
    judged = past.attempts
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


@lru_cache(maxsize=PICTURES + 1 + len(Stage))
def _is_whole(content: bytes) -> bool:
    """Found out once by a runner that shows the same pictures again and again."""
    return pictures.is_png(io.BytesIO(content), MOST_PIXELS)


@lru_cache(maxsize=PICTURES + 1)
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


def refresh(store: Store, *, alive: bool, reader: Reader | None = None) -> None:
    """Write the page, as the runner of the run.

    Raises:
        StateDamaged, DiskRefused: as ``gather`` and ``write``.
    """
    if data := gather(store, alive=alive, reader=reader):
        write(store.paths, page(data))


def write_now(store: Store) -> Path | None:
    """Write the page of a run as it is now, for whoever asked; None, and nothing is written, before it has begun.

    Raises:
        StateDamaged, DiskRefused: as ``gather`` and ``write``.
    """
    data = gather(store)
    return write(store.paths, page(data)) if data else None
