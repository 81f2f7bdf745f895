"""A line for a crontab."""

from __future__ import annotations

import shlex

from tiw_fsm.errors import UsageProblem
from tiw_fsm.scheduling.job import Job

CRON_LINE = 990
"""Bytes of a command that cron takes: Debian's stops at 1000, and refuses the whole table."""


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
