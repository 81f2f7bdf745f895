"""Folders of pictures as sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.intake.sources import Frames, make, numbered, numbers
from tiw_fsm.errors import UsageProblem


def write_images(folder: Path, frames: Frames, name: str = "frame{}.png", first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(first + n))
    return folder


@pytest.mark.parametrize("name", ["frame{}.png", "{}.jpg", "shot ({}).webp", "x{}.BMP"])
def test_pictures_are_taken_in_natural_order(tmp_path: Path, name: str) -> None:
    folder = write_images(tmp_path / "shots", numbered(60, 16, 16), name, first=95)
    (folder / ".hidden.png").write_text("none")
    (folder / "notes.txt").write_text("none")
    assert numbers(make(tmp_path / "o.h5", folder).frames) == list(range(60))


def test_pictures_named_one_by_one_are_one_source(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "shots", numbered(60, 16, 16))
    make(tmp_path / "o.h5", folder)
    make(tmp_path / "p.h5", *(folder / f"frame{n}.png" for n in range(60)))
    assert (tmp_path / "o.h5").read_bytes() == (tmp_path / "p.h5").read_bytes()


def test_each_subfolder_is_an_episode(tmp_path: Path) -> None:
    for n in range(12):
        write_images(tmp_path / "shots" / f"game{n}", numbered(60, 16, 16)[n : n + 5])
    held = make(tmp_path / "o.h5", tmp_path / "shots")
    assert held.lengths == [5] * 12
    assert numbers(held.frames[::5]) == list(range(12))


def test_pictures_of_any_mode_have_three_colours(tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    colour = np.full((16, 16, 3), (200, 100, 40), np.uint8)
    half = np.concatenate([colour, np.full((16, 16, 1), 128, np.uint8)], axis=2)
    made = {
        "0 palette": Image.fromarray(colour).quantize(4),
        "1 grey": Image.fromarray(colour[..., 0]),
        "2 deep": Image.fromarray(np.full((16, 16), 200 * 257, np.uint16)),
        "3 clear": Image.fromarray(half),
        "4 black and white": Image.fromarray(colour[..., 0]).convert("1", dither=Image.Dither.NONE),
    }
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    write_images(folder, numbered(40, 16, 16), "z{}.png")
    shown = make(tmp_path / "o.h5", folder).frames[:5, 8, 8].astype(int)
    expected = [(200, 100, 40), (200,) * 3, (200,) * 3, (100, 50, 20), (255,) * 3]
    assert np.abs(shown - expected).max() <= 1


def refused(path: Path) -> str:
    output = path.parent / "out" / "o.h5"
    with pytest.raises(UsageProblem) as caught:
        make(output, path)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    (problem,) = caught.value.problems
    return problem


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "shots", numbered(50, 16, 16))
    write_images(folder, numbered(1, 16, 24), "later{}.png")
    said = f"has frames of 16 by 16 pixels and, in {folder / 'later0.png'}, of 24 by 16"
    assert said in refused(folder)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "shots", numbered(50, 16, 16))
    (folder / "frame31.png").write_bytes((folder / "frame31.png").read_bytes()[:40])
    assert "frame31.png: cannot be read as a picture" in refused(folder)
    (folder / "frame31.png").write_text("none")
    assert "frame31.png: cannot be read as a picture" in refused(folder)


def test_a_folder_without_frames_or_with_several_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "holds no frames; give videos" in refused(tmp_path / "none")
    folder = write_images(tmp_path / "both", numbered(2, 16, 16))
    np.save(folder / "a.npy", numbered(2))
    assert "holds an array of numpy and a picture; keep one kind in a folder" in refused(folder)
    (tmp_path / "notes.txt").write_text("none")
    assert "notes.txt: of no known kind; give videos" in refused(tmp_path / "notes.txt")
    assert "no such file, folder or environment" in refused(tmp_path / "gone")
