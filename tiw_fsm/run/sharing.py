"""How the updates of a run are shared by another number of processes than its batch sizes are meant for."""

from __future__ import annotations

from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.run.session import Context
from tiw_fsm.tinyworlds import division
from tiw_fsm.values.plain import JsonObject


def counts(run: RunState) -> list[int]:
    """Numbers of processes that can share the updates of every stage that is not done; of all, when all are."""
    open_ = [stage for stage in run.stages.values() if stage.completed < stage.target] or run.stages.values()
    return division.counts(*(division.global_batch(stage.tuning, run.processes) for stage in open_))


def hosts(ctx: Context) -> list[JsonObject]:
    """Where this start computes, for the journal."""
    return [host.model_dump() for host in ctx.hello.hosts]


def say(ctx: Context, run: RunState) -> None:
    """Where another number of processes computes than the batch sizes are meant for, how the global batch is kept."""
    computing = ctx.hello.processes
    for stage, progress in run.stages.items():
        if computing == run.processes or progress.completed >= progress.target:
            continue
        shared = division.share(progress.tuning, run.processes, computing)
        ctx.log.info(
            f"{stage}: {computing} of the {run.processes} processes that the batch size is meant for; the global batch "
            f"of {shared.clips} clips is {shared.passes} × {shared.each} in each"
        )
