"""What ``tiw-fsm check`` finds ready, and what not."""

from __future__ import annotations

import enum
import json
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.support.processes import Tiw
from tiw_fsm.errors import ExitCode


def test_check_finds_a_trained_run_ready_and_says_why_a_damaged_one_is_not(root: Path, tiw: Tiw) -> None:
    assert tiw(root, "run", "--max-mse", "0.9", "--allow-trivial").returncode == ExitCode.PASSED
    assert tiw(root, "check").returncode == ExitCode.PASSED
    ready = tiw(root, "check", "results/default")
    assert (ready.returncode, ready.stdout.count("ready")) == (ExitCode.PASSED, 3)
    model = root / "results/default/dynamics/checkpoints/dynamics_step_19/model_state_dict.pt"
    model.write_bytes(model.read_bytes()[:-50])
    for arguments in (["check"], ["check", "results/default"]):
        damaged = tiw(root, *arguments)
        assert damaged.returncode == ExitCode.USAGE
        assert "not ready" in damaged.stdout
        assert "model_state_dict.pt" in damaged.stdout


@pytest.fixture
def tinyworlds_device(monkeypatch: pytest.MonkeyPatch) -> enum.Enum:
    """An enum of TinyWorlds' own module, which is not there when the checkpoint is read."""
    package, module = types.ModuleType("utils"), types.ModuleType("utils.config")
    module.DeviceType = enum.Enum("DeviceType", {"CUDA": "cuda"}, module="utils.config")  # type: ignore[attr-defined, misc]
    monkeypatch.setitem(sys.modules, "utils", package)
    monkeypatch.setitem(sys.modules, "utils.config", module)
    device: enum.Enum = module.DeviceType["CUDA"]
    return device


def save_as_tinyworlds_does(folder: Path, **config: object) -> None:
    """Three files, no manifest, and a state.pt with a class of TinyWorlds' own in it."""
    folder.mkdir(parents=True)
    weight = torch.nn.Parameter(torch.ones(30, 30))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save({"weight": weight.detach()}, folder / "model_state_dict.pt")
    torch.save(optimizer.state_dict(), folder / "optim_state_dict.pt")
    torch.save({"config": config, "step": 99}, folder / "state.pt")


def test_check_judges_a_run_root_of_tinyworlds_itself(tmp_path: Path, tiw: Tiw, tinyworlds_device: enum.Enum) -> None:
    for stage in ("video_tokenizer", "latent_actions", "dynamics"):
        folder = tmp_path / "old" / stage / "checkpoints" / f"{stage}_step_99"
        save_as_tinyworlds_does(folder, frame_size=64, device=tinyworlds_device)
    assert tiw(tmp_path, "check", "old").returncode == ExitCode.PASSED


def test_check_says_when_models_were_not_made_for_each_other_or_one_is_missing(tmp_path: Path, tiw: Tiw) -> None:
    for stage, size in (("video_tokenizer", 64), ("dynamics", 128)):
        save_as_tinyworlds_does(tmp_path / "old" / stage / "checkpoints" / f"{stage}_step_99", frame_size=size)
    done = tiw(tmp_path, "check", "old", "--json")
    assert done.returncode == ExitCode.USAGE
    said = " ".join(problem for finding in json.loads(done.stdout) for problem in finding["problems"])
    assert "frame_size differs: video_tokenizer 64, dynamics 128" in said
    assert "inference needs all three models" in said
