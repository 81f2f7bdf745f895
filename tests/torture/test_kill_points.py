"""A run killed outright, at whatever operation on its files, ends as one that nobody killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.torture.bench import SIMULATED, Bench, spread
from tests.support.torture.disk import replayed
from tests.support.torture.launch import Fault, Launcher


def points(bench: Bench, some: int) -> list[Fault]:
    """Before and after each operation, and in the middle of each write; or some of all these."""
    writes = {op.number for op in bench.log if op.name == "write"}
    every = [
        Fault(how, number)
        for number in range(1, bench.log[-1].number + 1)
        for how in (("before", "torn", "after") if number in writes else ("before", "after"))
    ]
    return [every[n - 1] for n in spread(len(every), some)]


def troubles(bench: Bench, faults: list[Fault]) -> list[str]:
    return [trouble for fault in faults for trouble in bench.killed(fault)]


def test_the_log_of_a_run_replays_to_exactly_the_files_it_left(simulated: Bench) -> None:
    assert replayed(simulated.beginning, simulated.log).tree().differences(simulated.end) == []


def test_the_log_of_a_native_run_and_its_child_replays_to_exactly_the_files_it_left(native: Bench) -> None:
    assert len({op.process for op in native.log}) == 2
    assert replayed(native.beginning, native.log).tree().differences(native.end) == []


def test_a_run_killed_at_any_operation_ends_the_same(simulated: Bench, figures: Counter[str], amount: Amount) -> None:
    faults = points(simulated, amount(12, 6))
    figures["kill points, simulated engine"] += len(faults)
    assert troubles(simulated, faults) == []


@pytest.mark.whole
def test_a_native_run_killed_at_any_operation_ends_with_the_same_weights(
    native: Bench, figures: Counter[str], amount: Amount
) -> None:
    faults = points(native, amount(1, 0.15))
    figures["kill points, native engine"] += len(faults)
    assert troubles(native, faults) == []


@pytest.mark.whole
def test_a_native_run_whose_controller_alone_is_killed_ends_with_the_same_weights(
    native: Bench, figures: Counter[str]
) -> None:
    """Its child must notice, and end too: the launcher waits for everything that the run started."""
    controller = native.log[0].process
    numbers = [op.number for op in native.log if op.process == controller]
    figures["kill points, native engine"] += 1
    assert native.killed(Fault("before", numbers[len(numbers) // 2], whom="self")) == []


@pytest.mark.whole
def test_a_native_run_whose_child_alone_is_killed_ends_with_the_same_weights(
    native: Bench, figures: Counter[str]
) -> None:
    """The controller counts the crash and goes on by itself."""
    controller = native.log[0].process
    numbers = [op.number for op in native.log if op.process != controller and op.name == "write"]
    figures["kill points, native engine"] += 1
    ended, _ = native.disturbed(Fault("torn", numbers[len(numbers) // 2], whom="self"))
    assert ended.code == 0, ended.stderr
    assert "the training process died" in ended.stderr
    assert native.ends_otherwise() == []


def test_the_bench_catches_a_state_written_in_place(launcher: Launcher, tmp_path: Path) -> None:
    broken = Bench(launcher, tmp_path, SIMULATED, broken="state_in_place")
    writes = [op.number for op in broken.log if op.name == "write" and op.path.endswith("state.json")]
    assert troubles(broken, [Fault("torn", number) for number in writes[:3]]) != []
