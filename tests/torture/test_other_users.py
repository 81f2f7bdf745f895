"""Files that another user owns, or that their mode closes: said to be so, with whose they are and what to do, and with
an exit code that no scheduler tries again."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configs import write_configs
from tests.support.torture.launch import Ended, Fault, Launcher, Refusal
from tiw_fsm.errors import ExitCode

NOBODY = 65534
RUN = ("run", "--engine", "simulated")
NATIVE = ("check", "--engine", "native", "--run", "another")
READERS = [("status",), ("history",), ("verify",), ("report",), ("check", "--engine", "simulated"), ("graph",)]
STATE = "state/default/state.json"
CHECKPOINT = "results/default/video_tokenizer/checkpoints/video_tokenizer_step_9/model_state_dict.pt"
CLOSED = {
    "the state": (STATE, 0o600, [RUN, *READERS]),
    "the state before": ("state/default/state.prev.json", 0o600, [RUN, ("verify",)]),
    "the journal": ("state/default/journal.jsonl", 0o600, [RUN, ("history",), ("verify",), ("report",), ("graph",)]),
    "the lock": ("state/default/lock", 0o600, [RUN, ("status",), ("report",)]),
    "the log": ("state/default/log.jsonl", 0o644, [RUN]),
    "the configuration": ("state/default/config.json", 0o600, [RUN, ("verify",)]),
    "the run's folder": ("state/default", 0o700, [RUN, *READERS]),
    "a folder that may be listed only": ("state/default", 0o744, [RUN, *READERS]),
    "all runs' folder": ("state", 0o700, [RUN, *READERS]),
    "the root": (".", 0o700, [RUN, *READERS]),
    "the metrics": ("results/default/video_tokenizer/metrics.jsonl", 0o600, [RUN, ("verify",)]),
    "a checkpoint's file": (CHECKPOINT, 0o600, [RUN, ("verify",), ("check", "--engine", "simulated")]),
    "a checkpoint": (str(Path(CHECKPOINT).parent), 0o700, [RUN, ("verify",), ("check", "--engine", "simulated")]),
    "a config": ("configs/loop.yaml", 0o600, [RUN, NATIVE]),
    "the configs": ("configs", 0o700, [RUN, NATIVE]),
    "the results": ("results", 0o700, [RUN, ("verify",), ("check", "--engine", "simulated")]),
    "a results folder that may be read": ("results/default/video_tokenizer/checkpoints", 0o755, [RUN]),
}
"""A path of the run, the mode that its owner gives it, and the commands that need it."""


@pytest.fixture
def theirs(launcher: Launcher) -> Iterator[Path]:
    """A run in the middle of its first stage, made by root, in a place that anybody can reach."""
    if os.geteuid():
        pytest.skip("only root can act as another user")
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    write_configs(root / "configs")
    launcher.start(root, *RUN, fault=Fault("marked", 3)).wait()
    yield root
    shutil.rmtree(root)


def given_to(user: int, root: Path, but: Path) -> None:
    """Give all of it to a user, except one thing and what is in it."""
    for path in [root, *root.rglob("*")]:
        if path != but and but not in path.parents:
            os.chown(path, user, -1)


def troubles(ended: Ended, path: Path, *said: str) -> list[str]:
    """Why it did not end as it must that meets a closed file."""
    missing = [part for part in (str(path.resolve()), *said) if part not in ended.stderr]
    if ended.code == ExitCode.USAGE and not missing and "Traceback" not in ended.stderr:
        return []
    return [f"ended with {ended.code or ended.signal}, not saying {missing}, but {ended.stderr[-600:]!r}"]


@pytest.mark.parametrize("what", CLOSED)
def test_a_file_of_another_user_exits_2_and_says_whose_it_is_and_what_to_do(
    launcher: Launcher, theirs: Path, what: str
) -> None:
    name, mode, commands = CLOSED[what]
    path = theirs / name
    path.chmod(mode)
    given_to(NOBODY, theirs, path)
    said = (f"belongs to root (mode {mode:04o})", "run by nobody", "sudo chown -R nobody ")
    found = {
        " ".join(command): wrong
        for command in commands
        if (wrong := troubles(launcher.start(theirs, *command, user=NOBODY).wait(), path, *said))
    }
    assert found == {}
    os.chown(path, NOBODY, -1)
    for inside in path.rglob("*"):
        os.chown(inside, NOBODY, -1)
    path.chmod(0o755 if path.is_dir() else 0o644)
    ended = launcher.start(theirs, *RUN, user=NOBODY).wait()
    assert ended.code == ExitCode.PASSED, ended.stderr


def test_ones_own_file_that_its_mode_closes_exits_2_and_says_how_to_open_it(launcher: Launcher, theirs: Path) -> None:
    given_to(NOBODY, theirs, theirs / "nothing")
    (theirs / STATE).chmod(0)
    for command in (RUN, *READERS):
        said = ("belongs to nobody", "mode 0000 it is closed", f"chmod -R u+rwX {theirs / STATE}")
        assert troubles(launcher.start(theirs, *command, user=NOBODY).wait(), theirs / STATE, *said) == []


def test_a_start_that_may_not_write_results_costs_none_of_the_starts(launcher: Launcher, theirs: Path) -> None:
    path = theirs / "results/default/video_tokenizer/checkpoints"
    given_to(NOBODY, theirs, path)
    for _ in range(3):
        assert troubles(launcher.start(theirs, *RUN, user=NOBODY).wait(), path) == []
    told = launcher.start(theirs, "status", "--json", user=NOBODY).wait().stdout
    assert '"max_stalled_starts": 0' in told.partition('"used"')[2], told


LACKING = {"ENOLCK": errno.ENOLCK, "EOPNOTSUPP": errno.EOPNOTSUPP, "ENOSYS": errno.ENOSYS}


@pytest.mark.parametrize("how", LACKING)
def test_a_file_system_without_locks_exits_2_and_says_to_keep_the_state_elsewhere(
    launcher: Launcher, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "root"
    write_configs(root / "configs")
    (lasts := tmp_path / "lasts").touch()
    refusal = Refusal("flock", LACKING[how], "/state/", lasts)
    for command in (RUN, RUN, ("status",)):
        ended = launcher.start(root, *command, refusal=refusal).wait()
        assert ended.code == ExitCode.USAGE, ended.stderr
        assert "keeps no locks" in ended.stderr
        assert "--state-dir FOLDER" in ended.stderr
        assert "mend the disk" not in ended.stderr
    elsewhere = launcher.start(root, *RUN, "--state-dir", str(root / "elsewhere"), refusal=refusal).wait()
    assert elsewhere.code == ExitCode.PASSED, elsewhere.stderr
