"""Arrays as sources: which of a file's arrays holds the pictures, and what lies beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.intake.images import natural
from tiw_fsm.data.intake.layouts import Layout, holds_pictures, layout_of, pictures, range_of
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import LEAST_SIDE, MOST_ROWS, UNKNOWN, Shot, Source
from tiw_fsm.errors import UsageProblem
from tiw_fsm.values.printable import quoted

BLOCK_BYTES = 1 << 23
"""Of an array that are read at a time."""
USUAL = "frames"
"""The key that is taken where several hold pictures."""
ACTIONS = ("actions", "action")


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.concatenate([[False], values[1:] != values[:-1]]) if len(values) else np.zeros(0, bool)


def _after(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.concatenate([[False], values[:-1] != 0]) if len(values) else np.zeros(0, bool)


def _at(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(values != 0)


BEGINNINGS = (
    *((label, _changes) for label in ("episode", "episodes", "episode_id", "episode_ids", "episode_index")),
    *(
        (label, _after)
        for label in ("dones", "done", "terminals", "timeouts", "terminations", "truncations", "is_last")
    ),
    ("is_first", _at),
)
"""Arrays that tell where episodes begin, and how: a number that changes, the row after a last one, a first one."""


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        blocks: its values, some rows at a time, [n, ...]; given how many of its first axes are rows.
        read: all of it.
        names: of its values by number, if it has some.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[int], Iterator[NDArray[Any]]]
    read: Callable[[], NDArray[Any]]
    names: tuple[str, ...] = ()


class _Labels(NamedTuple):
    episode: NDArray[np.int64]
    known: bool
    actions: NDArray[np.int64] | None
    names: tuple[str, ...]


def open_arrays(where: str, name: str, held: Mapping[str, Stored], options: Options) -> Source:
    """The pictures that a file's arrays hold; of several that ``--key`` means, one after the other.

    Args:
        where: the file, as messages name it.
        name: of the source.
        held: its arrays by their keys; the key of a file that is one array is "".

    Raises:
        UsageProblem: no array can be the pictures, or which is not known; or they claim more rows than can be.
    """
    keys = _chosen(where, held, options.key)
    if (rows := sum(map(rows_of, (held[key] for key in keys)))) > MOST_ROWS:
        raise UsageProblem(f"{where}: claims {rows:,} rows; give at most {MOST_ROWS:,}, or mend what it says of itself")
    notes: list[str] = []
    labels = [_labels(held, key, notes) for key in keys]
    known = [each.names for each in labels if each.actions is not None]
    return Source(
        name,
        _shots(where, held, list(zip(keys, labels, strict=True)), notes),
        sum(len(each.episode) for each in labels),
        keys=max(known, key=len) if known else None,
        has_dones=len(keys) > 1 or any(each.known for each in labels),
        notes=tuple(dict.fromkeys(notes)),
    )


def usual_keys(held: Mapping[str, Stored]) -> list[str]:
    """The keys of arrays that are taken for pictures where none is asked for; one has to be, if they are several."""
    able = _able(held)
    return [USUAL] if USUAL in able else able


def rows_of(array: Stored) -> int:
    """How many pictures an array has that holds some."""
    return math.prod(array.shape[: _layout(array).row_axes])


def _layout(array: Stored) -> Layout:
    """How pictures lie in an array that was chosen because it holds some."""
    layout = layout_of(array.shape)
    assert layout is not None
    return layout


def _able(held: Mapping[str, Stored]) -> list[str]:
    return sorted((key for key, each in held.items() if holds_pictures(each.shape, each.dtype)), key=natural)


def _chosen(where: str, held: Mapping[str, Stored], asked: str | None) -> list[str]:
    able = _able(held)
    there = f"keys with pictures are {', '.join(able[:20])}" if able and able != [""] else "no key holds pictures"
    if asked is None:
        if len(usual := usual_keys(held)) == 1:
            return usual
        if len(able) > 1:
            raise UsageProblem(f"{where}: {there}; name one with --key (data/*/image means all such, an episode each)")
        if uneven := next((key for key, each in held.items() if _uneven(each.dtype)), None):
            raise UsageProblem(
                f"{where}: {uneven} has rows of different lengths, which may be encoded pictures; save them decoded, "
                "as one array of numbers"
            )
        if any(each.dtype.hasobject and not each.dtype.metadata for each in held.values()):
            raise UsageProblem(
                f"{where}: holds Python objects, which reading would execute; save the frames as one array of numbers"
            )
        shapes = ", ".join(f"{key + ': ' if key else ''}{each.shape} {each.dtype}" for key, each in held.items())
        raise UsageProblem(
            f"{where}: holds no pictures ({shapes[:400] or 'nothing'}); give arrays of numbers of shape (N, H, W, C), "
            f"(N, C, H, W), (N, H, W), or with episodes in front, with 1, 3 or 4 channels and sides of {LEAST_SIDE} "
            "pixels or more"
        )
    found = sorted((key for key in held if fnmatchcase(key, asked)), key=natural)
    if not found:
        raise UsageProblem(f"{where}: has no key {quoted(asked)}; {there}")
    if wrong := [key for key in found if key not in able]:
        each = held[wrong[0]]
        raise UsageProblem(f"{where}: {wrong[0]} is {each.shape} {each.dtype}, which is no pictures; {there}")
    return found


def _uneven(dtype: np.dtype[Any]) -> bool:
    """Whether the values are arrays themselves, each of its own length, as HDF5 has them."""
    metadata: Mapping[str, Any] = dtype.metadata or {}
    return isinstance(metadata.get("vlen"), np.dtype)


def _shots(
    where: str, held: Mapping[str, Stored], parts: list[tuple[str, _Labels]], notes: list[str]
) -> Iterator[Shot]:
    before = 0
    for key, labels in parts:
        array = held[key]
        layout = _layout(array)
        said = f"{where}: {key}" if key else f"{where}:"
        values = range_of(array.blocks(layout.row_axes), array.dtype, layout, said)
        actions, row = labels.actions, 0
        for block in array.blocks(layout.row_axes):
            for shown in pictures(block, layout, values):
                action = UNKNOWN if actions is None else int(actions[row])
                yield Shot(shown, before + int(labels.episode[row]), action)
                row += 1
        before += int(labels.episode[-1]) + 1 if row else 0


def takes(held: Mapping[str, Stored], key: str, label: str) -> bool:
    """Whether ``label``, actions or what tells where episodes begin, is read with the pictures of ``key``."""
    layout = _layout(held[key])
    if label in ACTIONS:
        return _actions(held, key, layout, [])[0] is not None
    return _beside(held, key, label, held[key].shape[: layout.row_axes]) is not None


def _labels(held: Mapping[str, Stored], key: str, notes: list[str]) -> _Labels:
    """What is known of each row of an array, from those beside it or above."""
    layout = _layout(array := held[key])
    rows = array.shape[: layout.row_axes]
    begins = np.zeros(rows, bool)
    if layout.episodes:
        begins[:, :1] = True
    begins = begins.reshape(-1)
    said = [begin_of(each) for label, begin_of in BEGINNINGS if (each := _beside(held, key, label, rows)) is not None]
    for each in said:
        begins |= each
    begins[:1] = False
    actions, names = _actions(held, key, layout, notes)
    return _Labels(np.cumsum(begins), layout.episodes or bool(said), actions, names)


def _beside(held: Mapping[str, Stored], key: str, label: str, rows: tuple[int, ...]) -> NDArray[Any] | None:
    """The array of that name in the group of ``key`` or the nearest above it, if it has a number for each row."""
    found = _near(held, key, label)
    if found is None or found.shape not in (rows, (*rows, 1)) or found.dtype.kind not in "biuf":
        return None
    return found.read().reshape(-1)


def _near(held: Mapping[str, Stored], key: str, label: str) -> Stored | None:
    group = key
    while group:
        group = group.rpartition("/")[0]
        if found := held.get(f"{group}/{label}" if group else label):
            return found
    return None


def _actions(
    held: Mapping[str, Stored], key: str, layout: Layout, notes: list[str]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    rows = held[key].shape[: layout.row_axes]
    for label in ACTIONS:
        if (found := _near(held, key, label)) is None:
            continue
        if found.shape in (rows, (*rows, 1)) and found.dtype.kind in "biu":
            numbers = found.read().astype(np.int64).reshape(-1)
            if (least := int(numbers.min(initial=0))) < UNKNOWN:
                notes.append(f"{label} are left out: they begin at {least}; count them from 0 on")
                continue
            if unknown := int((numbers == UNKNOWN).sum()):
                notes.append(
                    f"{label} are unknown where they are {UNKNOWN}, at {unknown} of {len(numbers)} rows; if that is an "
                    "action, count them from 0 on"
                )
            return numbers, found.names
        if found.shape[:-1] == rows and found.dtype.kind in "biuf" and found.shape[-1] <= 1024:
            pressed = found.read().reshape(-1, found.shape[-1])
            if ((pressed == 0) | (pressed == 1)).all() and (pressed.sum(axis=1) == 1).all():
                return pressed.argmax(axis=1), ()
        notes.append(f"{label} are left out: {found.shape} {found.dtype} is not one whole number per frame")
    return None, ()


def blocks_of(array: Any, row_axes: int) -> Iterator[NDArray[Any]]:
    """The rows of an array that is sliced where it lies (HDF5, zarr), some at a time; its chunks are read whole."""
    length = array.shape[row_axes - 1]
    row_bytes = max(1, int(np.prod(array.shape[row_axes:])) * array.dtype.itemsize)
    step = max(1, BLOCK_BYTES // row_bytes)
    chunk = (getattr(array, "chunks", None) or array.shape)[row_axes - 1]
    if step > chunk > 0 or chunk * row_bytes <= 4 * BLOCK_BYTES:
        step = max(1, step // max(1, chunk)) * max(1, chunk)
    for episode in range(array.shape[0]) if row_axes == 2 else (None,):
        for begin in range(0, length, step):
            rows = slice(begin, begin + step)
            yield np.asarray(array[rows] if episode is None else array[episode, rows])


def group_name(name: str) -> str:
    """A key without the slashes around it."""
    return re.sub(r"^/+|/+$", "", name)
