"""Pictures of frames, drawn with Pillow: a chunk boundary has no time for a plotting library."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tiw_fsm.system import durable

Frames = NDArray[np.uint8]
"""Frames of one row: [T, H, W, 3]."""

MARGIN, GAP, LABEL = 8, 2, 92
OLD_LABEL = 64
"""What an older version left for the rows' names."""
NOTHING, GREY = (0, 0, 0, 0), (112, 118, 128, 255)
"""Between the frames, and of the words: to be read on a white page and on a dark one."""
MIN_SIDE = 72
"""Small frames are enlarged by a whole factor to at least this many pixels."""
GEOMETRY = "tiw_fsm strips"
"""Key of the text in the PNG that says where its frames are, so that they can be cut out again."""
STEP, LAST = 220, 1400
"""Milliseconds that a frame of a motion picture stays, and that the last one does."""
BAR = 1
"""Height in pixels of the line under a motion picture that tells how far it is."""


def draw_strips(path: Path, title: str, rows: Sequence[tuple[str, Frames]], together: int = 2) -> None:
    """Write labelled rows of frames as a PNG, as ``strips`` draws them.

    Raises:
        DiskRefused: the disk did not take it.
    """
    durable.replace(path, strips(title, rows, together))


def strips(title: str, rows: Sequence[tuple[str, Frames]], together: int = 2) -> bytes:
    """Labelled rows of frames as a PNG. All rows have frames of one size; a row may be shorter than others.

    Args:
        together: how many rows in turn show one clip, the true frames and the model's before others.
    """
    height, width = rows[0][1].shape[1:3]
    scale = max(1, -(-MIN_SIDE // height))
    step_x, step_y = width * scale + GAP, height * scale + GAP
    longest = max(len(frames) for _, frames in rows)
    font = ImageFont.load_default(13)
    canvas = Image.new("RGBA", (LABEL + longest * step_x + MARGIN, 2 * MARGIN + 18 + len(rows) * step_y), NOTHING)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, fill=GREY, font=font)
    for row, (label, frames) in enumerate(rows):
        y = MARGIN + 22 + row * step_y
        pen.text((MARGIN, y + step_y // 2 - 8), label, fill=GREY, font=font)
        strip = np.full((height, len(frames) * width, 3), 255, np.uint8)
        for column, frame in enumerate(frames):
            strip[:, column * width : (column + 1) * width] = frame
        enlarged = Image.fromarray(strip).resize(
            (len(frames) * width * scale, height * scale), Image.Resampling.NEAREST
        )
        for column in range(len(frames)):
            box = (column * width * scale, 0, (column + 1) * width * scale, height * scale)
            canvas.paste(enlarged.crop(box), (LABEL + column * step_x, y))
    metadata = PngInfo()
    metadata.add_text("Title", title)  # a narrow picture may have no room for all of it
    counts = [len(frames) for _, frames in rows]
    geometry = {"width": width, "height": height, "left": LABEL, "together": together, "frames": counts}
    metadata.add_text(GEOMETRY, json.dumps(geometry))
    content = io.BytesIO()
    canvas.save(content, format="PNG", compress_level=1, pnginfo=metadata)
    return content.getvalue()


def is_png(path: str | BinaryIO | None, most_pixels: int | None = None) -> bool:
    """Whether ``path`` is a PNG file that decodes to the end, and has at most so many pixels."""
    if path is None:
        return False
    try:
        with Image.open(path) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                return False
            image.load()
            return image.format == "PNG"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def motion(picture: bytes, kind: Literal["PNG", "GIF"] = "PNG", least_side: int = 1) -> bytes | None:
    """The strips of a picture that ``draw_strips`` made, in motion: an animated picture, a column for each clip, with
    the first of its rows above the second. None where it does not say where its frames are, or not truly.

    A PNG, because every browser plays it, it loses nothing, and Pillow always has it; a GIF for what plays no other.

    Args:
        least_side: in pixels, to which frames are enlarged by a whole factor, for what does not enlarge them itself.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            geometry = json.loads(image.info[GEOMETRY])
            width, height, counts = (geometry[key] for key in ("width", "height", "frames"))
            left, together = geometry.get("left", OLD_LABEL), max(2, int(geometry.get("together", 2)))
            rows = _cut(image.convert("RGB"), width, height, left, counts)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, Image.DecompressionBombError):
        return None
    columns = [rows[n : n + 2] for n in range(0, len(rows), together)]
    tall = max(map(len, columns))
    size = (len(columns) * (width + GAP) - GAP, tall * (height + GAP) + BAR)
    longest, factor = max(counts), max(1, -(-least_side // height))
    frames = []
    for t in range(longest):
        canvas = Image.new("RGB", size, (127, 127, 127))
        for x, column in enumerate(columns):
            for y, row in enumerate(column):
                canvas.paste(row[min(t, len(row) - 1)], (x * (width + GAP), y * (height + GAP)))
        canvas.paste((47, 109, 181), (0, size[1] - BAR, round(size[0] * (t + 1) / longest), size[1]))
        frames.append(canvas.resize((size[0] * factor, size[1] * factor), Image.Resampling.NEAREST))
    content = io.BytesIO()
    durations = [STEP] * (longest - 1) + [LAST]
    frames[0].save(content, format=kind, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return content.getvalue()


def _cut(image: Image.Image, width: int, height: int, left: int, counts: Sequence[int]) -> list[list[Image.Image]]:
    """The frames of each row, in their own size.

    Raises:
        ValueError: they cannot lie in the image.
    """
    if not counts or min(counts) < 1 or min(width, height) < 1:
        raise ValueError("no frames")
    scale = max(1, -(-MIN_SIDE // height))
    step_x, step_y = width * scale + GAP, height * scale + GAP
    if image.size != (left + max(counts) * step_x + MARGIN, 2 * MARGIN + 18 + len(counts) * step_y):
        raise ValueError("the picture is not of the size that its frames would make")
    found = []
    for row, count in enumerate(counts):
        y = MARGIN + 22 + row * step_y
        boxes = [(x, y, x + width * scale, y + height * scale) for x in range(left, left + count * step_x, step_x)]
        found.append([image.crop(box).resize((width, height), Image.Resampling.NEAREST) for box in boxes])
    return found
