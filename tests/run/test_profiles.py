"""The profiles in ``configs/``: each goes all the way, on frames of its game, with a few updates a stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.amounts import whole_too
from tests.support.processes import Tiw
from tiw_fsm.data import recording
from tiw_fsm.errors import ExitCode
from tiw_fsm.storage.store import Store

CONFIGS = Path(__file__).parents[2] / "configs"
FEW = (
    "--target-updates", "2", "--init-log-interval", "1", "--init-batch-size", "2", "--generation-steps", "2",
    "--video-chunk", "2", "--latent-chunk", "2", "--dynamics-chunk", "2", "--device", "cpu",
    "--max-mse", "1", "--allow-trivial",
)  # fmt: skip


@pytest.mark.parametrize(("profile", "game"), [("demo", "planet"), whole_too("crafter", "crafter")])
def test_a_profile_goes_all_the_way_on_its_game(tiw: Tiw, tmp_path: Path, profile: str, game: str) -> None:
    shutil.copytree(CONFIGS / profile, tmp_path / "configs")
    loop = tmp_path / "configs/loop.yaml"
    loop.write_text(loop.read_text().replace("{clips: 64}", "{clips: 2}"))  # a GPU's world takes its time on a CPU
    recording.record(tmp_path / f"data/{game}_frames.h5", game=game, frames=640, episode_length=64, seed=0)
    done = tiw(tmp_path, "run", *FEW)
    assert done.returncode == ExitCode.PASSED, done.stderr
    run = Store(tmp_path / "state/default").load()
    assert run is not None
    assert {progress.completed for progress in run.stages.values()} == {2}
    (attempt,) = run.inference.attempts
    assert attempt.keys_used
    assert attempt.key_agreement is not None
    assert attempt.delta_psnr is not None
