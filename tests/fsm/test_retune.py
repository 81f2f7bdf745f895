"""What a retune trains with."""

from __future__ import annotations

import pytest

from tiw_fsm.config.loop import Retune
from tiw_fsm.fsm import retune


def test_retry_rates_fall_to_their_floor() -> None:
    plan = Retune(init_learning_rate=0.0005, lr_decay=0.7, lr_floor=1e-6)
    rates = [retune.retry_learning_rate(plan, k) for k in range(30)]
    assert rates[:3] == pytest.approx([0.0005, 0.00035, 0.000245])
    assert rates[-1] == 1e-6
