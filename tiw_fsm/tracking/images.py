"""Pictures as trackers take them. One that is gone, since only the newest are kept, or that is damaged is left out."""

from __future__ import annotations

import io
from pathlib import Path

from tiw_fsm.data import pictures
from tiw_fsm.errors import TiwFsmError
from tiw_fsm.system import durable

LARGEST = 8 << 20
"""Bytes of a picture that is shown."""
SIDE = 160
"""Least side of a rollout's frame, pixels: trackers show each pixel as one."""


def still_png(path: Path) -> bytes | None:
    """A picture of the run."""
    try:
        png = durable.read_small(path, LARGEST)
    except (ValueError, TiwFsmError):
        return None
    return png if pictures.is_png(io.BytesIO(png)) else None


def moving_gif(path: Path) -> bytes | None:
    """The rollouts of a picture in motion, as every tracker can play them."""
    png = still_png(path)
    return pictures.motion(png, "GIF", SIDE) if png else None
