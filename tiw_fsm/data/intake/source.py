"""What a source of frames is to the intake, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.errors import UsageProblem
from tiw_fsm.tinyworlds.episodes import HELD_OUT_EVERY

Picture = NDArray[np.uint8]
"""One frame in colour: [H, W, 3], rows from the top."""
UNKNOWN = -1
"""An action that nobody recorded."""
LEAST_SIDE = 8
"""Pixels of a picture's side, at least: what is smaller is a board, a vector or a mask."""
LEAST_CLIP = 4
"""Frames of TinyWorlds' clips."""
LEAST_ROWS = LEAST_CLIP * HELD_OUT_EVERY
"""Frames that can be trained and judged on, at least."""
MOST_ROWS = 20_000_000
"""More than three days of play at 60 frames per second; a file that claims more is damaged, or a trap."""


class Shot(NamedTuple):
    """One frame of a source."""

    picture: Picture
    episode: int = 0
    """Another number than that of the frame before begins another episode."""
    action: int = UNKNOWN
    """What was pressed at this frame, and leads to the next one."""
    seconds: float | None = None
    """When it was shown, from the source's beginning; None where nobody knows."""
    file: str | None = None
    """Which it is of the files that are the source together; None where it is one."""


@dataclass(frozen=True)
class Source:
    """A source that stands ready.

    Attributes:
        name: what it is called, without the folder it lies in.
        shots: its frames, in order. It raises ``UsageProblem`` or ``DiskRefused`` where they end early.
        expected: how many there will be, as far as is known.
        fps: frames per second at which they were shown, if known.
        keys: names of the actions by number; none where they have no names, None where there are no actions.
        has_dones: whether it knows where its episodes end.
        notes: what its owner may not expect, a clause each.
        close: lets go of what it holds, whether its frames were taken or not.
    """

    name: str
    shots: Iterator[Shot]
    expected: int | None = None
    fps: float | None = None
    keys: tuple[str, ...] | None = None
    has_dones: bool = False
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None


@contextmanager
def needing(what: str, extra: str | None) -> Iterator[None]:
    """Within the block packages are imported that an extra brings.

    Raises:
        UsageProblem: they are not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if extra is None:
            raise
        raise UsageProblem(f"{what} needs the package {exc.name}: pip install 'tiw_fsm[{extra}]'") from exc
