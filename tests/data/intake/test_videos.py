"""Videos: which frames are taken, and what is said of those that cannot be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.intake.sources import Held, make, numbered, numbers, write_timed, write_video
from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options
from tiw_fsm.errors import UsageProblem

SUFFIXES = [".mp4", ".webm", ".mkv", ".gif", ".avi", ".mov"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_frame_of_a_video_is_taken_in_its_order(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"play{suffix}", numbered(50), rate=10)
    held = make(tmp_path / "o.h5", video)
    assert held.frames.shape == (50, 16, 16, 3)
    grey = held.frames[:, 8, 8, 0].astype(int)
    assert np.abs(grey - np.arange(50) * 4).max() <= (40 if suffix == ".gif" else 8)  # a gif has eight greys
    assert (held.attrs["fps"], held.attrs["stride"], held.attrs["sources"].tolist()) == (10, 1, [f"play{suffix}"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 3}, range(0, 120, 3)),
        ({"fps": 10.0}, range(0, 120, 3)),
        ({"fps": 15.0, "start": 1.0}, range(30, 120, 2)),
        ({"start": 1.0, "end": 3.0}, range(30, 90)),
        ({"start": 2.05, "end": 9.0}, range(62, 120)),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_and_strides_choose_frames(
    tmp_path: Path, suffix: str, options: dict[str, float], expected: range
) -> None:
    video = write_video(tmp_path / f"play{suffix}", numbered(120))
    assert numbers(make(tmp_path / "o.h5", video, **options).frames) == [n % 60 for n in expected]


def test_a_video_whose_frames_stay_for_different_times_is_played_at_an_even_pace(tmp_path: Path) -> None:
    video = write_timed(tmp_path / "uneven.mkv", np.cumsum([0] + [1, 3] * 14 + [1]).tolist(), rate=20)
    taken = numbers(make(tmp_path / "o.h5", video, fps=20.0).frames)
    assert taken[:8] == [0, 1, 1, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".avi", ".ts"])
def test_the_rate_is_that_of_the_frames_and_not_of_what_a_file_was_meant_to_be(tmp_path: Path, suffix: str) -> None:
    """Sixty frames, one a second, in a stream of 30 a second."""
    held = make(tmp_path / "o.h5", write_timed(tmp_path / f"slow{suffix}", range(0, 1800, 30), rate=30))
    assert (len(held.frames), held.attrs["fps"]) == (60, pytest.approx(1, rel=0.02))


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".wmv"])
def test_a_video_may_begin_later_than_its_clock(tmp_path: Path, suffix: str) -> None:
    video = write_timed(tmp_path / f"late{suffix}", range(600, 690), rate=30)
    held = make(tmp_path / "o.h5", video)
    assert (len(held.frames), held.attrs["fps"]) == (90, 30)
    part = numbers(make(tmp_path / "p.h5", video, start=1.0, end=2.5).frames)
    assert part == pytest.approx([n % 60 for n in range(30, 75)], abs=1)  # VP8 blurs them
    os.truncate(video, video.stat().st_size * 2 // 3)
    if suffix in (".mkv", ".webm"):  # the others have an index at the end
        assert "of 3.0 s (nothing follows); it was cut short" in refused(video)


def test_each_of_many_videos_is_an_episode_and_a_folder_has_them_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "plays"
    folder.mkdir()
    (folder / "notes.txt").write_text("about them")
    for n in range(12):
        write_video(folder / f"play{n}.mp4", numbered(60)[n : n + 6])
    held = make(tmp_path / "o.h5", folder)
    assert held.lengths == [6] * 12
    assert numbers(held.frames[::6]) == list(range(12))
    named = make(tmp_path / "p.h5", *(folder / f"play{n}.mp4" for n in range(12)))
    assert (tmp_path / "p.h5").read_bytes() == (tmp_path / "o.h5").read_bytes()
    assert named.attrs["sources"].tolist() == [f"play{n}.mp4" for n in range(12)]


def test_a_single_video_is_cut_so_that_something_can_be_held_out(tmp_path: Path) -> None:
    video = write_video(tmp_path / "play.mp4", numbered(1400, 16, 16))
    assert make(tmp_path / "o.h5", video).lengths == [70] * 20
    assert make(tmp_path / "o.h5", video, episode_length=100).lengths == [100] * 14
    assert make(tmp_path / "o.h5", video, episodes="one").episode is None


def test_scenes_of_a_video_become_episodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(12):
        backdrop = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        scenes += [np.roll(backdrop, t, axis=1) for t in range(20)]
    video = write_video(tmp_path / "play.mp4", scenes)
    assert make(tmp_path / "o.h5", video, episodes="cuts", size=32).lengths == [20] * 12


def test_a_picture_that_a_phone_took_upright_is_turned_upright(tmp_path: Path) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32] = 255
    video = write_video(tmp_path / "play.mp4", [frame] * 40)
    turned = tmp_path / "turned.mp4"
    content = video.read_bytes()
    straight = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    quarter = b"".join(
        n.to_bytes(4, "big", signed=True) for n in (0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    )
    at = content.rindex(straight)  # of the track; the first is the film's
    turned.write_bytes(content[:at] + quarter + content[at + len(quarter) :])
    shown = make(tmp_path / "o.h5", turned, fit="stretch").frames[0, :, :, 0]
    assert shown[2].mean() > 200 > 50 > shown[-3].mean()


def test_what_is_transparent_in_a_video_is_shown_over_black_as_in_a_picture(tmp_path: Path) -> None:
    clear = np.full((48, 16, 16, 4), (200, 100, 40, 128), np.uint8)
    with av.open(tmp_path / "play.mov", "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "argb"
        for frame in clear:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
        container.mux(stream.encode())
    made = making.make(tmp_path / "o.h5", [str(tmp_path / "play.mov")], Options(size=16))
    assert "play.mov: what is transparent is shown over black" in made.notes
    assert np.abs(Held(made.path).frames[0, 8, 8].astype(int) - (100, 50, 20)).max() <= 1


# --- videos that cannot be used ---------------------------------------------------------------------------------


def refused(path: Path, **options: object) -> str:
    output = path.parent / "out" / "o.h5"
    with pytest.raises(UsageProblem) as caught:
        make(output, path, **options)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".webm"])
def test_a_video_cut_short_says_how_far_it_goes_and_takes_that_if_asked(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"play{suffix}", numbered(200))
    os.truncate(video, video.stat().st_size // 2)
    said = refused(video)
    assert "it was cut short" in said
    end = float(said.rpartition("--end ")[2])
    assert 0 < end < 6
    assert len(make(tmp_path / "o.h5", video, end=end).frames) == pytest.approx(end * 30, abs=2)


def test_an_mp4_cut_short_has_lost_its_index_or_says_how_far_it_goes(tmp_path: Path) -> None:
    video = write_video(tmp_path / "play.mp4", numbered(200))
    os.truncate(video, video.stat().st_size * 2 // 3)
    assert "cannot be opened as a video" in refused(video)
    fast = write_video(tmp_path / "fast.mp4", numbered(200), movflags="faststart")
    os.truncate(fast, fast.stat().st_size * 2 // 3)
    said = refused(fast)
    assert "of 6.7 s" in said
    assert len(make(tmp_path / "o.h5", fast, end=float(said.rpartition("--end ")[2])).frames) > 40


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_short_video_cut_short_is_not_called_too_short(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"play{suffix}", numbered(30))
    os.truncate(video, video.stat().st_size * 2 // 3)
    assert "of 1.0 s (nothing follows); it was cut short" in refused(video)


def test_a_gif_cut_short_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "play.gif", numbered(60))
    os.truncate(video, video.stat().st_size // 2)
    assert "its end is missing" in refused(video)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "cannot be opened as a video" in refused(tmp_path / "text.mp4")
    assert "cannot be opened as a video" in refused(tmp_path / "empty.mp4")
    assert "has no video stream" in refused(tmp_path / "sound.mp4")
    assert "no such file" in refused(tmp_path / "gone.mp4")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 60.0}, "has 30 frames per second; give --fps 30 or less"),
        ({"start": 10.0}, "is 2.0 s long; --start has to lie before its end"),
        ({"end": 0.5}, "15 frames in all are too few to train and judge on; give at least 40"),
        ({"episodes": "dones"}, "says nowhere that an episode is done"),
    ],
    ids=str,
)
def test_what_a_video_cannot_give_is_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    assert said in refused(write_video(tmp_path / "play.mp4", numbered(60)), **options)


@pytest.mark.parametrize(
    ("package", "extra", "options"), [("av", "video", {}), ("scenedetect", "cuts", {"episodes": "cuts"})]
)
def test_a_missing_extra_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, options: dict[str, object]
) -> None:
    video = write_video(tmp_path / "play.mp4", numbered(60))
    monkeypatch.setitem(sys.modules, package, None)
    assert f"needs the package {package}: pip install 'tiw_fsm[{extra}]'" in refused(video, **options)
