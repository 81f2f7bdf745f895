"""The guides for those who add to the package: what each says is done to a copy, which then runs as for a user."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.configs import LENIENT, merged, write_configs, write_frames
from tests.support.lint import lint_imports
from tiw_fsm.errors import ExitCode

PROJECT = Path(__file__).parent.parent


class Guide(NamedTuple):
    """What a guide, or a section of one, has its reader do.

    Attributes:
        files: new files: path, and content.
        changes: files of the package, each with the (before, after) of its hunks.
    """

    files: dict[str, str]
    changes: list[tuple[str, list[tuple[str, str]]]]

    @property
    def touched(self) -> set[str]:
        return {path for path, _ in self.changes}

    def apply(self, root: Path) -> None:
        """Do it to the files under ``root``. What a hunk wants to find must be there once."""
        for path, content in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        for path, hunks in self.changes:
            text = (root / path).read_text()
            for before, after in hunks:
                assert text.count(before) == 1, f"{path} has {text.count(before)} times:\n{before}"
                text = text.replace(before, after)
            (root / path).write_text(text)


def guide(page: str, section: str | None = None) -> Guide:
    """A page of docs/, or what stands under one of its headings."""
    text = (PROJECT / "docs" / page).read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    files, changes = {}, []
    for info, content in re.findall(r"^```(.+?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if title := re.search(r'title="(.+)"', info):
            files[title[1]] = content
        elif info == "diff":
            head, *hunks = content.split("@@\n")
            old, new = re.findall(r"^(?:---|\+\+\+) [ab]/(\S+)$", head, re.MULTILINE)
            assert old == new
            changes.append((old, [_before_and_after(hunk) for hunk in hunks]))
    assert files or changes, f"{page} {section or ''} says nothing to do"
    return Guide(files, changes)


def _before_and_after(hunk: str) -> tuple[str, str]:
    lines = [line if line.strip() else " " for line in hunk.splitlines()]
    return tuple("".join(f"{line[1:]}\n" for line in lines if line[0] in kinds) for kinds in (" -", " +"))  # type: ignore[return-value]


class Copy:
    """A copy of the package that a guide is applied to, and a working root to run it in."""

    def __init__(self, folder: Path) -> None:
        self.package, self.root = folder / "copy", folder / "root"
        shutil.copytree(PROJECT / "tiw_fsm", self.package / "tiw_fsm", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROJECT / "pyproject.toml", self.package)
        self.root.mkdir()
        write_configs(self.root / "configs", {"loop": LENIENT})
        write_frames(self.root / "frames.h5")

    def __call__(self, *arguments: str, also: Path | None = None) -> subprocess.CompletedProcess[str]:
        """``tiw-fsm`` of the copy."""
        path = os.pathsep.join(map(str, filter(None, (self.package, also))))
        return subprocess.run(
            [sys.executable, "-m", "tiw_fsm", *arguments],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def passes(self, *arguments: str) -> None:
        done = self("run", *arguments)
        assert done.returncode == ExitCode.PASSED, done.stdout + done.stderr

    def status(self, run: str = "default") -> Any:
        return json.loads(self("status", "--json", "--run", run).stdout)

    def configure(self, name: str, changes: dict[str, Any]) -> None:
        path = self.root / f"configs/{name}.yaml"
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), changes), sort_keys=False))


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


LENIENT_REWARD = {"gates": {"reward_model": {"from_update": 10_000}}}


def apply_the_stage(copy: Copy) -> None:
    said = guide("add-a-stage.md")
    said.apply(copy.package)
    shutil.copy(copy.package / "configs/reward_model.yaml", copy.root / "configs")


def test_a_stage_takes_the_files_that_the_guide_counts() -> None:
    said = guide("add-a-stage.md")
    assert len(said.touched) == 3
    assert set(said.files) == {"tiw_fsm/tinyworlds/reward_model.py", "configs/reward_model.yaml"}
    table = (PROJECT / "docs/add-a-stage.md").read_text().partition("\n\nThese three files")[0]
    assert set(re.findall(r"`(tiw_fsm/\S+\.py)`", table)) == said.touched


def test_a_stage_that_is_added_walks_the_machine(copy: Copy) -> None:
    """From ALIGN to PASSED on the simulated engine; flags, status, page, graph and reports know it."""
    apply_the_stage(copy)
    copy.passes("--engine", "simulated", "--reward-chunk", "5")
    found = copy.status()
    assert list(found["stages"]) == ["video_tokenizer", "latent_actions", "dynamics", "reward_model"]
    assert found["stages"]["reward_model"]["completed"] == 10
    steps = json.loads(copy("history", "--json").stdout)
    judged = [step["facts"]["completed"] for step in steps if step["facts"].get("stage") == "reward_model"]
    assert judged[-1] == 10
    assert "REWARD" in copy("status").stdout
    assert "TRAIN_REWARD" in copy("graph").stdout
    page = (copy.root / "state/default/report.html").read_text()
    assert "TRAIN_REWARD" in page
    assert "reward_model" in page
    help = copy("run", "--help").stdout
    assert all(flag in help for flag in ("--reward-checkpoint", "--reward-config", "--reward-chunk"))
    assert "reward_model" in "".join(path.read_text() for path in (copy.root / "docs/action").glob("*.md"))


def test_a_stage_that_is_added_trains(copy: Copy) -> None:
    """Its model is trained by the native engine, and again from its checkpoint, alone."""
    apply_the_stage(copy)
    copy.configure("loop", LENIENT_REWARD)
    copy.passes("--max-mse", "0.9", "--allow-trivial")
    metrics = (copy.root / "results/default/reward_model/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in metrics]
    assert len(losses) == 10
    assert len(set(losses)) == 10
    assert Path(copy.status()["stages"]["reward_model"]["picture"]).is_file()
    assert "ready" in copy("check", "results/default/reward_model/checkpoints").stdout


def test_a_stage_that_is_added_keeps_the_rules_of_import(copy: Copy) -> None:
    apply_the_stage(copy)
    done = lint_imports(copy.package)
    assert done.returncode == 0, done.stdout


def test_an_engine_of_ones_own_runs_with_no_file_of_the_package_touched(tmp_path: Path, copy: Copy) -> None:
    """Installed as pip would: the module, and the entry points of its ``pyproject.toml``."""
    said = guide("add-an-engine.md")
    assert said.touched == set()
    site = tmp_path / "site"
    said.apply(site)
    points = tomllib.loads(said.files["pyproject.toml"])["project"]["entry-points"]
    info = site / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    sections = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in points.items())
    (info / "entry_points.txt").write_text("".join(sections))
    write_configs(copy.root / "configs")  # the gates as they are meant
    refused = copy("run", "--engine", "mine")
    assert refused.returncode == ExitCode.USAGE
    assert "no such engine" in refused.stderr
    done = copy("run", "--engine", "mine", also=site)
    assert done.returncode == ExitCode.PASSED, done.stderr
    found = copy.status()
    assert (found["state"], found["fingerprint"]["device"]) == ("PASSED", "mine")
    again = copy("run", "--engine", "mine", also=site)
    assert again.returncode == ExitCode.PASSED
    assert copy("verify").returncode == 0


SECTIONS = {"A baseline": 2, "A figure, and a condition on it": 3, "A flag that reaches inference": 3}


@pytest.mark.parametrize(("section", "files"), SECTIONS.items())
def test_a_measure_takes_the_files_that_the_guide_counts(section: str, files: int) -> None:
    said = guide("add-a-baseline-or-condition.md", section)
    assert (len(said.touched), said.files) == (files, {})


def test_baseline_condition_and_flag_that_are_added_take_effect(copy: Copy) -> None:
    """The gate demands the new figure and the new baseline, and names what is not met; the flag changes the rollout."""
    for section in SECTIONS:
        guide("add-a-baseline-or-condition.md", section).apply(copy.package)
    copy.configure("loop", {"inference": {"beat": ["faded_last"], "max_mse": 0.9, "min_sharpness": 1000.0}})
    failed = copy("run", "--max-inference-retries", "0")
    assert failed.returncode == ExitCode.NOT_PASSED, failed.stderr
    assert "sharp_enough" in failed.stderr
    (attempt,) = copy.status()["inference"]["attempts"]
    assert attempt["baselines"]["faded_last"] > 0
    assert attempt["sharpness"] > 0
    assert (attempt["conditions"]["sharp_enough"], "beats_faded_last" in attempt["conditions"]) == (False, True)
    reports = "".join(path.read_text() for path in (copy.root / "docs/action").glob("*.md"))
    assert "contrast of generated frames" in reports
    assert "faded_last" in reports

    copy.configure("loop", {"inference": {"min_sharpness": attempt["sharpness"] / 2}})
    copy.passes("--allow-trivial")  # the same run, reopened at its gate
    assert copy.status()["inference"]["attempts"][-1]["conditions"]["sharp_enough"]

    trained = [
        word
        for stage, flag in (("video_tokenizer", "video"), ("latent_actions", "latent"), ("dynamics", "dynamics"))
        for word in (f"--{flag}-checkpoint", f"results/default/{stage}/checkpoints")
    ]
    noisy = ("--run", "noisy", "--train-stage", "none", "--allow-trivial", "--start-noise", "0.5", *trained)
    copy("run", *noisy)
    (other,) = copy.status("noisy")["inference"]["attempts"][-1:]
    assert other["mse"] != attempt["mse"]
    assert other["baselines"] == attempt["baselines"]
