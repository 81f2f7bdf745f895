"""What TinyWorlds' own loader, which holds nothing out, needs of a frames file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import h5py


class Wanted(NamedTuple):
    """What one of TinyWorlds' scripts needs of a file."""

    script: str
    clips: int
    length: int
    """Frames of a clip."""
    share: float | None
    """Of the file's rows, from the first on; the skipped ones count into it."""
    remedy: str


def loader_problems(path: Path, skip: int, stride: int, wanted: Iterable[Wanted]) -> list[str]:
    """Where TinyWorlds' own loader, which holds nothing out, would find too few clips in a file that can be read."""
    with h5py.File(path, "r") as file:
        rows = int(file["frames"].shape[0])
    problems = []
    for script, clips, length, share, remedy in wanted:
        found = int(rows * (1 if share is None else share)) - skip - length * stride
        if found < clips:
            least = math.ceil((skip + length * stride + clips + 1) / rows * 1000) / 1000
            mend = f"{remedy} {least:g} or more" if least < 1 else "record more frames"
            problems.append(
                f"{path}: {script} reads {'all' if share is None else f'the first {share:.4g}'} of its {rows} rows, "
                f"leaves out the first {skip}, and wants {clips} clips of {length} frames, {stride} rows apart: "
                f"it would find {max(0, found)}; {mend}"
            )
    return problems
