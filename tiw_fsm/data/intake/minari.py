"""Recordings of Minari that lie on this machine; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.h5 import OF_H5PY
from tiw_fsm.data.intake.layouts import holds_pictures, layout_of, pictures, range_of
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import UNKNOWN, Shot, Source
from tiw_fsm.data.intake.spaces import Numbering, numbering
from tiw_fsm.errors import UsageProblem
from tiw_fsm.values.printable import excerpt, quoted

PREFIX = "minari:"


def is_folder(path: Path) -> bool:
    """Whether a folder is a recording of Minari's."""
    return (path / "data" / "metadata.json").is_file()


def open_minari(name: str, options: Options) -> Source:
    """The observations of a recording that are pictures; its last observation of an episode leads nowhere.

    Args:
        name: ``minari:ID``, or the recording's folder.

    Raises:
        UsageProblem: it is not on this machine, has no pictures, or is damaged.
    """
    import minari

    named = name.removeprefix(PREFIX)
    if not named:
        raise UsageProblem(f"{PREFIX} names no recording; put its id behind, as in minari:atari/pong/expert-v0")
    folder = Path(named)
    if not (named == name or is_folder(folder)):
        folder = _local(named)
    with _reading(name):
        dataset = minari.MinariDataset(folder / "data")
        keys = _picture_keys(dataset.observation_space)
        actions = numbering(dataset.action_space)
        expected = int(dataset.total_steps) + int(dataset.total_episodes)
    key = _chosen(name, keys, options.key)
    return Source(
        named if named != name else folder.name,
        _shots(name, dataset, key, actions),
        expected,
        keys=() if actions else None,
        has_dones=True,
        notes=() if actions else ("actions are left out: they are no whole numbers",),
    )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Translate what Minari, and h5py below it, raise at a recording that is not as it should be.

    Raises:
        UsageProblem: it is so.
    """
    try:
        yield
    except (*OF_H5PY, AssertionError, IndexError) as exc:
        told = excerpt(str(exc) or type(exc).__name__)
        raise UsageProblem(f"{name}: not readable as a recording of Minari ({told}); download it again") from exc


def _local(dataset_id: str) -> Path:
    from minari.storage import get_dataset_path

    try:
        folder = Path(get_dataset_path(dataset_id))
    except ValueError as exc:
        raise UsageProblem(f"{PREFIX}{dataset_id}: {exc}") from exc
    if not is_folder(folder):
        raise UsageProblem(
            f"{PREFIX}{dataset_id}: is not on this machine ({folder}); `minari download {dataset_id}` brings it"
        )
    return folder


def _picture_keys(space: Any) -> list[str]:
    """Where an observation has pictures: "" for the whole of it, else keys of a dictionary, joined by slashes."""
    if hasattr(space, "spaces") and isinstance(space.spaces, dict):
        return [f"{key}/{below}".rstrip("/") for key, inner in space.spaces.items() for below in _picture_keys(inner)]
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    return [""] if shape and dtype is not None and holds_pictures((1, *shape), np.dtype(dtype)) else []


def _chosen(name: str, keys: list[str], asked: str | None) -> str:
    there = f"observations that are pictures: {', '.join(keys)}" if any(keys) else "its observations are no pictures"
    if asked is None and len(keys) == 1:
        return keys[0]
    if asked in keys:
        return asked
    if asked is None and keys:
        raise UsageProblem(f"{name}: {there}; name one with --key")
    said = f"has no key {quoted(asked)} with pictures; {there}" if keys else f"{there}; give a recording with pictures"
    raise UsageProblem(f"{name}: {said}")


def _shots(name: str, dataset: Any, key: str, actions: Numbering | None) -> Iterator[Shot]:
    with _reading(name):
        episodes = iter(dataset.iterate_episodes())
    for number in count():
        with _reading(f"{name}: episode {number}"):
            if (episode := next(episodes, None)) is None:
                return
            shown: NDArray[Any] | Any = episode.observations
            for part in filter(None, key.split("/")):
                shown = shown[part]
            shown = np.asarray(shown)
            pressed = [actions(each) for each in episode.actions] if actions else []
        layout = layout_of(shown.shape)
        if layout is None:
            raise UsageProblem(
                f"{name}: episode {number} has observations of shape {shown.shape}, which are no pictures"
            )
        values = range_of([shown], shown.dtype, layout, f"{name}: episode {number}")
        for row, picture in enumerate(pictures(shown, layout, values)):
            yield Shot(picture, number, pressed[row] if row < len(pressed) else UNKNOWN)
