"""A run that was not computed as it says is found out by computing it once more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import whole_too
from tests.support.native_runs import PASSING, make_root
from tests.support.processes import Tiw
from tests.support.run_folder import RunFolder
from tests.support.torture.launch import Fault, Launcher
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage

DEATHS = Fault("marked", 5), Fault("marked", 3)
"""After the tokenizer's last checkpoint but one, and, in the start that follows, after the gate behind the last one."""


@pytest.mark.parametrize(
    ("broken", "code"),
    [(None, ExitCode.PASSED), whole_too("optimizer_forgotten", ExitCode.DAMAGED)],
    ids=["whole", "broken"],
)
def test_what_was_made_after_a_kill_is_made_once_more_unless_the_resume_forgot_the_optimizer(
    launcher: Launcher, tmp_path: Path, tiw: Tiw, figures: Counter[str], broken: str | None, code: ExitCode
) -> None:
    root = make_root(tmp_path / "root")
    for death in DEATHS:
        assert launcher.start(root, "run", *PASSING, fault=death, broken=broken).wait().signal is not None
    assert RunFolder(root).state.stages[Stage.VIDEO].completed == 20
    assert tiw(root, "verify").returncode == ExitCode.PASSED
    done = tiw(root, "verify", "--replay", "--stage", "video_tokenizer")
    assert (done.returncode, "NOT equal" in done.stdout) == (code, broken is not None), done.stdout + done.stderr
    figures["kills, and what came after made once more"] += 1
