"""On a CUDA device: the whole machine, and the same promise. Run with `pytest -m gpu` where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.native_runs import PASSING, digests, make_root, start, wait_for_generation
from tests.support.processes import Tiw
from tiw_fsm.errors import ExitCode

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("performance", [{}, {"amp": True, "tf32": True}], ids=["float32", "bf16"])
def test_a_killed_run_on_cuda_ends_with_the_same_weights(
    tmp_path: Path, tiw: Tiw, performance: dict[str, bool]
) -> None:
    whole, killed = (make_root(tmp_path / name, device="cuda", **performance) for name in ("whole", "killed"))
    done = tiw(whole, "run", *PASSING)
    assert done.returncode == ExitCode.PASSED, done.stderr
    process = start(killed, *PASSING)
    wait_for_generation(killed, 7, process)
    process.kill()
    process.communicate()
    done = tiw(killed, "run")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert digests(tiw, killed) == digests(tiw, whole)
    assert json.loads(tiw(killed, "status", "--json").stdout)["inexact"] == []


def test_a_run_that_comes_back_on_another_device_goes_on_and_says_so(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root", device="cuda")
    process = start(root, *PASSING)
    wait_for_generation(root, 4, process)
    process.kill()
    process.communicate()
    refused = tiw(root, "run", "--device", "cpu", "--require-exact")
    assert refused.returncode == ExitCode.CHANGED
    assert tiw(root, "run", "--device", "cpu").returncode == ExitCode.PASSED
    status = json.loads(tiw(root, "status", "--json").stdout)
    assert "device" in {entry["what"].partition(":")[0] for entry in status["inexact"]}


def test_compiled_training_runs(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root", device="cuda", compile=True)
    done = tiw(root, "run", *PASSING, timeout=500)
    assert done.returncode == ExitCode.PASSED, done.stderr
