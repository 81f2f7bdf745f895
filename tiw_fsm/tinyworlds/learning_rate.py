"""The learning-rate schedule: a pure function of the update, so that resuming needs no memory of it."""

from __future__ import annotations

import math

from tiw_fsm.values.frozen import LearningRateSchedule

WARMUP_FRACTION = 0.05
"""Share of the span over which the rate rises (TinyWorlds, ``create_cosine_scheduler``)."""
FLOOR_FRACTION = 0.01
"""Share of the peak that the cosine ends at (the same)."""


def learning_rate(peak: float, schedule: LearningRateSchedule, update: int) -> float:
    """Rate of the zero-based ``update``: linear warm-up over 5 % of the span, then a cosine down to 1 % of ``peak``."""
    span = max(1, schedule.end - schedule.start)
    warmup = int(span * WARMUP_FRACTION)
    done = update - schedule.start
    if done < warmup:
        return peak * (done + 1) / warmup
    progress = min(1.0, (done - warmup) / max(1, span - warmup))
    return peak * (FLOOR_FRACTION + (1 - FLOOR_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress)))
