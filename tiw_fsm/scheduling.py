"""Snippets that have cron, systemd or Slurm keep a run going, as text: nothing is installed or submitted here.

Each is one call of ``tiw-fsm run`` in its working root, written in the quoting of the program that will read it. What
they say about exit codes is all they know of a run.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.errors import ExitCode, UsageProblem

CRON_LINE = 990
"""Bytes of a command that cron takes: Debian's stops at 1000, and refuses the whole table."""


class Scheduler(StrEnum):
    CRON = "cron"
    SYSTEMD = "systemd"
    SLURM = "slurm"


class Job(NamedTuple):
    """What a snippet starts.

    Attributes:
        program: the words that call this installation's ``tiw-fsm``, the first an absolute path.
        repo_root: absolute.
        run: name of the run: a plain word, as the command line demands.
        state_dir: absolute; the folder that has the run's state folder in it.
    """

    program: Sequence[str]
    repo_root: Path
    run: str
    state_dir: Path

    @property
    def state(self) -> str:
        """The run's state folder; relative to the working root where that is shorter to read."""
        folder = self.state_dir / self.run
        return str(folder.relative_to(self.repo_root) if self._usual_place else folder)

    @property
    def words(self) -> list[str]:
        """The call, to be made in the working root, by which ``--repo-root`` is right as it is."""
        elsewhere = [] if self._usual_place else ["--state-dir", str(self.state_dir)]
        return [*self.program, "run", "--run", self.run, *elsewhere]

    @property
    def _usual_place(self) -> bool:
        return self.state_dir == self.repo_root / "state"


ADVICE = {
    Scheduler.CRON: "Add the line to your crontab: (crontab -l; tiw-fsm schedule cron) | crontab -",
    Scheduler.SYSTEMD: "Two units: save each under the name in its first line, then systemctl --user enable --now "
    "the timer, and loginctl enable-linger.",
    Scheduler.SLURM: "Hand it to sbatch, with what your cluster asks for: tiw-fsm schedule slurm | sbatch --time=240",
}
"""What to do with each snippet, in a sentence."""


def this_program() -> list[str]:
    """The words that call this installation's ``tiw-fsm`` from anywhere."""
    script = Path(sys.argv[0]).absolute()
    return [str(script)] if script.name == "tiw-fsm" else [sys.executable, "-m", "tiw_fsm"]


def snippet(scheduler: Scheduler, job: Job) -> str:
    """The text for ``scheduler``, which ends with a newline.

    Raises:
        UsageProblem: a path cannot be written in a file of that kind.
    """
    for path in (*job.program, str(job.repo_root), str(job.state_dir)):
        if not path.isprintable():
            raise UsageProblem(f"{path!r} has a character that no {scheduler} file can hold; rename it, or link to it")
    return SNIPPETS[scheduler](job)


def cron(job: Job) -> str:
    """One line of a crontab.

    Raises:
        UsageProblem: a path has a backslash, which one cron keeps and another drops, or all is too long for a line.
    """
    root, folder, log = (shlex.quote(path) for path in (str(job.repo_root), job.state, f"{job.state}/cron.log"))
    call = shlex.join([*job.words, "--if-idle"])
    # The shell opens the log before the run can make its folder.
    command = f"cd {root} && mkdir -p {folder} && {call} >> {log} 2>&1"
    if "\\" in command:
        raise UsageProblem("cron reads a backslash in its own way; rename the path that has one, or link to it")
    command = command.replace("%", r"\%")
    if len(command.encode()) > CRON_LINE:
        raise UsageProblem(f"the line would be longer than the {CRON_LINE} bytes cron takes; link to a shorter path")
    return f"* * * * * {command}\n"


def systemd(job: Job) -> str:
    """A service and its timer, as units of a user, one after the other.

    Raises:
        UsageProblem: systemd could not work in this working root, or not start this program.
    """
    words = [*job.words, "--if-idle"]
    # Without the colon systemd would look for variables; with it, it has to be version 244 or newer.
    literal = ":" if any("$" in word for word in words) else ""
    root = str(job.repo_root)
    if root != root.strip() or root.endswith("\\"):
        raise UsageProblem(f"systemd cannot work in {root!r}, by the character at its end; rename it, or link to it")
    if re.search(r"""["'\\]""", job.program[0]):
        raise UsageProblem(f"systemd starts no program with a quote or backslash in its path: {job.program[0]}")
    return f"""\
# ~/.config/systemd/user/{unit(job)}.service
[Unit]
Description=tiw-fsm run {job.run}
# Being interrupted is no failure, however often; the run counts starts without progress itself.
StartLimitIntervalSec=0

[Service]
Type=exec
WorkingDirectory={root.replace("%", "%%")}
ExecStart={literal}{" ".join(_systemd_word(word) for word in words)}
# Again when it was killed, interrupted ({int(ExitCode.INTERRUPTED)}), or refused by the disk ({int(ExitCode.DISK)}).
# After any other exit code it would come out the same.
Restart=on-abnormal
RestartForceExitStatus={int(ExitCode.DISK)} {int(ExitCode.INTERRUPTED)}
SuccessExitStatus={int(ExitCode.INTERRUPTED)}
RestartSec=10
# The run finishes the update in hand, saves, and stops its training process.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec=5min
# The run counts a training process killed for want of memory, and tries a smaller batch.
OOMPolicy=continue

# ~/.config/systemd/user/{unit(job)}.timer
[Unit]
Description=Start tiw-fsm run {job.run} after a boot, and look again every quarter of an hour

[Timer]
OnStartupSec=1min
OnUnitInactiveSec=15min

[Install]
WantedBy=timers.target
"""


def unit(job: Job) -> str:
    """Name of the service and the timer, without the ending."""
    return f"tiw-fsm-{job.run}"


def _systemd_word(word: str) -> str:
    """``word`` as systemd reads it in a command line."""
    plain = word.replace("%", "%%")
    if plain == shlex.quote(plain):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def slurm(job: Job) -> str:
    """A script for sbatch."""
    interrupted = int(ExitCode.INTERRUPTED)
    return f"""\
#!/bin/bash
#SBATCH --job-name=tiw-fsm-{job.run}
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
# What your cluster wants besides goes here or on sbatch's command line: --partition, --time, --gres, --cpus-per-task.

run= told=
forward() {{ # $1: the signal; told: the first there was
    told=${{told:-$1}}
    if [ -n "$run" ]; then kill -s "$1" "$run" 2>/dev/null; fi
}}
forward_late() {{ # Slurm's own TERM reaches the run as well, and a second one would cut its last update short.
    for _ in {{1..30}}; do
        if [ -n "$run" ] && kill -0 "$run" 2>/dev/null; then sleep 0.1; else break; fi
    done
    forward TERM
}}
trap 'forward USR1' USR1 # ahead of the time limit, or of a preemption
trap forward_late TERM

cd {shlex.quote(str(job.repo_root))} || exit
{shlex.join(job.words)} &
run=$!
if [ -n "$told" ]; then forward "$told"; fi
while kill -0 "$run" 2>/dev/null; do wait "$run"; done # a signal ends a wait, not the run
wait "$run"
code=$?

# Told before it listened: nothing was in hand.
if [ -n "$told" ] && [ "$code" -gt 128 ]; then code={interrupted}; fi
# After a TERM, Slurm itself ends the job and knows whether it comes back: a scancel shall be the end of it.
running() {{ scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; }}
if [ "$code" -eq {interrupted} ] && {{ [ "$told" != TERM ] || running; }}; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


SNIPPETS = {Scheduler.CRON: cron, Scheduler.SYSTEMD: systemd, Scheduler.SLURM: slurm}
