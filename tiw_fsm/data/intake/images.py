"""Pictures in a folder, one a frame, in the order a person would number them; each subfolder is an episode."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import Picture, Shot, Source
from tiw_fsm.errors import UsageProblem, disk_errors

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".tga", ".qoi")


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
            there = [name for name in names if is_image(name)]
            found += [Path(place, name) for name in sorted(there, key=natural)]
    return found


def is_image(name: str) -> bool:
    """Whether a file has the name of a picture."""
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def open_images(files: Sequence[str], options: Options) -> Source:
    """The pictures, an episode for each run of them that lies in one folder."""
    paths = list(map(Path, files))
    folders = [folder for folder, _ in groupby(path.parent for path in paths)]
    root = os.path.commonpath([path.parent.absolute() for path in paths])
    return Source(os.path.basename(root), _shots(paths), len(paths), has_dones=len(folders) > 1)


def _shots(paths: Sequence[Path]) -> Iterator[Shot]:
    for number, (_, there) in enumerate(groupby(paths, lambda path: path.parent)):
        for path in there:
            yield Shot(_read(path), number, file=str(path))


def _read(path: Path) -> Picture:
    with disk_errors("reading", path), open(path, "rb") as file:
        try:
            with Image.open(file) as image:
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
            if isinstance(exc, OSError) and exc.errno:
                raise
            raise UsageProblem(
                f"{path}: cannot be read as a picture ({exc}); copy it again, or take it out of the folder"
            ) from exc


def _rgb(image: Any) -> Picture:
    """In 8 bits a colour; what is transparent, over black."""
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        grey = np.asarray(image).astype(np.int64)
        grey = grey // 257 if grey.max(initial=0) > 255 else grey
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
