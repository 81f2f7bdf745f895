"""How the updates of a run are shared by another number of processes than its batch sizes are meant for."""

from __future__ import annotations

from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.run.session import Context
from tiw_fsm.tinyworlds import division


def counts(run: RunState) -> list[int]:
    """Numbers of processes that can share the updates of every stage that is not done; of all, when all are."""
    open_ = [stage for stage in run.stages.values() if stage.completed < stage.target] or run.stages.values()
    return division.counts(*(division.global_batch(stage.tuning, run.processes) for stage in open_))


def say(ctx: Context, run: RunState) -> None:
    """Where another number of processes computes than the batch sizes are meant for, how the global batch is kept."""
    computing = ctx.hello.processes
    for stage, progress in run.stages.items():
        if computing == run.processes or progress.completed >= progress.target:
            continue
        turns = division.passes(progress.tuning, run.processes, 0, computing)
        clips = turns[0].clips.stop - turns[0].clips.start
        ctx.log.info(
            f"{stage}: {computing} of the {run.processes} processes that the batch size is meant for; the global batch "
            f"of {division.global_batch(progress.tuning, run.processes)} clips is {len(turns)} × {clips} in each"
        )
