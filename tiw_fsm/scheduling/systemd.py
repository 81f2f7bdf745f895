"""Units of a user's systemd."""

from __future__ import annotations

import re
import shlex

from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.scheduling.job import Job


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
# ~/.config/systemd/user/{job.name}.service
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

# ~/.config/systemd/user/{job.name}.timer
[Unit]
Description=Start tiw-fsm run {job.run} after a boot, and look again every quarter of an hour

[Timer]
OnStartupSec=1min
OnUnitInactiveSec=15min

[Install]
WantedBy=timers.target
"""


def _systemd_word(word: str) -> str:
    """``word`` as systemd reads it in a command line."""
    plain = word.replace("%", "%%")
    if plain == shlex.quote(plain):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
