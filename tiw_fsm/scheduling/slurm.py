"""A script for Slurm's sbatch."""

from __future__ import annotations

import shlex

from tiw_fsm.errors import ExitCode
from tiw_fsm.scheduling.job import Job


def slurm(job: Job) -> str:
    """A script for sbatch, which runs it on the first of the nodes."""
    interrupted = int(ExitCode.INTERRUPTED)
    machines = job.machines
    asked = {"nodes": machines.number, "ntasks-per-node": 1, "gpus-per-node": machines.gpus_per_node}
    asks = "".join(f"#SBATCH --{name}={number}\n" for name, number in asked.items() if machines.processes and number)
    address, joiners, end = joining(job) if machines.many else ("", "", "")
    return f"""\
#!/bin/bash
#SBATCH --job-name={job.name}
{asks}#SBATCH --requeue
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
{address}{job.run_call} &
run=$!
if [ -n "$told" ]; then forward "$told"; fi
{joiners}while kill -0 "$run" 2>/dev/null; do wait "$run"; done # a signal ends a wait, not the run
wait "$run"
code=$?
{end}
# Told before it listened: nothing was in hand.
if [ -n "$told" ] && [ "$code" -gt 128 ]; then code={interrupted}; fi
# After a TERM, Slurm itself ends the job and knows whether it comes back: a scancel shall be the end of it.
running() {{ scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; }}
if [ "$code" -eq {interrupted} ] && {{ [ "$told" != TERM ] || running; }}; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def joining(job: Job) -> tuple[str, str, str]:
    """With many nodes: the address of the first, how the others join it, and what becomes of them at the end."""
    others = job.machines.number - 1
    return (
        "endpoint=$(hostname):$((10000 + SLURM_JOB_ID % 20000)) # no other job's\n",
        f"""\
# A joiner that died joins again, one that was told does not: Slurm tells its shell and itself.
srun --nodes={others} --ntasks={others} --relative=1 --kill-on-bad-exit=0 --cpu-bind=none \\
    bash -c 'trap told=1 TERM USR1; while [ -z "$told" ] && ! "$@"; do sleep 5; done' joiner \\
    {job.join_call} &
joiners=$!
""",
        """
# The joiners have heard of it, or are ended.
for _ in {1..10}; do
    if kill -0 "$joiners" 2>/dev/null; then sleep 1; else break; fi
done
kill "$joiners" 2>/dev/null
""",
    )
