"""A run that would take long on a CPU is told of before its first update, with what would fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.configs import write_configs
from tests.support.native_runs import make_root, start, wait_for_generation
from tests.support.processes import Tiw
from tiw_fsm.run.pace import GPUS

PACE = (
    r"on (\d+ CPUs|one CPU) an update of video_tokenizer will take about .*days: use a GPU, or begin with configs/demo"
)


@pytest.mark.skipif(any(Path(path).exists() for path in GPUS), reason="may have a GPU, with which nothing is told")
def test_check_says_what_configs_take_that_are_too_large_for_a_cpu_and_nothing_of_others(
    tmp_path: Path, tiw: Tiw
) -> None:
    assert tiw(tmp_path, "init").returncode == tiw(tmp_path, "init", "--demo").returncode == 0
    assert len(re.findall(PACE, tiw(tmp_path, "check").stdout)) == 1
    for quick in (["--config-dir", "configs/demo"], ["--set", "training.device=cuda"], ["--engine", "simulated"]):
        assert "an update of" not in tiw(tmp_path, "check", *quick).stdout


def test_a_first_start_says_it_before_anything_is_trained(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root")
    write_configs(root / "configs", {"video_tokenizer": {"n_updates": 10**9}})
    process = start(root)
    wait_for_generation(root, 1, process)
    process.kill()
    process.communicate()
    said = [json.loads(line)["event"] for line in (root / "state/default/log.jsonl").read_text().splitlines()]
    assert [number for number, line in enumerate(said) if re.search(PACE, line)] == [0]
    assert "an update of" not in tiw(root, "check").stdout, "what has begun knows its pace"
