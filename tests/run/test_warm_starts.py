"""Checkpoint folders as others leave them: `run` starts from them, and `check` finds them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.support.native_runs import PASSING
from tests.support.processes import Tiw
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoint_checks
from tiw_fsm.storage.checkpoints import FILES, MANIFEST
from tiw_fsm.tinyworlds.checkpoint_files import MODEL
from tiw_fsm.tinyworlds.training import read_weights


def of_a_compiled_model(made: Path, given: Path) -> None:
    shutil.copytree(made, given / made.name)
    (given / made.name / MANIFEST).unlink()
    weights = {f"_orig_mod.{name}": value for name, value in read_weights(made).items()}
    torch.save(weights, given / made.name / MODEL)


def with_a_link(made: Path, given: Path) -> None:
    (given / made.name).symlink_to(made)


def of_links(made: Path, given: Path) -> None:
    """As the cache of a hub is."""
    (given / "checkpoints" / made.name).mkdir(parents=True)
    for name in (*FILES, MANIFEST):
        (given / "checkpoints" / made.name / name).symlink_to(made / name)


FOLDERS: dict[Stage, Callable[[Path, Path], None]] = {
    Stage.VIDEO: of_a_compiled_model,
    Stage.LATENT: with_a_link,
    Stage.DYNAMICS: of_links,
}


def newest(root: Path, stage: Stage) -> Path:
    found = checkpoint_checks.newest_valid(root / "results/default" / stage / "checkpoints", stage)[0]
    assert found is not None
    return found


def test_folders_of_compiled_models_and_of_links_are_started_from(root: Path, passed_root: Path, tiw: Tiw) -> None:
    flags = []
    for stage, make in FOLDERS.items():
        (given := root / f"given_{stage}").mkdir()
        make(newest(passed_root, stage), given)
        done = tiw(root, "check", str(given))
        assert (done.returncode, done.stdout.count("ready")) == (ExitCode.PASSED, 1), done.stdout
        flags += [f"--{STAGES[stage].flag}-checkpoint", given.name]
    done = tiw(root, "run", "--train-stage", "none", *flags, *PASSING)
    assert done.returncode == ExitCode.PASSED, done.stderr
    for stage in Stage:
        (own,) = (root / "results/default" / stage / "warm_start").iterdir()
        found, expected = read_weights(own), read_weights(newest(passed_root, stage))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert found.keys() == expected.keys()


def test_a_link_to_nowhere_is_told_of_and_no_sentence_twice(root: Path, tiw: Tiw) -> None:
    (root / "given").mkdir()
    os.symlink("/gone/video_tokenizer_step_9", root / "given/video_tokenizer_step_9")
    done = tiw(root, "run", "--video-checkpoint", "given")
    assert (done.returncode, done.stderr.count("model_state_dict.pt is missing")) == (ExitCode.USAGE, 1), done.stderr
    assert "model_state_dict.pt is missing" in tiw(root, "check", "given").stdout
    (root / "gone").symlink_to("/gone")
    assert "no such folder or file" in tiw(root, "check", "gone").stdout
