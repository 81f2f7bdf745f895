"""Pretrained models in single files, as TinyWorlds saved them: `run` starts from them, and `check` looks at them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.amounts import whole_too
from tests.support.configs import LENIENT, write_configs
from tests.support.native_runs import PASSING, start, wait_for_generation
from tests.support.processes import Tiw
from tests.support.settings import settings_of
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints, packed
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.training import read_weights

Weights = dict[str, torch.Tensor]


class Config:
    """Saved as an object, of a class that nobody who reads the file has."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


class RunsCode:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


def compiled(weights: Weights) -> Weights:
    """The names of a model that was compiled and trained by several processes."""
    return {f"module._orig_mod.{name}": value for name, value in weights.items()}


FORMS: dict[str, Callable[[Weights, dict[str, Any]], Any]] = {
    "weights and a config": lambda weights, config: {"model": weights, "config": config, "step": 9},
    "an object for a config": lambda weights, config: {"model": weights, "config": Config(config)},
    "compiled": lambda weights, config: {"model_state_dict": compiled(weights), "config": config, "epoch": 3},
    "weights alone": lambda weights, config: weights,
    "code beside the weights": lambda weights, config: {"model": weights, "config": config, "optim": RunsCode()},
}


def weights_of(root: Path, stage: Stage) -> Weights:
    """Those of a model that was never trained, a little different from stage to stage."""
    torch.manual_seed(len(stage))
    return make_model(stage, settings_of(root).stages[stage]).state_dict()


def save(root: Path, stage: Stage, form: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    config = settings_of(root).stages[stage].model_dump(mode="json")
    torch.save(FORMS[form](weights_of(root, stage), config), path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_single_file_becomes_a_checkpoint_with_its_very_weights_and_nothing_is_executed(
    root: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = save(root, Stage.VIDEO, form, tmp_path / "given/video_tokenizer_step_19.pth")
    first = packed.unpack(file, Stage.VIDEO, tmp_path / "first")
    again = packed.unpack(file, Stage.VIDEO, tmp_path / "again")
    assert first.name == ("video_tokenizer_step_9" if form == "weights and a config" else "video_tokenizer_step_19")
    expected, found = weights_of(root, Stage.VIDEO), read_weights(first)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert checkpoint_checks.problems(first, expect=shapes) == []
    assert checkpoints.digest(first) == checkpoints.digest(again)
    assert checkpoint_checks.saved_config(first).get("num_blocks") == (None if form == "weights alone" else 1)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_numbers_of_every_type_keep_their_values(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(2, 3, 4).to(dtype)
    weights = {"a": whole, "turned": whole.transpose(0, 2), "single": whole[1, 1, 1], "none": whole[:0], "é": whole[0]}
    torch.save({"model": weights}, tmp_path / "model.pth")
    found = read_weights(packed.unpack(tmp_path / "model.pth", Stage.VIDEO, tmp_path / "unpacked"))
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in weights.items()
    }


def test_pretrained_files_are_started_from_and_a_plain_start_goes_on(root: Path, tiw: Tiw) -> None:
    """As `tiw-fsm download` lays them: a folder for each stage, a single file in it."""
    flags, forms = [], iter(["compiled", "an object for a config", "weights and a config"])
    for stage, spec in STAGES.items():
        folder = root / "results/pretrained/sonic" / stage / "checkpoints"
        save(root, stage, next(forms), folder / f"{stage}.pth")
        given = folder if stage is Stage.VIDEO else root / "results/pretrained/sonic"  # a run root will do
        flags += [f"--{spec.flag}-checkpoint", str(given.relative_to(root))]
    assert tiw(root, "check", "results/pretrained/sonic").returncode == ExitCode.PASSED
    done = tiw(root, "run", *flags, "--target-updates", "10", *PASSING)
    assert done.returncode == ExitCode.PASSED, done.stderr
    stages = json.loads(tiw(root, "status", "--json").stdout)["stages"]
    assert [stages[stage]["completed"] for stage in Stage] == [10, 10, 20], "only the dynamics counts on"
    for stage in Stage:
        (own,) = (root / "results/default" / stage / "warm_start").iterdir()
        found, expected = read_weights(own), weights_of(root, stage)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert tiw(root, "run").stdout == done.stdout
    assert tiw(root, "run", *flags, *PASSING).stdout == done.stdout
    assert tiw(root, "verify").returncode == ExitCode.PASSED


def test_what_was_unpacked_is_gone_once_the_run_has_its_own_copy(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(root, Stage.VIDEO, "compiled", root / "given/video.pth")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = start(root, "--video-checkpoint", str(file), "--target-updates", "5000")
    try:
        wait_for_generation(root, 3, process)
        assert list((root / "results/default/video_tokenizer/warm_start").iterdir())
        assert list(temporary.glob("tiw-fsm-replay-*")) == []
    finally:
        process.terminate()
        process.communicate(timeout=60)


def refused(root: Path, tiw: Tiw, file: Path) -> str:
    """What `run` says of a file that it cannot start from."""
    done = tiw(root, "run", "--video-checkpoint", str(file))
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert not (root / "state/default/state.json").exists()
    assert not (root / "pwned").exists()
    return done.stderr


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file of torch's": (lambda file: file.write_bytes(b"version https://git-lfs"), "video.pth"),
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:5000]), "video.pth"),
    "nothing but code": (lambda file: torch.save({"model": RunsCode()}, file), "holds no weights"),
    "no weights": (lambda file: torch.save({"config": {"a": 1}}, file), "holds no weights"),
    "not a number": (lambda file: torch.save({"model": {"a": torch.tensor([float("nan")])}}, file), "first in a"),
}


RARER = map(whole_too, ("cut short", "no file of torch's", "no weights", "not a number"))


@pytest.mark.parametrize("harm", ["nothing but code", *RARER])
def test_what_cannot_be_used_is_said_by_run_and_by_check_alike(root: Path, tiw: Tiw, harm: str) -> None:
    file = save(root, Stage.VIDEO, "compiled", root / "given/video.pth")
    damage, said = HARMS[harm]
    damage(file)
    checked = tiw(root, "check", str(file))
    assert (checked.returncode, said in checked.stdout) == (ExitCode.USAGE, True), checked.stdout
    reason = checked.stdout.splitlines()[1].strip()
    assert reason in refused(root, tiw, file)


def test_of_another_architecture_tensors_and_sizes_are_named_on_both_sides(root: Path, tiw: Tiw) -> None:
    file = save(root, Stage.VIDEO, "an object for a config", root / "given/video.pth")
    write_configs(root / "configs", {"training": {"hidden_dim": 48}, "loop": LENIENT})
    checked = tiw(root, "check", str(file))
    assert "made with hidden_dim 24, in the configs 48, so a run with these configs cannot start" in checked.stdout
    told = refused(root, tiw, file)
    assert f"{file}" in told
    assert "is of another architecture" in told
    assert "where (" in told
    assert "It was made with hidden_dim 24, in the configs 48." in told
    assert "tiw-fsm-replay" not in told, "a temporary folder is nobody's business"


def test_of_several_files_one_has_to_be_named(root: Path, tiw: Tiw) -> None:
    for name in ("one", "two"):
        save(root, Stage.VIDEO, "compiled", root / f"given/{name}.pth")
    checked = tiw(root, "check", "given")
    assert checked.returncode == ExitCode.USAGE
    assert "2 files are there (one.pth, two.pth), so name one of them" in checked.stdout
