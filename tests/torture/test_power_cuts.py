"""Power may go at any operation, with a disk that keeps nothing it was not told to: every commit that returned is
there, and the run ends as an undisturbed one."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.torture.bench import SIMULATED, Bench, acknowledged, spread
from tests.support.torture.disk import Disk, Operation, Tree, images, replayed
from tests.support.torture.launch import Fault, Launcher

IMAGES = 3
"""Of each cut tried at random in the long form, beside what is certainly there and what was asked for."""


def troubles(bench: Bench, cuts: list[int], figures: Counter[str], *, everything: bool = False) -> list[str]:
    """Of cuts in a run: of all images of each that differ from those of the cuts before, or of one."""
    found = []
    tried = set()
    for n, cut in enumerate(cuts):
        possible = list(images(bench.beginning, bench.log, cut, some=IMAGES, seed=0))
        for image in possible if everything else [possible[0 if n % 2 else -1]]:
            known = image.digest(), acknowledged(bench.log[:cut])
            if known not in tried:
                tried.add(known)
                image.materialize(bench.root)
                last = bench.log[cut - 1]
                where = f"power cut after operation {last.number} ({last.name} {last.path})"
                found += [f"{where}: {trouble}" for trouble in bench.troubles_after(bench.log[:cut])]
    figures["power cuts"] += len(tried)
    return found


def test_the_disk_keeps_bytes_only_of_synced_files_and_names_only_of_synced_folders() -> None:
    disk = Disk(Tree())

    def do(name: str, path: str, other: str = "", data: bytes = b"") -> tuple[dict[str, bytes], set[str]]:
        disk.apply(Operation(0, 0, name, path, other, 0, 0, data))
        kept = disk.durable()
        return kept.files, kept.folders

    do("mkdir", "a")
    do("open", "a/b")
    assert do("fsync", "a") == ({}, set())  # the folder itself has no durable name yet
    assert do("fsync", ".") == ({"a/b": b""}, {"a"})
    assert do("write", "a/b", data=b"xy") == ({"a/b": b""}, {"a"})
    assert do("fsync", "a/b") == ({"a/b": b"xy"}, {"a"})
    assert do("rename", "a/b", "a/c") == ({"a/b": b"xy"}, {"a"})
    assert do("fsync", "a") == ({"a/c": b"xy"}, {"a"})
    do("write", "a/c", data=b"zz")
    do("unlink", "a/c")
    chance = random.Random(0)
    seen = {disk.perhaps(chance).files.get("a/c") for _ in range(200)}
    assert seen == {None, b"xy", b"zy", b"zz"}


def test_no_power_cut_takes_a_commit_back_or_changes_how_the_run_ends(
    simulated: Bench, figures: Counter[str], amount: Amount, whole_bench: bool
) -> None:
    cuts = spread(len(simulated.log), amount(10, 3))
    assert troubles(simulated, cuts, figures, everything=whole_bench) == []


@pytest.mark.whole
def test_nor_does_one_in_a_native_run(native: Bench, figures: Counter[str], amount: Amount) -> None:
    cuts = spread(len(native.log), amount(2, 0.15))
    assert troubles(native, cuts, figures) == []


def test_nor_does_one_after_a_kill_whose_half_made_files_the_next_run_found(
    simulated: Bench, figures: Counter[str], whole_bench: bool
) -> None:
    """What a killed run made and did not sync, the next one must not take for being on the disk."""
    lasting = simulated.end.folders | simulated.end.files.keys()
    made = {op.path: op.number for op in reversed(simulated.log) if op.name in ("mkdir", "open") and op.path in lasting}
    found = []
    for path, number in sorted(made.items())[:: 1 if whole_bench else 3]:
        _, killed = simulated.disturbed(Fault("after", number))
        log = [*killed, *simulated.logged()[1]]
        replayed(simulated.beginning, log).durable().materialize(simulated.root)
        figures["power cuts"] += 1
        troubles_now = simulated.lost(acknowledged(log)) or simulated.ends_otherwise()
        found += [f"killed once {path} was made (operation {number}): {trouble}" for trouble in troubles_now]
    assert found == []


def test_the_bench_catches_a_store_that_syncs_nothing(launcher: Launcher, tmp_path: Path) -> None:
    broken = Bench(launcher, tmp_path, SIMULATED, broken="no_fsync")
    assert troubles(broken, spread(len(broken.log), 3), Counter()) != []
