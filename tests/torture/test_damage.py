"""Every file that a state stands on, cut, zeroed, flipped, removed or swapped: never taken for whole.

Either an earlier checkpoint, or the generation before, takes its place and the end is bitwise the right one, or the
start is refused with exit 4 and a sentence that names the file and what to do. Nothing is silent, no budget is spent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from tests.support.amounts import Amount, whole_too
from tests.support.configs import merged
from tests.support.torture.bench import NATIVE, SIMULATED, Bench, Setup, spread
from tests.support.torture.disk import Tree
from tests.support.torture.launch import Fault, Launcher
from tests.support.torture.outcome import differences, outcome
from tiw_fsm.errors import ExitCode, StateDamaged

REGIONS = 8
OTHER_SEED = merged(SIMULATED.changes, {"loop": {"seed": 1}})
NOT_STATE = {"lock", "log.jsonl", "child.log", "child_result.json", "refused.json", "report.html", "report.html.tmp"}
"""Files of the state folder that nothing is decided by."""
Damage = Callable[[bytes, int, int], bytes]
"""What becomes of a file's bytes, given where a region of it begins and ends."""
DAMAGES: dict[str, Damage] = {
    "cut at": lambda content, start, end: content[:start],
    "zeroed in": lambda content, start, end: content[:start] + bytes(end - start) + content[end:],
    "one bit flipped in": lambda content, start, end: flipped(content, (start + end) // 2),
    "one letter changed in": lambda content, start, end: changed(content, start, end),
}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def changed(content: bytes, start: int, end: int) -> bytes:
    """A digit made another one, if there is one: what a careless reader would take for a value."""
    at = next((n for n in range(start, end) if content[n : n + 1].isdigit()), start)
    return content[:at] + (b"7" if content[at : at + 1] != b"7" else b"3") + content[at + 1 :]


def snapshots(bench: Bench, generations: list[int]) -> list[Tree]:
    """What lies in the folder when the run is killed right after these commits."""
    ends = {op.acknowledged: op.number for op in bench.log if op.acknowledged is not None}
    trees = []
    for generation in generations:
        bench.disturbed(Fault("before", ends[generation] + 1))
        trees.append(Tree.read(bench.root))
    return trees


def vouched_for(tree: Tree) -> list[str]:
    """The files below the root on which the state in it stands."""
    state = json.loads(tree.files["state/default/state.json"])
    refs = [stage.get(key) for stage in state["stages"].values() for key in ("checkpoint", "accepted")]
    folders = {Path(ref["path"]).name for ref in refs if ref}
    return [
        name
        for name in tree.files
        if (name.startswith("state/") and Path(name).name not in NOT_STATE)
        or name.endswith("metrics.jsonl")
        or Path(name).parent.name in folders
    ]


def troubles(bench: Bench, whole: Tree, damaged: Tree, name: str) -> list[str]:
    """What is wrong with how a run goes on from ``damaged``, which is ``whole`` but for the file ``name``."""
    damaged.materialize(bench.root)
    ended = bench.run()
    if ended.code == ExitCode.PASSED:
        try:
            reached = without_leftovers(bench.expected, outcome(bench.root))
        except StateDamaged as exc:
            return [f"what it left is damaged, and nothing was said of it: {exc}"]
        found = list(differences(bench.expected, reached))
        if crashes(bench):
            found.append("a budget was spent")
        if not named(name, ended.stderr):
            found.append(f"nothing was said of it: {ended.stderr}")
        return found
    if ended.code != ExitCode.DAMAGED or not named(name, ended.stderr) or not says_what_to_do(ended.stderr):
        return [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-400:]}"]
    after = Tree.read(bench.root)
    lost = [file for file in vouched_for(whole) if after.files.get(file) != damaged.files[file]]
    return [f"{file} was overwritten" for file in lost]


def named(name: str, said: str) -> bool:
    """Whether a file, or the checkpoint folder it lies in, was spoken of. The generation before is not looked at."""
    path = Path(name)
    return path.name in said or path.parent.name in said or path.name == "state.prev.json"


def says_what_to_do(said: str) -> bool:
    """A digit of the schema's number made another one cannot be told from a newer schema."""
    return "--run" in said or "Upgrade tiw_fsm" in said


