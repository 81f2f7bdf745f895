"""What a person is told of the pace while a run trains."""

from __future__ import annotations

import os
import time

import pytest
from rich.console import Console

from tiw_fsm.run.display import Display
from tiw_fsm.stages import Stage


def told(monkeypatch: pytest.MonkeyPatch, *, seconds: float, target: int) -> str:
    """What stands on the terminal when an update has taken so many seconds, twice."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    console = Console(record=True, width=200, force_terminal=True, file=nowhere, get_time=lambda: now)
    with Display(console) as display, display.training(Stage.VIDEO, 0, target) as advance:
        for done in (1, 2):
            now += seconds
            advance(done, target, 0.5)
    return console.export_text()


def test_after_the_first_slow_update_it_is_told_what_all_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(monkeypatch, seconds=62, target=50_001)
    assert text.count("an update takes 62.0 s here, and all that are to go 35 d 21 h") == 1
    assert "configs/demo is a profile for two CPU cores" in text
    assert "2/50001 loss 0.5000 62.0 s each ETA 35 d 21 h" in text


def test_where_it_is_fast_enough_only_the_bar_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(monkeypatch, seconds=0.05, target=600)
    assert "an update takes" not in text
    assert "2/600 loss 0.5000 20.0/s ETA 30 s" in text
