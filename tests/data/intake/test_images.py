"""Folders of pictures as sources."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.intake.sources import Frames, Held, make, numbered, numbers
from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options
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


@pytest.mark.parametrize("name", ["play.png", "play.webp", "play.tiff"])
def test_a_file_of_several_pictures_is_an_episode_of_them(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(frame) for frame in numbered(48, 16, 16)]
    exact = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **exact)
    assert numbers(make(tmp_path / "o.h5", tmp_path / name).frames) == list(range(48))
    for n in range(12):
        (tmp_path / "plays").mkdir(exist_ok=True)
        first, *others = frames[n : n + 5]
        first.save(tmp_path / "plays" / f"{n}{name}", save_all=True, append_images=others, **exact)
    held = make(tmp_path / "p.h5", tmp_path / "plays")
    assert (held.lengths, numbers(held.frames[::5])) == ([5] * 12, list(range(12)))


def test_previews_are_no_frames(tmp_path: Path) -> None:
    """A phone's JPEG holds one, an animated PNG may begin with a picture for who cannot show it move."""
    folder = write_images(tmp_path / "shots", numbered(40, 16, 16), "{}.jpg")
    frames = [Image.fromarray(frame) for frame in numbered(41, 16, 16)]
    frames[0].save(folder / "0.jpg", "MPO", save_all=True, append_images=frames[5:6])
    assert numbers(make(tmp_path / "o.h5", folder).frames) == list(range(40))
    frames[0].save(tmp_path / "play.png", save_all=True, append_images=frames[1:], default_image=True)
    assert numbers(make(tmp_path / "p.h5", tmp_path / "play.png").frames) == list(range(1, 41))


def test_gifs_that_do_not_move_are_pictures(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "shots", numbered(60, 16, 16), "{}.gif")
    assert numbers(make(tmp_path / "o.h5", folder).frames) == list(range(60))
    assert make(tmp_path / "p.h5", folder, episodes="one").episode is None


def test_what_is_transparent_is_shown_over_black_and_it_says_so(tmp_path: Path) -> None:
    clear = np.full((60, 16, 16, 4), (200, 100, 40, 128), np.uint8)
    folder = write_images(tmp_path / "shots", clear)
    made = making.make(tmp_path / "o.h5", [str(folder)], Options(size=16))
    assert "shots: what is transparent is shown over black" in made.notes
    assert np.abs(Held(made.path).frames[0, 8, 8].astype(int) - (100, 50, 20)).max() <= 1
    whole = write_images(tmp_path / "whole", np.concatenate([clear[..., :3], clear[..., 3:] * 0 + 255], axis=3))
    assert not any("black" in note for note in making.make(tmp_path / "p.h5", [str(whole)], Options(size=16)).notes)


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
    tiff = BytesIO()
    Image.fromarray(numbered(1, 16, 16)[0]).save(tiff, "TIFF")
    (folder / "frame31.png").write_bytes(tiff.getvalue()[:-100])  # where its dimensions are
    assert "frame31.png: cannot be read as a picture" in refused(folder)
    Image.fromarray(np.full((16, 16), 0.5, np.float32)).save(folder / "frame31.png", "TIFF")
    assert "has floats from 0.5 to 0.5, and which are black and white cannot be known" in refused(folder)
    Image.fromarray(np.full((16, 16), 70_000, np.int32)).save(folder / "frame31.png", "TIFF")
    assert "values from 70000 to 70000, and" in refused(folder)
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


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "pipe.mp4: is a pipe or a device; write what comes from it to a file first" in refused(tmp_path / "pipe.mp4")
    for name in ("pipe.gif", "pipe.h5", "pipe"):
        os.mkfifo(tmp_path / name)
        assert "pipe" in refused(tmp_path / name)
    folder = write_images(tmp_path / "shots", numbered(50, 16, 16))
    os.mkfifo(folder / "frame50.png")
    assert "frame50.png: is a pipe or a device" in refused(folder)
    os.replace(folder / "frame49.png", folder / "frame50.png")
    (folder / "frame49.png").symlink_to("gone.png")
    assert "frame49.png: is a link to what is not there; mend the link, or take it away" in refused(folder)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert "loop.mp4: is a link to what is not there" in refused(tmp_path / "loop.mp4")


@pytest.mark.parametrize("address", ["https://example.org/play.mp4", "s3://plays/shots"])
def test_an_address_is_not_looked_for_as_a_file(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageProblem, match=f"{address}: is an address, and nothing is downloaded; download it, and"):
        make(tmp_path / "o.h5", address)
