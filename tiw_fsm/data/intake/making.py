"""A frame file made of sources: streamed, the same bytes for the same sources, whole or not at all."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data import pictures, writing
from tiw_fsm.data.intake import kinds, thinning
from tiw_fsm.data.intake.cuts import Cuts
from tiw_fsm.data.intake.fitting import fit
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import LEAST_CLIP, LEAST_ROWS, UNKNOWN, Picture, Shot, Source
from tiw_fsm.errors import UsageProblem, disk_errors
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds.episodes import HELD_OUT_EVERY, split_rows
from tiw_fsm.values.printable import excerpt, printable

PIECES, LEAST_PIECE = 2 * HELD_OUT_EVERY, 64
"""Into how many pieces long play is cut if it has fewer episodes than one in ten can be held out of, and how many
frames they have at least unless there are too few."""
ASSUMED_FPS = 30.0
"""Of frames that nobody timed, where only scene cuts are looked for."""
MOST_NAMED = 1000
"""Sources whose names the file has: HDF5 takes no more than some thousands in an attribute."""
MOST_SIZES = 5
"""Of pictures that a note names."""
DARK = 25
"""Frames without a pixel brighter than a tenth of white are hardly meant so."""
SHEET_ROWS, SHEET_COLUMNS = 8, 8
"""Episodes on the contact sheet, and frames of each."""

Advance = Callable[[int, int | None], None]
"""Called with (frames read, frames expected)."""


class Made(NamedTuple):
    """What was made."""

    path: Path
    sheet: Path
    """The contact sheet."""
    rows: int
    episodes: int
    held_out: int
    """Episodes that training does not see; 0 where the last tenth of the rows is held out."""
    size: int
    fps: float | None
    """Rows per second of play, if all sources say so and agree."""
    actions: int | None
    """Different ones, known ones only; None where there are none."""
    source_size: tuple[int, int]
    """Width and height of the first source's pictures."""
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Of play."""
        return self.rows / self.fps if self.fps else None


def make(
    path: Path, names: Sequence[str], options: Options, on_progress: Advance = lambda done, expected: None
) -> Made:
    """Write ``frames`` (N, S, S, 3) uint8, ``episode`` (N) and, where they are known, ``actions`` (N) to ``path``.

    Beside it a contact sheet is drawn, ``path`` with .png behind.

    Args:
        names: the sources, as ``kinds.KINDS`` knows them, one behind the other.

    Raises:
        UsageProblem: a source cannot be used, or has too few frames, or no file can be at ``path`` or the sheet's
            place, or one of them is a source's; ``path`` is as it was before.
        RunHeld: another process is writing ``path``.
        DiskRefused: the disk failed; ``path`` is as it was before.
    """
    sheet = path.with_name(path.name + ".png")
    for place in (path, sheet):
        writing.require_file(place)
        _require_apart(place, names)
    opens = kinds.opened(names, options)
    with writing.replacing(path) as file:
        making = _Making(file, options, on_progress)
        for opening in opens:
            with closing(opening()) as source:
                making.take(source)
        notes = making.finish()
        made = making.made(path, sheet, notes)
        durable.replace(sheet, _contact_sheet(file, made))
    return made


def _require_apart(place: Path, names: Sequence[str]) -> None:
    """Raise UsageProblem if what is written to ``place`` would be part of a source, by whatever name or link."""
    there = _identity(place)
    for name in names:
        if os.path.isdir(name) and place.resolve().is_relative_to(Path(name).resolve()):
            raise UsageProblem(f"{place}: lies in the source {excerpt(name)}; name a file outside of it with --output")
        if there and there in map(_identity, _files(name)):
            raise UsageProblem(f"{place}: is the source {excerpt(name)}, or in it; name another file with --output")


def _files(name: str) -> Iterator[str]:
    yield name
    yield from (os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files)


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What is the same for all names of a file; None if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


class _Making:
    """A file that is written, source by source; what is known of each row is kept until its end."""

    def __init__(self, file: h5py.File, options: Options, on_progress: Advance) -> None:
        self._file, self._options, self._on_progress = file, options, on_progress
        self._pixels = writing.add_frames(file, options.size)
        self._labels: list[h5py.Dataset] = []
        self._waiting: list[Picture] = []
        self._actions, self._episode = array("q"), array("q")
        self._keys: tuple[str, ...] | None = None
        self._sources: list[str] = []
        self._rates: set[float | None] = set()
        self._notes: dict[str, list[str]] = {}
        self._read, self._expected = 0, 0
        self._sizes: list[tuple[int, int]] = []
        self._brightest, self._first, self._all_same = 0, np.zeros(0, np.uint8), True

    def take(self, source: Source) -> None:
        """All frames of a source."""
        asked = self._options.episodes
        if asked == "dones" and not source.has_dones:
            raise UsageProblem(
                f"{source.name}: says nowhere that an episode is done; leave --episodes out, or take cuts or file"
            )
        self._expected = self._read + source.expected if source.expected else 0
        self._sources.append(printable(source.name))
        for note in source.notes:
            self._notes.setdefault(note, []).append(printable(source.name))
        if source.keys is not None and (self._keys is None or len(source.keys) > len(self._keys)):
            self._keys = source.keys
        rate = self._options.fps or source.fps
        self._rates.add(rate / self._options.stride if rate else None)
        cuts = Cuts(rate or ASSUMED_FPS) if asked == "cuts" else None
        shots = self._counted(source)
        if self._options.fps:
            shots = thinning.at_rate(shots, self._options.fps)
        first, before, number = len(self._episode), None, self._next_episode()
        for shot in thinning.every(shots, self._options.stride):
            if asked in (None, "dones") and before is not None and shot.episode != before:
                number += 1
            before = shot.episode
            self._add(shot, number)
            if cuts:
                cuts.show(self._waiting[-1])
            self._flush(writing.CHUNK_FRAMES)
        if cuts:
            begins = np.zeros(len(self._episode) - first, np.int64)
            begins[list(cuts.rows)] = 1
            self._episode[first:] = array("q", (np.array(self._episode[first:]) + np.cumsum(begins)).tolist())

    def _next_episode(self) -> int:
        return self._episode[-1] + 1 if self._episode else 0

    def _counted(self, source: Source) -> Iterator[Shot]:
        """Its frames, all of one size, told of as they are read."""
        shape = None
        for read, shot in enumerate(_shots(source)):
            here = shot.picture.shape[1], shot.picture.shape[0]
            if shape is not None and here != shape:
                raise UsageProblem(
                    f"{source.name}: has frames of {shape[0]} by {shape[1]} pixels and, {_place(shot, read)}, of "
                    f"{here[0]} by {here[1]}; make a file of each size, or bring them to one"
                )
            shape = here
            if here not in self._sizes:
                self._sizes.append(here)
            self._read += 1
            self._on_progress(self._read, self._expected or None)
            yield shot

    def _add(self, shot: Shot, number: int) -> None:
        fitted = fit(shot.picture, self._options.size, self._options.fit)
        if not self._episode:
            self._first = fitted
        self._all_same = self._all_same and np.array_equal(fitted, self._first)
        self._brightest = max(self._brightest, int(fitted.max()))
        self._waiting.append(fitted)
        self._actions.append(shot.action)
        self._episode.append(number)

    def _flush(self, least: int) -> None:
        """Write the frames that wait, if there are so many."""
        if self._waiting and len(self._waiting) >= least:
            done = self._pixels.shape[0]
            self._pixels.resize(done + len(self._waiting), axis=0)
            self._pixels[done:] = np.stack(self._waiting)
            self._waiting.clear()

    def finish(self) -> list[str]:
        """Write what is left and what is known of the rows; returns what their owner may not expect."""
        self._flush(1)
        rows = len(self._episode)
        if rows < LEAST_ROWS:
            raise UsageProblem(
                f"{_named(self._sources)}: {rows} frame{' in all is' if rows == 1 else 's in all are'} too few to "
                f"train and judge on; give at least {LEAST_ROWS}"
            )
        attrs: dict[str, object] = {"stride": 1, "fit": self._options.fit}
        if (fps := self._fps()) is not None:
            attrs["fps"] = fps
        self._file.attrs.update(attrs)
        self._file.attrs["sources"] = np.array(self._sources[:MOST_NAMED], h5py.string_dtype())
        if self._keys is not None:
            self._labels.append(writing.add_actions(self._file, rows, self._keys))
            self._labels[-1][:] = np.array(self._actions)
        notes = [f"{_named(names)}: {note}" for note, names in self._notes.items()]
        if self._options.episodes != "one":
            episode, cut = numbered(np.array(self._episode), self._options.episode_length)
            self._labels.append(writing.add_episode(self._file, rows))
            self._labels[-1][:] = episode
            notes += [cut] if cut else []
            if (longest := int(np.bincount(episode).max())) < LEAST_CLIP:
                notes.append(
                    f"no episode is longer than {longest} frame{'s' if longest > 1 else ''}, and clips, which never "
                    f"cross one, have {LEAST_CLIP}: --episodes file makes one of each source"
                )
        self._file.flush()
        return notes + self._of_pictures()

    def _of_pictures(self) -> list[str]:
        """What their owner may not expect of the pictures themselves."""
        notes = []
        if len(self._sizes) > 1:
            sizes = ", ".join(f"{width} by {height}" for width, height in self._sizes[:MOST_SIZES])
            more = f" and {len(self._sizes) - MOST_SIZES} more" if len(self._sizes) > MOST_SIZES else ""
            notes.append(f"pictures of several sizes were brought to one: {sizes}{more}")
        if self._all_same:
            notes.append("all frames are the same, so there is nothing to learn")
        if self._brightest <= DARK:
            notes.append(
                f"the brightest pixel is {self._brightest} of 255, so the frames are nearly black; if that is white, "
                "scale the values to 0 to 255"
            )
        return notes

    def made(self, path: Path, sheet: Path, notes: list[str]) -> Made:
        """What was made, as far as the file has it."""
        rows = len(self._episode)
        episode = self._file["episode"][:] if "episode" in self._file else None
        numbers, held_out = split_rows(rows, episode, 0)
        known = {action for action in self._actions if action != UNKNOWN}
        return Made(
            path,
            sheet,
            rows,
            episodes=int(numbers[-1]) + 1 if episode is not None else 1,
            held_out=len(np.unique(numbers[held_out])) if episode is not None else 0,
            size=self._options.size,
            fps=self._fps(),
            actions=None if self._keys is None else len(known),
            source_size=self._sizes[0],
            notes=tuple(notes),
        )

    def _fps(self) -> float | None:
        return next(iter(self._rates)) if len(self._rates) == 1 else None


def _shots(source: Source) -> Iterator[Shot]:
    """Its frames; an error of the operating system that it let through is one of reading it, not of what is written."""
    with disk_errors("reading", Path(source.name)):
        yield from source.shots


def _place(shot: Shot, read: int) -> str:
    return f"in {excerpt(shot.file)}" if shot.file else f"after {read} frame{'s' if read > 1 else ''}"


def _named(sources: Sequence[str]) -> str:
    others = len(sources) - 1
    return sources[0] + (f" and {others} other{'s' if others > 1 else ''}" if others else "")


def numbered(episode: NDArray[np.int64], longest: int | None) -> tuple[NDArray[np.int64], str | None]:
    """The episodes from 0 on, none longer than ``longest``; and what is to be said of it.

    Fewer than ten leave none to be held out, so that long ones are cut then.
    """
    begins = np.concatenate([[True], episode[1:] != episode[:-1]])
    if longest is not None:
        begins = _cut(begins, longest)
    if (found := int(begins.sum())) >= HELD_OUT_EVERY:
        return np.cumsum(begins) - 1, None
    rows = len(episode)
    piece = max(rows // PIECES, min(LEAST_PIECE, rows // HELD_OUT_EVERY))
    begins = _cut(begins, piece)
    return np.cumsum(begins) - 1, (
        f"{found} episode{'s were' if found > 1 else ' was'} cut into {int(begins.sum())} of at most {piece} frames, "
        "so that every tenth can be held out"
    )


def _cut(begins: NDArray[np.bool_], longest: int) -> NDArray[np.bool_]:
    """Where episodes begin that are no longer than ``longest`` rows, the pieces of one about equally long."""
    edges = [*np.flatnonzero(begins).tolist(), len(begins)]
    cut = begins.copy()
    for begin, end in pairwise(edges):
        pieces = -(-(end - begin) // longest)
        cut[[begin + (end - begin) * n // pieces for n in range(pieces)]] = True
    return cut


def _contact_sheet(file: h5py.File, made: Made) -> bytes:
    """Frames spread over episodes that are spread over the file, as a PNG."""
    episode = file["episode"][:] if "episode" in file else np.arange(made.rows) * SHEET_ROWS // made.rows
    edges = [0, *(np.flatnonzero(np.diff(episode)) + 1).tolist(), made.rows]
    shown = np.unique(np.linspace(0, len(edges) - 2, SHEET_ROWS).round().astype(int))
    strips = []
    for number in shown.tolist():
        rows = np.unique(np.linspace(edges[number], edges[number + 1] - 1, SHEET_COLUMNS).round().astype(int))
        label = f"ep. {number}" if "episode" in file else str(edges[number])
        strips.append((label, np.stack([file["frames"][row] for row in rows.tolist()])))
    return pictures.strips(f"{printable(made.path.name)}: {made.rows} frames, {made.episodes} episodes", strips)
