"""A task for SkyPilot's managed jobs, on spot machines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import indent

from tiw_fsm.config.flags import PORT
from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.scheduling.job import VOLUME, Job

ROOT = Path("/tiw-fsm")
"""Where the machines have the working root."""
ENVIRONMENT = "~/tiw-fsm-environment"


def skypilot(job: Job) -> str:
    """A task for ``sky jobs launch``.

    Raises:
        UsageProblem: what kind of GPU is not said, or how many, or the run's name is none for SkyPilot.
    """
    machines = job.machines
    if machines.gpus_per_node and not machines.accelerator:
        raise UsageProblem("skypilot rents by the kind of GPU: name it as `sky show-gpus` does, --accelerator H100")
    if machines.accelerator and not machines.gpus_per_node:
        raise UsageProblem(f"--accelerator {machines.accelerator}: say how many a machine has, --gpus-per-node 1")
    if not re.fullmatch(r"[a-zA-Z0-9]+([._-]{1,2}[a-zA-Z0-9]+)*", job.run):
        raise UsageProblem(f"--run {job.run}: skypilot takes no name with three of . _ - in a row, or one at an end")
    script = job.inside(ROOT, "tiw-fsm")
    # When one machine fails, SkyPilot kills the others and takes the whole job for failed.
    command = script.on_each(
        rank="$SKYPILOT_NODE_RANK",
        endpoint=f'$(echo "$SKYPILOT_NODE_IPS" | head -n1):{PORT}',
        join=f"until {script.join_call}; do sleep 5; done",
    )
    accelerators = f"  accelerators: {json.dumps(f'{machines.accelerator}:{machines.gpus_per_node}')}\n"
    return f"""\
name: {job.name}
num_nodes: {machines.number}
resources:
{accelerators if machines.gpus_per_node else ""}  use_spot: true
  job_recovery:
    # After a preemption SkyPilot recovers the job in any case; this is for a run that was interrupted.
    recover_on_exit_codes: [{int(ExitCode.INTERRUPTED)}]
# The checkout of tiw_fsm that setup installs; what git ignores stays here.
workdir: .
volumes:
  # The working root: a volume that keeps locks and renames atomically; for many machines, one that all may write. No
  # bucket: mounted, it has no locks between machines; cached, a preemption takes what was not yet uploaded.
  {ROOT}: {json.dumps(machines.volume or VOLUME)}
setup: |
  test -d {ENVIRONMENT} || uv venv --python 3.11 {ENVIRONMENT}
  uv pip install --python {ENVIRONMENT} -c constraints.txt .
run: |
  PATH={ENVIRONMENT}/bin:$PATH
  cd {ROOT} || exit
{indent(command, "  ")}
"""
