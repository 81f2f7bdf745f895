"""Pictures of frames, drawn with Pillow: a chunk boundary has no time for a plotting library."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tiw_fsm import durable

Frames = NDArray[np.uint8]
"""Frames of one row: [T, H, W, 3]."""

MARGIN, GAP, LABEL = 8, 2, 64
MIN_SIDE = 72
"""Small frames are enlarged by a whole factor to at least this many pixels."""


def draw_strips(path: Path, title: str, rows: Sequence[tuple[str, Frames]]) -> None:
    """Write labelled rows of frames as a PNG. All rows have frames of one size; a row may be shorter than others.

    Raises:
        DiskRefused: the disk did not take it.
    """
    height, width = rows[0][1].shape[1:3]
    scale = max(1, -(-MIN_SIDE // height))
    step_x, step_y = width * scale + GAP, height * scale + GAP
    longest = max(len(frames) for _, frames in rows)
    font = ImageFont.load_default(13)
    canvas = Image.new(
        "RGB", (LABEL + longest * step_x + MARGIN, 2 * MARGIN + 18 + len(rows) * step_y), (250, 250, 250)
    )
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, fill=(20, 20, 20), font=font)
    for row, (label, frames) in enumerate(rows):
        y = MARGIN + 22 + row * step_y
        pen.text((MARGIN, y + step_y // 2 - 8), label, fill=(20, 20, 20), font=font)
        strip = np.full((height, len(frames) * width, 3), 255, np.uint8)
        for column, frame in enumerate(frames):
            strip[:, column * width : (column + 1) * width] = frame
        enlarged = Image.fromarray(strip).resize(
            (len(frames) * width * scale, height * scale), Image.Resampling.NEAREST
        )
        for column in range(len(frames)):
            box = (column * width * scale, 0, (column + 1) * width * scale, height * scale)
            canvas.paste(enlarged.crop(box), (LABEL + column * step_x, y))
    content = io.BytesIO()
    canvas.save(content, format="PNG", compress_level=1)
    durable.replace(path, content.getvalue())


def is_png(path: str | None) -> bool:
    """Whether ``path`` is a PNG file that decodes to the end."""
    if path is None:
        return False
    try:
        with Image.open(path) as image:
            image.load()
            return image.format == "PNG"
    except (OSError, SyntaxError, ValueError):
        return False
