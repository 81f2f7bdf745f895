"""``schedule``: what starts a run again wherever it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiw_fsm.cli.options import RepoRoot, Run, StateDir, folder_of, option, option_from
from tiw_fsm.cli.terminal import err, standard_output
from tiw_fsm.reporting.wording import not_begun
from tiw_fsm.scheduling.snippets import Scheduler
from tiw_fsm.storage.paths import StatePaths


def schedule(
    scheduler: Annotated[
        Scheduler, typer.Argument(help="cron, systemd, slurm, kubernetes or skypilot.", show_default=False)
    ],
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    nodes: Annotated[
        int | None, option_from(1, "Machines to train on: slurm, kubernetes, skypilot [default: 1].")
    ] = None,
    gpus_per_node: Annotated[
        int | None, option_from(1, "GPUs of each, with a process for each [default: none, and one process].")
    ] = None,
    accelerator: Annotated[str | None, option("Kind of GPU, by skypilot's name for it: H100.")] = None,
    image: Annotated[str | None, option("Image that has tiw-fsm on its PATH: kubernetes.")] = None,
    volume: Annotated[
        str | None, option("kubernetes' claim, or skypilot's volume, with the working root [default: tiw-fsm].")
    ] = None,
) -> None:
    """Print what cron, systemd, Slurm, Kubernetes or SkyPilot needs to keep this run going, wherever it is stopped."""
    from tiw_fsm.scheduling.job import Job, Machines, this_program
    from tiw_fsm.scheduling.snippets import KINDS, snippet

    folder = folder_of(run, repo_root, state_dir)
    machines = Machines(nodes, gpus_per_node, accelerator, image, volume)
    job = Job(this_program(), repo_root.resolve(), run, folder.parent, machines)
    with standard_output() as file:
        print(snippet(scheduler, job), end="", file=file)
    err.print(KINDS[scheduler].advice, soft_wrap=True)
    if not StatePaths(folder).state.exists():
        err.print(f"{not_begun(run)} Start it once with the flags it shall have.", soft_wrap=True)
