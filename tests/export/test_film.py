"""`tiw-fsm export --video`: the gate's own rollouts, true above imagined, as a film that plays."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import tiw_fsm
from tiw_fsm.data.pictures import GAP, motion
from tiw_fsm.errors import ExitCode
from tiw_fsm.export import film

LENGTH = 2 + 4
WITHOUT_AV = "import sys; sys.modules['av'] = None; from tiw_fsm.__main__ import main; main()"


@pytest.fixture
def run(passed_root: Path) -> tiw_fsm.Run:
    return tiw_fsm.open_run(repo_root=passed_root)


def test_what_is_filmed_are_the_rollouts_that_the_gate_judged(run: tiw_fsm.Run) -> None:
    steps: list[tuple[int, int]] = []
    true, model, window = film.rollouts(run, "cpu", lambda done, total: steps.append((done, total)))
    assert steps == [(n, 4) for n in range(1, 5)]
    assert np.array_equal(true[:, :window], model[:, :window])
    mse = ((true[:, window:] / 255 - model[:, window:] / 255) ** 2).mean()
    assert mse == pytest.approx(run.verdicts()[-1].mse, abs=1e-4)  # pixels are rounded


def test_they_are_bit_for_bit_what_the_training_process_drew(run: tiw_fsm.Run) -> None:
    """In another process, with as many threads: the picture of the attempt has the same pixels."""
    drawn = motion(Path(run.verdicts()[-1].png or "").read_bytes())
    assert drawn is not None
    true, model, _ = film.rollouts(run, "cpu", lambda done, total: None)
    with Image.open(io.BytesIO(drawn)) as image:
        for t in range(LENGTH):
            image.seek(t)
            shown = np.asarray(image.convert("RGB"))
            for clip in range(2):
                left = clip * (16 + GAP)
                assert np.array_equal(shown[:16, left : left + 16], true[clip, t])
                assert np.array_equal(shown[16 + GAP : 32 + GAP, left : left + 16], model[clip, t])


def test_each_moment_shows_every_clip_true_above_imagined(run: tiw_fsm.Run) -> None:
    true, model, window = film.rollouts(run, "cpu", lambda done, total: None)
    true, model = (np.concatenate([clips] * 3)[:5] for clips in (true, model))  # as many as make a second band
    shown = film.moments("default", true, model, window)
    assert len(shown) == LENGTH
    scale = 112 // 16
    for t, picture in enumerate(shown):
        tiles = [
            picture[y : y + 112 : scale, x : x + 112 : scale]
            for top in (film.TITLE, film.TITLE + 2 * (112 + film.GAP) + 2 * film.GAP)
            for y in (top, top + 112 + film.GAP)
            for x in range(film.LABEL, film.LABEL + 4 * (112 + film.GAP), 112 + film.GAP)
        ]
        for clip in range(5):
            band, column = divmod(clip, 4)
            assert np.array_equal(tiles[band * 8 + column], true[clip, t])
            assert np.array_equal(tiles[band * 8 + 4 + column], model[clip, t])
    assert (shown[window - 1][: film.TITLE] != shown[window][: film.TITLE]).any()  # given, then imagined


def test_a_film_and_a_moving_picture_play_to_the_end(passed_root: Path, run: tiw_fsm.Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tiw_fsm", "export", "--video", str(tmp_path / "a/rollouts.mp4"), "--json"]
    done = subprocess.run(command, cwd=passed_root, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert (told["clips"], told["film"]) == (2, str(tmp_path / "a/rollouts.mp4"))
    with av.open(told["film"]) as container:
        assert sum(1 for _ in container.decode(video=0)) == LENGTH + film.HELD
    moving = tmp_path / "rollouts.gif"
    assert film.write(run, moving, force=False, allow_failed=False, device="cpu") == 2
    with Image.open(moving) as image:
        assert image.n_frames >= LENGTH - 1  # equal ones become one
        assert image.info["loop"] == 0


def test_what_cannot_be_filmed_is_said_and_nothing_is_changed(run: tiw_fsm.Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept.gif"
    kept.write_bytes(b"mine")
    for path, force, said in (
        (kept, False, "already there: --force films it again"),
        (tmp_path / "film.avi", True, "name the film .mp4 or .gif"),
        (tmp_path, True, "name the film .mp4 or .gif"),
        (tmp_path / "film", True, "name the film .mp4 or .gif"),
    ):
        with pytest.raises(tiw_fsm.TiwFsmError, match=said):
            film.write(run, path, force=force, allow_failed=False)
    assert kept.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.gif"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video", "-o", "there"], "give one of them"),
        (["--video", "run.v2"], "The run has not begun: `tiw-fsm run --run run.v2`"),
        (["--video", "film.avi"], "name the film .mp4 or .gif"),
    ],
)
def test_a_command_that_means_no_film_says_so(passed_root: Path, words: list[str], said: str) -> None:
    before = set(passed_root.iterdir())
    command = [sys.executable, "-m", "tiw_fsm", "export", *words]
    done = subprocess.run(command, cwd=passed_root, capture_output=True, text=True)
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (ExitCode.USAGE, True, 1), done.stderr
    assert set(passed_root.iterdir()) == before


def test_without_pyav_a_film_is_refused_with_what_to_install(passed_root: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_AV, "export", "--video", "default"]  # which is the run's name
    done = subprocess.run(command, cwd=passed_root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (ExitCode.USAGE, "", 1), done.stderr
    assert "pip install 'tiw_fsm[video]', or name a .gif" in done.stderr
    assert not (passed_root / "exports").exists()
