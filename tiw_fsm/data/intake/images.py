"""Pictures in a folder, one a frame, in the order a person would number them; each subfolder is an episode."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import Picture, Shot, Source
from tiw_fsm.errors import UsageProblem, disk_errors

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".tga", ".qoi")
SEQUENCES = ("PNG", "WEBP", "TIFF", "GIF")
"""Formats of which one file may hold a sequence; what more a JPEG holds are previews of it."""
NEW_SUBFILE_TYPE, OTHER_THAN_PAGES = 254, 0b101
"""A TIFF's tag, and its bits of what is no page: a reduced picture, a mask."""
NOT_READ = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error),
    Image.DecompressionBombError,
)
"""What Pillow raises at a file that is no whole picture."""
MOST_GREY = 0xFFFF
OVER_BLACK = "what is transparent is shown over black"


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """What names are sorted by: frame9 comes before frame10."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), part) if part.isdigit() and part.isascii() else (-1, part.casefold()) for part in parts)


def images_in(folder: Path) -> list[Path]:
    """The pictures in a folder and in the folders below it, in order; what is hidden is none of them.

    Raises:
        DiskRefused: a folder cannot be read.
    """
    found = []

    def refuse(exc: OSError) -> None:
        raise exc

    with disk_errors("reading", folder):
        for place, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
            there = [Path(place, name) for name in sorted(names, key=natural)]
            found += [path for path in there if is_image(str(path))]
    return found


def is_image(name: str) -> bool:
    """Whether a file has the name of a picture, or is a GIF that does not move."""
    if os.path.basename(name).startswith("."):
        return False
    if name.lower().endswith(".gif"):
        return _is_still(name)
    return name.lower().endswith(SUFFIXES) and not os.path.isdir(name)


def _is_still(name: str) -> bool:
    if not os.path.isfile(name):  # opening a pipe would wait
        return False
    try:
        with Image.open(name) as image:
            return not getattr(image, "is_animated", False)
    except NOT_READ:
        return False


def open_images(files: Sequence[str], options: Options) -> Source:
    """The pictures, an episode for each run of them that lies in one folder, and for each file of several.

    Raises:
        UsageProblem: the first cannot be read.
        DiskRefused: likewise, as the disk failed.
    """
    paths = list(map(Path, files))
    folders = [folder for folder, _ in groupby(path.parent for path in paths)]
    root = os.path.commonpath([path.parent.absolute() for path in paths])
    with _reading(paths[0]) as image:
        each = len(_sequence(image))
        notes = (OVER_BLACK,) if _rgb(image, paths[0])[1] else ()
    several = len(folders) > 1 or (each > 1 and len(files) > 1)
    name = os.path.basename(root) if len(files) > 1 else paths[0].name
    return Source(name, _shots(paths), len(paths) * each, has_dones=several, notes=notes)


def _shots(paths: Sequence[Path]) -> Iterator[Shot]:
    number, before = 0, None
    for path in paths:
        with _reading(path) as image:
            sequence = _sequence(image)
            begins = path.parent if len(sequence) == 1 else path
            number += before not in (None, begins)
            before = begins
            for at in sequence:
                image.seek(at)
                image.load()
                if not getattr(image, "tag_v2", {}).get(NEW_SUBFILE_TYPE, 0) & OTHER_THAN_PAGES:
                    yield Shot(_rgb(ImageOps.exif_transpose(image), path)[0], number, file=str(path))


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """A picture opened.

    Raises:
        UsageProblem: it, or what is read of it within the block, cannot be read as a picture.
        DiskRefused: the disk failed.
    """
    with disk_errors("reading", path), open(path, "rb") as file:
        try:
            with Image.open(file) as image:
                yield image
        except NOT_READ as exc:
            if isinstance(exc, OSError) and exc.errno:
                raise
            raise UsageProblem(
                f"{path}: cannot be read as a picture ({exc}); copy it again, or take it out of the folder"
            ) from exc


def _sequence(image: Any) -> range:
    """Which of the pictures in a file are frames."""
    if image.format not in SEQUENCES:
        return range(1)
    return range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1))


def _rgb(image: Any, path: Path) -> tuple[Picture, bool]:
    """In 8 bits a colour; what is transparent, over black, and whether anything is.

    Raises:
        UsageProblem: which values are black and white cannot be known.
    """
    if image.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
        grey = np.asarray(image)
        low, high = grey.min(), grey.max()
        if image.mode == "F" or low < 0 or high > MOST_GREY:
            numbers = "floats" if image.mode == "F" else "values"
            raise UsageProblem(
                f"{path}: has {numbers} from {low:g} to {high:g}, and which are black and white cannot be known; store "
                "8 or 16 bits a pixel, or all pictures as one .npy"
            )
        grey = grey.astype(np.int64) // (257 if high > 255 else 1)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2), False
    if image.has_transparency_data:
        colours = np.asarray(image.convert("RGBA"))
        return over_black(colours), bool(colours[..., 3].min() < 255)
    return np.asarray(image.convert("RGB")), False


def over_black(colours: NDArray[np.uint8]) -> Picture:
    """RGBA [H, W, 4] on a black ground."""
    mixed = colours[..., :3].astype(np.uint16) * colours[..., 3:]
    return ((mixed + 127) // 255).astype(np.uint8)