def crashes(bench: Bench) -> int:
    state = bench.store.load()
    assert state is not None
    return sum(progress.crashes for progress in state.stages.values())


def without_leftovers(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """An outcome without damaged checkpoints that were set aside, or left because another run's name stands in them."""
    files = [name for name in found["files"] if name in expected["files"]]
    return found | {
        "files": files,
        "bytes": {name: found["bytes"][name] for name in expected["bytes"] if name in files},
    }


def damages(tree: Tree, some: int) -> list[tuple[str, str, Tree]]:
    """Trees in which one file is damaged: every way in every region of every file, or some of them."""
    every = [(name, how, n) for name in vouched_for(tree) for how in DAMAGES for n in range(REGIONS)]
    chosen = [every[n - 1] for n in spread(len(every), some)]
    found = []
    for name, how, n in chosen:
        content = tree.files[name]
        start, end = (round((len(content) - 2) * part / REGIONS) for part in (n, n + 1))
        damaged = copy(tree)
        damaged.files = {**tree.files, name: DAMAGES[how](content, start, max(end, start + 1))}
        found.append((f"{name}, {how} bytes {start} to {end}", name, damaged))
    return found


def all_troubles(bench: Bench, generations: list[int], some: int, figures: Counter[str]) -> str:
    found = []
    for generation, tree in zip(generations, snapshots(bench, generations), strict=True):
        for what, name, damaged in damages(tree, some // len(generations)):
            figures["damaged files"] += 1
            found += [f"generation {generation}: {what}: {trouble}" for trouble in troubles(bench, tree, damaged, name)]
    return "\n".join(found)


def test_a_damaged_file_is_never_taken_for_whole(simulated: Bench, amount: Amount, figures: Counter[str]) -> None:
    some = amount(25, 10)
    generations = spread(len(simulated.states) - 2, some // 18)
    assert all_troubles(simulated, generations, some, figures) == ""


@pytest.mark.whole
def test_nor_is_one_of_the_native_engines_run(
    launcher: Launcher, tmp_path: Path, amount: Amount, figures: Counter[str]
) -> None:
    bench = Bench(launcher, tmp_path, NATIVE)
    assert all_troubles(bench, [3, len(bench.states) - 4], amount(4, 0.2), figures) == ""


@pytest.mark.whole
def test_hashes_that_nobody_looks_at_would_be_noticed(simulated: Bench) -> None:
    careless = simulated.in_variant("hashes_ignored")
    assert all_troubles(careless, [5], 30, Counter()) != ""


@pytest.mark.parametrize("generation", [*map(whole_too, (4, 9)), 14])
def test_files_of_another_run_are_not_taken_for_its_own(
    simulated: Bench, launcher: Launcher, tmp_path: Path, figures: Counter[str], generation: int
) -> None:
    """One file at a time comes from the same generation of a run with another seed, whole and with valid hashes."""
    other = Bench(launcher, tmp_path, Setup(SIMULATED.arguments, OTHER_SEED, SIMULATED.script))
    (mine,), (theirs,) = snapshots(simulated, [generation]), snapshots(other, [generation])
    found = []
    for name in vouched_for(mine):
        if theirs.files.get(name, mine.files[name]) != mine.files[name]:
            swapped = copy(mine)
            swapped.files = {**mine.files, name: theirs.files[name]}
            found += [f"{name}: {trouble}" for trouble in troubles(simulated, mine, swapped, name)]
            figures["swapped files"] += 1
    assert "\n".join(found) == ""


def test_a_checkpoint_of_another_update_is_not_taken_for_the_one_the_state_names(
    simulated: Bench, figures: Counter[str]
) -> None:
    """All of its files, manifest included, are those of the update before; only the folder's name is right."""
    (tree,) = snapshots(simulated, [4])
    folders = sorted({str(Path(name).parent) for name in tree.files if name.endswith("manifest.json")})
    assert len(folders) == 2
    earlier, later = sorted(folders, key=lambda name: int(name.rpartition("_")[2]))
    swapped = copy(tree)
    moved = {name: tree.files[name.replace(later, earlier)] for name in tree.files if name.startswith(f"{later}/")}
    swapped.files = {**tree.files, **moved}
    figures["swapped files"] += len(moved)
    assert troubles(simulated, tree, swapped, f"{later}/manifest.json") == []
