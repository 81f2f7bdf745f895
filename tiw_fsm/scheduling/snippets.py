"""The schedulers: who writes the snippet of each, what it may be asked for, and what to do with it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from tiw_fsm.errors import UsageProblem
from tiw_fsm.scheduling.cron import cron
from tiw_fsm.scheduling.job import Job
from tiw_fsm.scheduling.kubernetes import kubernetes
from tiw_fsm.scheduling.skypilot import skypilot
from tiw_fsm.scheduling.slurm import slurm
from tiw_fsm.scheduling.systemd import systemd


class Scheduler(StrEnum):
    CRON = "cron"
    SYSTEMD = "systemd"
    SLURM = "slurm"
    KUBERNETES = "kubernetes"
    SKYPILOT = "skypilot"


class Kind(NamedTuple):
    """What is true of a scheduler.

    Attributes:
        write: its snippet, which ends with a newline.
        takes: the fields of ``Machines`` that mean something to it.
        advice: what to do with the snippet.
    """

    write: Callable[[Job], str]
    takes: tuple[str, ...]
    advice: str


KINDS = {
    Scheduler.CRON: Kind(cron, (), "Add the line to your crontab: (crontab -l; tiw-fsm schedule cron) | crontab -"),
    Scheduler.SYSTEMD: Kind(
        systemd,
        (),
        "Two units: save each under the name in its first line, then systemctl --user enable --now "
        "the timer, and loginctl enable-linger.",
    ),
    Scheduler.SLURM: Kind(
        slurm,
        ("nodes", "gpus_per_node"),
        "Hand it to sbatch, with what your cluster asks for: tiw-fsm schedule slurm | sbatch --time=240",
    ),
    Scheduler.KUBERNETES: Kind(
        kubernetes,
        ("nodes", "gpus_per_node", "image", "volume"),
        "Hand it to kubectl, when the claim has the working root: tiw-fsm schedule kubernetes --image IMAGE | "
        "kubectl apply -f -",
    ),
    Scheduler.SKYPILOT: Kind(
        skypilot,
        ("nodes", "gpus_per_node", "accelerator", "volume"),
        "Save it, and in a checkout of tiw_fsm, when the volume has the working root: sky jobs launch FILE",
    ),
}


def snippet(scheduler: Scheduler, job: Job) -> str:
    """The text for ``scheduler``, which ends with a newline.

    Raises:
        UsageProblem: it is asked for what it does not know, or a path cannot be written in a file of that kind.
    """
    kind = KINDS[scheduler]
    asked = {field: value for field, value in job.machines._asdict().items() if value is not None}
    if strange := asked.keys() - kind.takes:
        raise UsageProblem(_unknown(scheduler, field) for field in asked if field in strange)
    for word in (*job.program, str(job.repo_root), str(job.state_dir), *map(str, asked.values())):
        if not word.isprintable():
            raise UsageProblem(f"{word!r} has a character that no {scheduler} file can hold; rename it, or link to it")
    return kind.write(job)


def _unknown(scheduler: Scheduler, field: str) -> str:
    takers = " or ".join(other for other, kind in KINDS.items() if field in kind.takes)
    return f"--{field.replace('_', '-')} means nothing to {scheduler}: leave it out, or ask for {takers}"
