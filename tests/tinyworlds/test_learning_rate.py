"""The learning-rate schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiw_fsm.tinyworlds.learning_rate import learning_rate
from tiw_fsm.values.frozen import LearningRateSchedule


@given(st.integers(0, 1000), st.integers(1, 5000), st.floats(1e-6, 1.0))
def test_the_schedule_warms_up_and_falls_to_a_hundredth_of_its_peak(start: int, span: int, peak: float) -> None:
    schedule = LearningRateSchedule(start=start, end=start + span)
    rates = [learning_rate(peak, schedule, update) for update in range(start, start + span)]
    top = rates.index(max(rates))
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert learning_rate(peak, schedule, start + span) == pytest.approx(peak / 100)
