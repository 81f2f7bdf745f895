"""What changes after a failure: stage ladders, batch halving, and the retune of dynamics. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiw_fsm.fsm.causes import FAULTS, causes
from tiw_fsm.stages import Stage

if TYPE_CHECKING:
    from tiw_fsm.config.loop import Ladder, LoopConfig, Retune
    from tiw_fsm.fsm.inference_gate import Attempt
    from tiw_fsm.values.frozen import Tuning


def walk_ladder(tuning: Tuning, ladder: Ladder, chunk: int) -> Tuning:
    """One step down a stage's ladder after a rejected chunk of ``chunk`` updates."""
    halved = max(ladder.log_interval_floor, tuning.log_interval // 2)
    return tuning.evolve(
        learning_rate=max(tuning.learning_rate * ladder.learning_rate_factor, ladder.learning_rate_floor),
        gradient_accumulation_steps=max(1, tuning.gradient_accumulation_steps + ladder.accumulation_step),
        log_interval=min(halved, chunk),
    )


def after_out_of_memory(tuning: Tuning, ladder: Ladder, chunk: int) -> Tuning:
    """Half the batch; when it cannot be halved any more, a step down the ladder."""
    if tuning.batch_size_per_gpu > 1:
        return tuning.evolve(batch_size_per_gpu=tuning.batch_size_per_gpu // 2)
    return walk_ladder(tuning, ladder, chunk)


def retry_learning_rate(retune: Retune, number: int) -> float:
    """Peak rate of retune ``number`` (0 is the first): decays by ``lr_decay`` each time, down to the floor."""
    return max(retune.init_learning_rate * retune.lr_decay**number, retune.lr_floor)


def stage_at_fault(loop: LoopConfig, attempt: Attempt) -> Stage:
    """The stage a retune goes back to after a failed attempt: dynamics, unless ``retune_policy`` is `cause`."""
    found = causes(attempt.model_dump()) if loop.retune_policy == "cause" else []
    return FAULTS[found[0]].stage if found else Stage.DYNAMICS
