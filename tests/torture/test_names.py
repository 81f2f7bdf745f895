"""Runs that share a working root share the folders of reports and inference pictures: each keeps its own."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest
from PIL import Image

from tests.support.configs import write_configs
from tests.support.torture.bench import Bench
from tests.support.torture.launch import Fault, Launcher
from tiw_fsm.errors import ExitCode
from tiw_fsm.storage.store import Store

AT_ONCE = 50
REPORTS, KINDS = 3, ("docs/action/*.md", "docs/action/*.svg", "inference_results/*.png")


def sweep(launcher: Launcher, root: Path, number: int, clock: str) -> list[str]:
    """Troubles of so many runs at once in one root, by a clock that stands still: which lack something of their own."""
    write_configs(root / "configs")
    starts = {
        f"s{n}": launcher.start(root, "run", "--engine", "simulated", "--run", f"s{n}", broken=clock)
        for n in range(number)
    }
    ended = {name: started.wait(300) for name, started in starts.items()}
    troubles = [f"{name}: {end.stderr[-300:]}" for name, end in ended.items() if end.code != ExitCode.PASSED]
    for name in ended if not troubles else ():
        run = Store(root / "state" / name).load()
        assert run is not None
        texts = [Path(report).read_text() for report in run.reports if Path(report).exists()]
        if len(texts) != REPORTS or not all(text.partition("\n")[0].endswith(f": {name}") for text in texts):
            troubles.append(f"{name}: its reports are gone, or another's: {run.reports}")
        picture = Path(run.inference.attempts[-1].png or "")
        if not picture.exists() or not str(Image.open(picture).info.get("Title")).startswith(f"{name}: "):
            troubles.append(f"{name}: its picture is gone, or another's: {picture}")
    return troubles


@pytest.mark.whole
def test_fifty_runs_that_end_in_one_second_keep_their_reports_and_pictures(
    launcher: Launcher, tmp_path: Path, figures: Counter[str]
) -> None:
    figures["runs in one second"] += AT_ONCE
    assert sweep(launcher, tmp_path, AT_ONCE, "clock_stands_still") == []
    assert [len(list(tmp_path.glob(kind))) for kind in KINDS] == [AT_ONCE * REPORTS, AT_ONCE, AT_ONCE]
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_runs_of_one_name_keep_their_reports_and_pictures(launcher: Launcher, tmp_path: Path) -> None:
    write_configs(tmp_path / "configs")
    for other in ("a", "b"):
        folders = ("--state-dir", f"states/{other}", "--run-root", f"results/{other}")
        ended = launcher.start(tmp_path, "run", "--engine", "simulated", *folders, broken="clock_stands_still").wait()
        assert ended.code == ExitCode.PASSED, ended.stderr
    assert [len(list(tmp_path.glob(kind))) for kind in KINDS] == [2 * REPORTS, 2, 2]


def test_an_attempt_that_is_made_again_after_a_kill_has_one_picture_and_leaves_nothing_half_written(
    simulated: Bench, figures: Counter[str]
) -> None:
    shared = [op for op in simulated.log if op.path.startswith(("inference_results/", "docs/action/"))]
    begun = [op.number for op in shared if op.name == "open"]
    done = [op.number for op in shared if op.name == "rename"]
    wanted = [sum(fnmatch(name, kind) for name in simulated.end.files) for kind in KINDS]
    for fault in [*(Fault("after", number) for number in done[:4]), *(Fault("after", number) for number in begun[:4])]:
        figures["kills in what runs share"] += 1
        simulated.disturbed(fault)
        simulated.run(fault=Fault("marked", 1))
        assert simulated.ends_otherwise() == []
        assert [len(list(simulated.root.glob(kind))) for kind in KINDS] == wanted, fault
        assert not list(simulated.root.rglob("*.tmp")), fault


# --- the bench itself -------------------------------------------------------------------------------------------


def test_the_bench_catches_names_by_the_second_alone(launcher: Launcher, tmp_path: Path) -> None:
    assert sweep(launcher, tmp_path, 4, "unmarked_names") != []
