"""A run that is killed and moved, root and all, between any two starts ends as one that stayed where it was."""

from __future__ import annotations

import os
import random
from collections import Counter
from copy import copy
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.torture.bench import SIMULATED, Bench
from tests.support.torture.launch import Fault, Launcher

MOVES = 3
"""Of one run."""


def troubles(bench: Bench, chance: random.Random) -> list[str]:
    """How a run ends otherwise than an undisturbed one, if it is killed and moved on its way."""
    moved = copy(bench)
    moved.begin()
    before = moved.root
    try:
        for move in range(MOVES):
            moved.run(fault=Fault("marked", chance.randint(1, 12)))
            now = before.with_name(f"moved {move}")
            os.rename(moved.root, now)
            moved.root = now
        return [*moved.not_whole(), *moved.ends_otherwise(), *moved.not_whole()]
    finally:
        if moved.root != before:
            os.rename(moved.root, before)


def test_wherever_it_is_killed_and_moved_it_ends_the_same(
    simulated: Bench, amount: Amount, figures: Counter[str]
) -> None:
    chance = random.Random(0)
    for _ in range(amount(4, 0.5)):
        assert troubles(simulated, chance) == []
        figures["runs killed and moved three times"] += 1


@pytest.mark.whole
def test_a_native_run_is_moved_bitwise(native: Bench, amount: Amount, figures: Counter[str]) -> None:
    chance = random.Random(1)
    for _ in range(amount(1, 0.1)):
        assert troubles(native, chance) == []
        figures["runs killed and moved three times"] += 1


def test_a_run_that_knows_its_files_by_where_they_were_would_be_noticed(launcher: Launcher, tmp_path: Path) -> None:
    chance, careless = random.Random(0), Bench(launcher, tmp_path, SIMULATED)
    careless.broken = "paths_absolute"
    assert any(troubles(careless, chance) for _ in range(3))
