"""Frame files: which dataset a name means, and whether a file can be used. No torch."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from tiw_fsm.data import sources, supply
from tiw_fsm.data.games import GAMES
from tiw_fsm.data.h5 import Undecodable, reading
from tiw_fsm.data.intake import arrays, containers, kinds
from tiw_fsm.data.intake.arrays import BEGINNINGS
from tiw_fsm.data.intake.source import LEAST_ROWS, LEAST_SIDE, MOST_ROWS, UNKNOWN
from tiw_fsm.errors import DiskRefused, UsageProblem
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.values.printable import quoted

DEFAULT_STRIDE = 4
LARGEST_STRIDE = 10_000
MOST_KEYS = 5
"""Of an h5 file's pictures that are told."""
PART = 1 << 20
"""Bytes hashed at a time."""


class KnownDataset(NamedTuple):
    """A dataset TinyWorlds knows by name."""

    file: str
    skip: int
    fps: int


KNOWN = {
    "ZELDA": KnownDataset("zelda_frames.h5", 1000, 15),
    "PONG": KnownDataset("pong_frames.h5", 0, 15),
    "PICODOOM": KnownDataset("picodoom_frames.h5", 300, 30),
    "POLE_POSITION": KnownDataset("pole_position_frames.h5", 0, 15),
    "SONIC": KnownDataset("sonic_frames.h5", 100, 15),
}


def known_datasets() -> str:
    """The known names, in words."""
    path = "give the path of an h5 file, which `tiw-fsm frames` makes of other frames"
    return f"known are {', '.join(KNOWN)} (data/<name>_frames.h5), or {path}"


