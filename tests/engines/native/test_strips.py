"""Which clips an attempt's picture shows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tiw_fsm.engines.native.strips import picked

ERRORS = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=70)


@given(ERRORS)
def test_the_best_the_median_and_the_worst_clip_each_once(means: list[float]) -> None:
    errors = torch.tensor(means)[:, None].repeat(1, 3)
    found = picked(errors)
    assert len(set(found.values())) == len(found) == min(3, len(means))
    assert means[found["best"]] == min(means)
    if "worst" in found:
        assert means[found["worst"]] == max(means)
    if "median" in found:
        assert means[found["median"]] == sorted(means)[(len(means) - 1) // 2]
