"""A disk that refuses - full, over quota, failing, read-only - costs nothing but the time until it is mended."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.torture.bench import SIMULATED, Bench, spread
from tests.support.torture.launch import Fault, Launcher

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
HOWS = ("fail", "fail-from", "short")


def faults(bench: Bench, some: int) -> list[Fault]:
    """Every operation refused once, from there on, or in its middle, by one error after the other; or some of these."""
    every = [(number, how) for number in range(1, bench.log[-1].number + 1) for how in HOWS]
    chosen = [every[n - 1] for n in spread(len(every), some)]
    return [Fault(how, number, ERRORS[n % len(ERRORS)]) for n, (number, how) in enumerate(chosen)]


def troubles(bench: Bench, tried: list[Fault]) -> list[str]:
    return [trouble for fault in tried for trouble in bench.refused(fault)]


def test_a_run_whose_disk_refuses_says_so_and_ends_the_same_once_it_is_mended(
    simulated: Bench, figures: Counter[str], amount: Amount
) -> None:
    tried = faults(simulated, amount(10, 5))
    figures["I/O errors, simulated engine"] += len(tried)
    assert troubles(simulated, tried) == []


@pytest.mark.whole
def test_a_native_run_whose_disk_refuses_says_so_and_ends_the_same_once_it_is_mended(
    native: Bench, figures: Counter[str], amount: Amount
) -> None:
    tried = faults(native, amount(2, 0.15))
    figures["I/O errors, native engine"] += len(tried)
    assert troubles(native, tried) == []


def test_the_bench_catches_errors_of_fsync_that_are_ignored(
    simulated: Bench, launcher: Launcher, tmp_path: Path
) -> None:
    broken = Bench(launcher, tmp_path, SIMULATED, broken="fsync_errors_ignored")
    weights = [op.number for op in broken.log if op.name == "fsync" and op.path.endswith("_19/model_state_dict.pt")]
    refused = [Fault("fail", weights[0], errno.EIO)]
    assert troubles(broken, refused) != []
    assert troubles(simulated, refused) == []
