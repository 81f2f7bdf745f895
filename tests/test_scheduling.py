"""Snippets for cron, systemd and Slurm: what a shell and stand-ins make of them, hard paths included.

The real programs have their turn in ``tests/schedulers``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.scheduling import Job, Scheduler, snippet

NASTY = "a b%c$HOME \"d\" 'e' #f;g&h"
PLAIN = Job(["/my/root/.venv/bin/tiw-fsm"], Path("/my/root"), "default", Path("/my/root/state"))


def nasty_job(folder: Path, program: str, *, state: str = "state") -> Job:
    """A run in a folder with a hard name, by a program in it that is the shell script ``program``."""
    root = folder / NASTY
    root.mkdir(exist_ok=True)
    script = root / "tiw-fsm"
    script.write_text(f"#!/bin/bash\n{program}\n")
    script.chmod(0o755)
    return Job([str(script)], root, "one", root / state)


@pytest.mark.parametrize("scheduler", Scheduler)
def test_standard_output_is_the_snippet_alone(tmp_path: Path, tiw: Tiw, scheduler: Scheduler) -> None:
    done = tiw(tmp_path, "schedule", scheduler, "--run", "mine")
    job = Job([sys.executable, "-m", "tiw_fsm"], tmp_path, "mine", tmp_path / "state")
    assert (done.returncode, done.stdout) == (ExitCode.PASSED, snippet(scheduler, job))
    assert len(done.stderr.splitlines()) == 2  # what to do with it, and that this run has not begun
    (tmp_path / "state/mine").mkdir(parents=True)  # as a start that was refused leaves it
    assert tiw(tmp_path, "schedule", scheduler, "--run", "mine").stderr == done.stderr


def test_a_run_name_that_is_none_is_refused(tmp_path: Path, tiw: Tiw) -> None:
    assert tiw(tmp_path, "schedule", "cron", "--run", "a b").returncode == ExitCode.USAGE


def test_a_plain_cron_line_is_plain() -> None:
    assert snippet(Scheduler.CRON, PLAIN) == (
        "* * * * * cd /my/root && mkdir -p state/default && /my/root/.venv/bin/tiw-fsm run --run default --if-idle"
        " >> state/default/cron.log 2>&1\n"
    )


@pytest.mark.parametrize("scheduler", Scheduler)
def test_a_line_break_in_a_path_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(UsageProblem, match="rename it"):
        snippet(scheduler, PLAIN._replace(repo_root=Path("/my\nroot")))


def test_what_cron_would_misread_is_refused() -> None:
    for root, reason in (("/my\\%root", "backslash"), ("/" + "x" * 990, "990 bytes")):
        with pytest.raises(UsageProblem, match=reason):
            snippet(Scheduler.CRON, PLAIN._replace(repo_root=Path(root)))


def test_what_systemd_would_misread_is_refused() -> None:
    with pytest.raises(UsageProblem, match="at its end"):
        snippet(Scheduler.SYSTEMD, PLAIN._replace(repo_root=Path("/my/root ")))
    with pytest.raises(UsageProblem, match="starts no program"):
        snippet(Scheduler.SYSTEMD, PLAIN._replace(program=["/it's/tiw-fsm"]))


def cron_command(job: Job) -> str:
    """What cron would hand to the shell."""
    line = snippet(Scheduler.CRON, job)
    assert line.count("\n") == 1
    assert "%" not in line.replace(r"\%", "")
    return line.removeprefix("* * * * * ").replace(r"\%", "%")


@pytest.mark.parametrize("state", ["state", "else where%"])
def test_crons_words_reach_the_program_unaltered(tmp_path: Path, state: str) -> None:
    job = nasty_job(tmp_path, 'pwd; printf "%s\\n" "$@"', state=state)
    for _ in range(2):  # before there is a state folder, and after
        subprocess.run(["sh", "-c", cron_command(job)], check=True, cwd="/")
    said = (job.state_dir / "one" / "cron.log").read_text().splitlines()
    elsewhere = [] if state == "state" else ["--state-dir", str(job.state_dir)]
    assert said == [str(job.repo_root), "run", "--run", "one", *elsewhere, "--if-idle"] * 2


def test_crons_line_starts_a_run_that_goes_on_to_its_end(tmp_path: Path) -> None:
    job = Job([sys.executable, "-m", "tiw_fsm"], tmp_path / NASTY, "one", tmp_path / NASTY / "state")
    write_configs(job.repo_root / "configs")
    command = cron_command(job).replace(" --if-idle", " --if-idle --engine simulated")
    assert subprocess.run(["sh", "-c", command], check=False).returncode == ExitCode.PASSED
    assert "PASSED: the inference gate passed" in (job.state_dir / "one" / "cron.log").read_text()


# --- Slurm's script, with a stand-in for scontrol ---------------------------------------------------------------------


class Batch:
    """The script as Slurm would run it; ``program`` is what it takes for tiw-fsm."""

    def __init__(self, folder: Path, program: str, *, job_state: str = "RUNNING") -> None:
        tools = folder / "tools"
        tools.mkdir()
        self.requeues = folder / "requeues"
        self.requeues.touch()
        stand_in = tools / "scontrol"
        stand_in.write_text(
            f'#!/bin/sh\nif [ "$1" = show ]; then echo "   JobState={job_state} Reason=None"; '
            f"else echo \"$@\" >> '{self.requeues}'; fi\n"
        )
        stand_in.chmod(0o755)
        job = nasty_job(folder, program)
        self.listening = job.repo_root / "listening"
        self.process = subprocess.Popen(
            ["bash", "-c", snippet(Scheduler.SLURM, job)],
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def send(self, number: signal.Signals, *, to_all: bool = False) -> None:
        """To the script alone, or to the program as well, as Slurm sends its TERM; once the program listens."""
        deadline = time.monotonic() + 10
        while not self.listening.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (os.killpg if to_all else os.kill)(self.process.pid, number)

    def ended(self) -> tuple[int, str, str]:
        """Exit code, what the program said, and what scontrol was asked."""
        said, _ = self.process.communicate(timeout=20)
        return self.process.returncode, said, self.requeues.read_text()


def listener(code: int) -> str:
    """A program that ends with ``code`` when it gets a signal, and says which."""
    caught = " ".join(f"trap 'echo {name}; sleep 0.2; exit {code}' {name};" for name in ("USR1", "TERM"))
    return f"{caught} touch listening; while :; do sleep 0.05; done"


def test_slurms_script_is_bash_and_its_words_reach_the_program_unaltered(tmp_path: Path) -> None:
    job = nasty_job(tmp_path, "")
    subprocess.run(["bash", "-n"], input=snippet(Scheduler.SLURM, job), text=True, check=True)
    batch = Batch(tmp_path, 'pwd; printf "%s\\n" "$@"')
    assert batch.ended() == (0, f"{job.repo_root}\nrun\n--run\none\n", "")


@pytest.mark.parametrize("code", [code for code in ExitCode if code != ExitCode.INTERRUPTED])
def test_slurms_script_passes_on_an_exit_code_without_requeueing(tmp_path: Path, code: ExitCode) -> None:
    assert Batch(tmp_path, f"exit {code.value}").ended() == (code, "", "")


def test_slurms_script_requeues_a_run_that_was_interrupted(tmp_path: Path) -> None:
    assert Batch(tmp_path, "exit 75").ended() == (75, "", "requeue 42\n")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurms_notice_reaches_the_run_once_and_the_job_is_requeued(tmp_path: Path, number: signal.Signals) -> None:
    batch = Batch(tmp_path, listener(75))
    batch.send(number)
    assert batch.ended() == (75, number.name.removeprefix("SIG") + "\n", "requeue 42\n")


def test_a_run_that_ends_while_it_is_given_notice_is_not_requeued(tmp_path: Path) -> None:
    batch = Batch(tmp_path, listener(0))
    batch.send(signal.SIGUSR1)
    assert batch.ended() == (0, "USR1\n", "")


def test_a_run_told_before_it_listens_is_requeued(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "touch listening; exec sleep 20")
    batch.send(signal.SIGUSR1)
    assert batch.ended() == (75, "", "requeue 42\n")


def test_a_cancelled_job_is_told_once_and_not_requeued(tmp_path: Path) -> None:
    batch = Batch(tmp_path, listener(75), job_state="COMPLETING")
    batch.send(signal.SIGTERM, to_all=True)
    assert batch.ended() == (75, "TERM\n", "")


# --- systemd's own judgement ------------------------------------------------------------------------------------------


def systemd_units(folder: Path, text: str) -> list[Path]:
    """The units of a snippet, each in the file that its first line names."""
    units: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# ~/.config/systemd/user/"):
            name = line.rpartition("/")[2]
            units[name] = ""
        units[name] += line + "\n"
    for name, content in units.items():
        (folder / name).write_text(content)
    return [folder / name for name in units]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
@pytest.mark.parametrize("name", ["plain", "a b%c$HOME #f;g&h"])
def test_systemd_verifies_service_and_timer(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    program = root / "tiw-fsm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    job = Job([str(program)], root, "one", root / NASTY)
    units = systemd_units(tmp_path, snippet(Scheduler.SYSTEMD, job))
    assert [unit.name for unit in units] == ["tiw-fsm-one.service", "tiw-fsm-one.timer"]
    verify = ["systemd-analyze", "verify", "--user", "--man=no", *units]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze cannot verify here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    units[0].write_text(units[0].read_text().replace(str(program)[:10], "/nowhere"))  # it would notice
    assert subprocess.run(verify, env=environment, capture_output=True, check=False).returncode != 0


def test_systemd_restarts_what_goes_on_and_nothing_that_would_come_out_the_same() -> None:
    lines = snippet(Scheduler.SYSTEMD, PLAIN).splitlines()
    assert {"Restart=on-abnormal", "RestartForceExitStatus=74 75", "KillSignal=SIGTERM"} <= set(lines)
    assert "ExecStart=/my/root/.venv/bin/tiw-fsm run --run default --if-idle" in lines