def resolve_dataset(
    name: str,
    repo_root: Path,
    fps: int | None,
    preload_ratio: float | None = None,
    frame_size: int | None = None,
) -> DataSource:
    """What ``name`` stands for. The stride is that of ``fps``, else of the file's own ``stride`` attribute, else of
    TinyWorlds. A source of other kinds is to be made frames of ``frame_size``.

    Raises:
        UsageProblem: neither a known name nor a path, a source that frames have to be made of first, or the file's
            ``stride`` is impossible.
    """
    stride = max(1, supply.SOURCE_FPS // fps) if fps else None
    if known := KNOWN.get(name.upper()):
        path = repo_root / "data" / known.file
        stride = stride or supply.SOURCE_FPS // known.fps
        return DataSource(path=str(path), skip=known.skip, stride=stride, preload_ratio=preload_ratio)
    if not name.strip():
        raise UsageProblem(f"dataset {quoted(name)} is no name; {known_datasets()}")
    path = repo_root / name
    if other := kinds.instead(name, path, frame_size):
        raise UsageProblem(other)
    if not name.lower().endswith(kinds.H5) and "/" not in name:
        raise UsageProblem(f"dataset {quoted(name)} is not known; {known_datasets()}")
    stride = stride or _stride_attribute(path) or DEFAULT_STRIDE
    return DataSource(path=str(path), skip=0, stride=stride, preload_ratio=preload_ratio)


def _stride_attribute(path: Path) -> int | None:
    """The stride a recording says it is made for; a turn-based game says 1.

    Raises:
        UsageProblem: it is no positive integer.
    """
    try:
        with reading(path), h5py.File(path, "r") as file:
            stride = file.attrs.get("stride")
    except (UsageProblem, DiskRefused):
        return None  # `inspect` says what is wrong with the file
    if stride is None:
        return None
    if not isinstance(stride, int | np.integer) or not 1 <= stride <= LARGEST_STRIDE:
        told = quoted(stride) if isinstance(stride, str) else stride
        raise UsageProblem(
            f"{path}: attribute `stride` is {told}; make it an integer from 1 to {LARGEST_STRIDE}, or remove it"
        )
    return int(stride)


def missing(source: DataSource) -> list[str]:
    """That the file of ``source`` is not there, with the remedy; empty when it is."""
    path = Path(source.path)
    return [] if path.exists() else [f"{path}: no such file; {_whence(path)}, or correct the dataset"]


def inspect(
    source: DataSource,
    *,
    frame_size: int,
    training_length: int,
    held_out: supply.HeldOut,
    key_hints: bool = False,
    begun: bool = False,
) -> list[str]:
    """Why ``source`` cannot be trained and judged on, each problem with its remedy; empty when it can.

    Args:
        frame_size: side of the frames, pixels.
        training_length: frames of a training clip.
        held_out: what the gate wants.
        key_hints: whether recorded keys are wanted as a hint to the latent actions.
        begun: whether a run has begun on it: then what it might have been made of more is no matter any more.

    Raises:
        DiskRefused: the operating system failed to read it.
    """
    path = Path(source.path)
    try:
        if lost := missing(source) or list(sources.of(path).problems):
            return lost
        with reading(path), h5py.File(path, "r") as file:
            problems = _shape_problems(file, path, frame_size)
            if key_hints:
                problems += _key_problems(file, path)
            if not problems and not begun:
                problems += _unread_episodes(file, path)
        if problems:
            return problems
        return supply.problems(source, training_length=training_length, held_out=held_out)
    except UsageProblem as exc:
        return exc.problems


def _whence(path: Path) -> str:
    """How to come by a file of frames that is not there."""
    made = shlex.quote(str(path))
    if known := [name for name, dataset in KNOWN.items() if dataset.file == path.name]:
        return f"fetch it with `tiw-fsm download {known[0]}`"
    if played := [game for game in GAMES if path.name == f"{game}_frames.h5"]:
        return f"record it with `tiw-fsm record {made} --game {played[0]}`"
    return f"make it of a video, pictures, arrays or an environment with `tiw-fsm frames SOURCE -o {made}`"


def _shape_problems(file: h5py.File, path: Path, frame_size: int) -> list[str]:
    if "frames" not in file:
        made = _made_of(path, frame_size)
        return [f"{path}: has no dataset `frames` (it has: {', '.join(file) or 'nothing'}); {made}"]
    frames = file["frames"]
    if not isinstance(frames, h5py.Dataset) or frames.ndim != 4 or frames.shape[3] != 3:
        is_now = f"has shape {frames.shape}" if isinstance(frames, h5py.Dataset) else "is no dataset"
        return [f"{path}: `frames` {is_now}; it must be (N, H, W, 3): {_made_of(path, frame_size)}"]
    problems = []
    if frames.dtype != np.uint8:
        problems.append(
            f"{path}: `frames` has type {frames.dtype}; it must be uint8, 0 to 255: {_made_of(path, frame_size)}"
        )
    if frames.shape[0] == 0:
        problems.append(f"{path}: `frames` is empty; record some")
    if frames.shape[0] > MOST_ROWS:
        problems.append(f"{path}: `frames` claims {frames.shape[0]} rows; give at most {MOST_ROWS}")
    if frames.shape[1:3] != (frame_size, frame_size):
        own = "make frame_size in training.yaml the frames' own size, or " if frames.shape[1] == frames.shape[2] else ""
        problems.append(
            f"{path}: frames are {frames.shape[1]} by {frames.shape[2]} pixels, frame_size is {frame_size}; {own}"
            + _made_of(path, frame_size)
        )
    for name in ("episode", "actions"):
        labels = file.get(name)
        if labels is None:
            continue
        if not isinstance(labels, h5py.Dataset) or labels.shape != frames.shape[:1] or labels.dtype.kind not in "iu":
            problems.append(
                f"{path}: `{name}` must hold one integer per frame, {frames.shape[0]} of them; "
                + _made_of(path, frame_size, name)
            )
    return problems


def _made_of(path: Path, frame_size: int, label: str | None = None) -> str:
    """The command that makes a file that fits of an h5 file; where the intake would not take it, or not the ``label``
    of its frames, what to store instead."""
    held = containers.h5_arrays(path)
    keys = arrays.usual_keys(held)
    able = [key for key in keys if arrays.rows_of(held[key]) >= LEAST_ROWS]
    if label and not (keys == able == ["frames"] and arrays.takes(held, "frames", label)):
        return f"store it so, or take `{label}` out"
    if not able:
        return (
            f"store `frames` as uint8 of shape (N, {frame_size}, {frame_size}, 3), since `tiw-fsm frames` makes "
            f"nothing of fewer than {LEAST_ROWS} pictures, or of smaller ones than {LEAST_SIDE} by {LEAST_SIDE} pixels"
        )
    fitting = str(path.with_name(f"{path.stem}-{frame_size}.h5"))
    command = kinds.command(str(path), fitting, frame_size, able[0] if len(keys) > 1 else None)
    others = f" (others with pictures are {', '.join(map(quoted, able[1:MOST_KEYS]))})" if able[1:] else ""
    return f"`{command}` makes a file of it that fits{others}"


def _unread_episodes(file: h5py.File, path: Path) -> list[str]:
    """That something else than `episode` tells where episodes begin: clips would cross them."""
    rows, size = file["frames"].shape[:2]
    found = () if "episode" in file else ((label, begins, file.get(label)) for label, begins in BEGINNINGS)
    told = [
        label
        for label, begins, values in found
        if isinstance(values, h5py.Dataset) and values.shape in ((rows,), (rows, 1)) and values.dtype.kind in "biuf"
        if begins(values[:].reshape(-1))[1:].any()
    ]
    if not told:
        return []
    made = kinds.command(str(path), str(path.with_name(f"{path.stem}-episodes.h5")), int(size))
    return [
        f"{path}: `{told[0]}` tells where episodes begin, of which only `episode` is read, so that clips would cross "
        f"them; `{made}` makes a file with `episode` of it"
    ]


def _key_problems(file: h5py.File, path: Path) -> list[str]:
    """Why the recorded keys cannot be a hint."""
    remedy = "record them, or remove key_hint_weight from latent_actions.yaml"
    if not isinstance(labels := file.get("actions"), h5py.Dataset):
        return [f"{path}: has no `actions`, which key_hint_weight takes as a hint; {remedy}"]
    if labels.dtype.kind not in "iu":
        return []  # what is wrong with its shape is told
    known = np.unique(labels[:])
    if (least := int(known.min(initial=0))) < UNKNOWN:
        remedy = f"they begin at {least}, and below 0 none is known: count them from 0 on"
    if (keys := int((known >= 0).sum())) < 2:
        return [f"{path}: `actions` holds {keys} different key{'s' * (keys != 1)}, which is no hint; {remedy}"]
    return []


def sha256(path: Path, look: Callable[[], None] = lambda: None) -> str:
    """Hash of the whole file; where its rows lie in other files too, of all their bytes.

    Args:
        look: called between two parts; what it raises ends the reading.

    Raises:
        UsageProblem: it is missing, not to be read, or open for writing elsewhere.
        DiskRefused: the operating system failed to read it.
    """
    own = _sha256(path, look)
    try:
        files = sources.of(path).files
    except Undecodable:
        return own
    if not files:
        return own
    return hashlib.sha256("\n".join([own, *(_sha256(file, look) for file in files)]).encode()).hexdigest()


def _sha256(path: Path, look: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with reading(path), open(path, "rb") as file:
        while part := file.read(PART):
            look()
            digest.update(part)
    return digest.hexdigest()
