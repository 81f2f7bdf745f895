"""A TinyWorlds checkout and tiw-fsm at the same work, in turns: ``python benchmarks/reference.py --checkout PATH``.

Theirs, ours, theirs, ours, and so on, each with the threads that it takes by itself, on the CPU, in float32, on a copy
of the checkout (the fork whose stages all count updates from the first chunk on). What is compared is the ratio of
medians. Takes some seven minutes for each turn of everything on two processors, if they have nothing else to do: beside
other busy processes the figures mean nothing, so the load is printed with them. ``--only`` names parts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

from reference_sides import Processes, Scale, Sides, saved
from rich.console import Console
from workbench import REPO, Figure, table_of

from tiw_fsm.engines.checkout import dialect
from tiw_fsm.engines.checkout.probe import probe
from tiw_fsm.engines.native.ranks import Ranks
from tiw_fsm.engines.native.worker import Worker
from tiw_fsm.engines.protocol import HelloRequest
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths

CHUNK = 50
SMALL = Scale(frame_size=64, patch_size=8, batch_size=8, rows=10_240, updates=60, warm=20)
LARGE = Scale(frame_size=128, patch_size=4, batch_size=2, rows=3_000, updates=4, warm=1)
Seconds = dict[str, float]
"""What one turn of one side took, by comparison."""


@dataclass
class Part:
    """Comparisons that are made together: how each side does one turn of the work, given a name of its own for it."""

    scale: Scale
    goals: dict[str, float]
    """The least ratio, by comparison."""
    theirs: Callable[[Sides, str], Seconds]
    ours: Callable[[Sides, str], Seconds]
    said: Callable[[float], str]
    """How seconds are told."""
    note: str


@dataclass
class Comparison:
    """Theirs over ours, both in seconds, turn by turn."""

    name: str
    part: Part
    goal: float
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def figure(self) -> Figure:
        ratios = [theirs / ours for theirs, ours in zip(self.theirs, self.ours, strict=True)]
        theirs, ours = median(self.theirs), median(self.ours)
        turns = f"turn by turn {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
        told = f"{self.part.said(theirs)} : {self.part.said(ours)}; {turns}; {self.part.note}"
        return Figure(self.name, theirs / ours, "×", told, self.goal, at_least=True)


# --- the whole loop ---------------------------------------------------------------------------------------------


def whole_theirs(sides: Sides, turn: str) -> Seconds:
    """Seven processes, as somebody would have to start them who never looks away: the wall time of all."""
    run_root, ends = sides.root / "results" / f"theirs_{turn}", (CHUNK, 2 * CHUNK)
    trained = [sides.theirs.train(stage, run_root, end, end - CHUNK) for stage in Stage for end in ends]
    inferred = sides.theirs.infer({stage: saved(run_root, stage, ends[-1]) for stage in Stage})
    return {"whole loop": sum(process.seconds for process in (*trained, inferred))}


def whole_ours(sides: Sides, turn: str) -> Seconds:
    """One command: alignment, gates, pictures, reports, and eight clips inferred with their baselines."""
    ended, _ = sides.ours.run(turn, updates=2 * CHUNK, chunk=CHUNK, interval=CHUNK)
    return {"whole loop": ended.seconds}


# --- one update -------------------------------------------------------------------------------------------------


def updates_theirs(sides: Sides, turn: str) -> Seconds:
    """By the progress bars of its scripts, without the first updates."""
    scale, run_root = sides.scale, sides.root / "results" / f"theirs_{turn}"
    return {
        f"{stage}, {scale.frame_size} px": sides.theirs.train(stage, run_root, scale.updates).per_update(scale.warm)
        for stage in Stage
    }


def updates_ours(sides: Sides, turn: str) -> Seconds:
    """By the journal: seconds inside the updates between two checkpoints, without the first ones."""
    scale = sides.scale
    _, store = sides.ours.run(turn, updates=scale.updates, chunk=scale.updates, interval=scale.warm)
    facts = [line["facts"] for line in store.journal() if line["event"] == "saved"]
    return {
        f"{stage}, {scale.frame_size} px": sum(
            each["seconds"] for each in facts if each["stage"] == stage and each["completed"] > scale.warm
        )
        / (scale.updates - scale.warm)
        for stage in Stage
    }


# --- frames -----------------------------------------------------------------------------------------------------

ALL, ONE = "frames per second, the whole gate", "frames per second, one clip each"


def frames_theirs(sides: Sides, turn: str) -> Seconds:
    """One clip is all that its script makes."""
    seconds = sides.theirs.infer(sides.trained).seconds / sides.scale.values["generation_steps"]
    return {ALL: seconds, ONE: seconds}


def frames_ours(sides: Sides, turn: str) -> Seconds:
    """The inference gate alone: with the clips that it judges by default, and with one."""
    flags = {"video": Stage.VIDEO, "latent": Stage.LATENT, "dynamics": Stage.DYNAMICS}
    given = [word for name, stage in flags.items() for word in (f"--{name}-checkpoint", sides.trained[stage])]
    found = {}
    for name, clips in ((ALL, 8), (ONE, 1)):
        run = f"{turn}_{clips}"
        ended, _ = sides.ours.run(run, "--train-stage", "none", *given, clips=clips)
        result = RunPaths(sides.root / "results" / run, sides.root).attempt(1)
        found[name] = ended.seconds / json.loads(result.read_text())["frames_inferred"]
    return found


# --- all of it --------------------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"


def whole_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s"


def frames_per_second(seconds: float) -> str:
    return f"{1 / seconds:.3g}/s"


def stages(scale: Scale, goal: float) -> dict[str, float]:
    return {f"{stage}, {scale.frame_size} px": goal for stage in Stage}


IN_AN_UPDATE = "an update; batches made in two loader processes : in the training process, clips tokenized once"
PARTS = {
    "loop": Part(
        SMALL,
        {"whole loop": 4},
        whole_theirs,
        whole_ours,
        whole_seconds,
        f"two chunks of {CHUNK} updates a stage, one inference; 7 processes : 1 command, its gate on 8 clips",
    ),
    "update64": Part(SMALL, stages(SMALL, 1.6), updates_theirs, updates_ours, milliseconds, IN_AN_UPDATE),
    "update128": Part(LARGE, stages(LARGE, 6), updates_theirs, updates_ours, milliseconds, IN_AN_UPDATE),
    "frames": Part(
        SMALL, {ALL: 10, ONE: 2}, frames_theirs, frames_ours, frames_per_second, "process start counted, same weights"
    ),
}


def main() -> None:
    """Do all parts in turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", default="", help="folder of the TinyWorlds checkout; it is left as it was")
    parser.add_argument("--checkout-python", default="", help="its interpreter [default: its .venv/bin/python]")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {','.join(PARTS)}")
    parser.add_argument("--turns", type=int, default=3, help="how often each side does each part [default: 3]")
    parser.add_argument("--json", type=Path, help="also write the figures and every process's time to this file")
    arguments = parser.parse_args()
    if not arguments.checkout:
        print("Skipped: it compares with a TinyWorlds checkout; make bench-reference CHECKOUT=path names one.")
        return
    names = arguments.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    checkout = Path(arguments.checkout).absolute()
    python = Path(arguments.checkout_python or checkout / ".venv/bin/python").absolute()
    if not all(spoken.absolute_updates and spoken.saves_last_step for spoken in dialect.read(checkout).stages.values()):
        parser.error(f"{checkout}: a version whose stages do not all resume where they ended; take the fork's newest")
    console, began, load = Console(highlight=False), time.monotonic(), os.getloadavg()[0]
    processes = Processes(lambda text: console.print(f"{time.monotonic() - began:5.0f} s  {text}"))
    (REPO / "results").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-reference-", dir=REPO / "results") as temporary:

        @cache
        def sides(scale: Scale) -> Sides:
            processes.label = f"{scale.frame_size} px, before the first turn"
            return Sides.prepare(Path(temporary) / f"{scale.frame_size}px", scale, checkout, python, processes)

        comparisons = [each for name in names for each in compared(name, sides(PARTS[name].scale), arguments.turns)]
    facts = facts_of(checkout, python, load)
    console.print(table_of([each.figure() for each in comparisons], facts))
    console.print(f"{time.monotonic() - began:.0f} s in all; WANDB_MODE=disabled, the least work for theirs")
    if arguments.json:
        values = [
            {**asdict(each.figure()), "met": each.figure().met, "theirs": each.theirs, "ours": each.ours}
            for each in comparisons
        ]
        content = {**facts, "turns": arguments.turns, "figures": values, "processes": processes.kept}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


def compared(name: str, sides: Sides, turns: int) -> list[Comparison]:
    """A part, as many turns of each side."""
    part, processes = PARTS[name], sides.theirs.processes
    comparisons = [Comparison(each, part, goal) for each, goal in part.goals.items()]
    if name == "frames":
        sides.trained  # noqa: B018 - the checkpoints, before the first turn
    for turn in range(1, turns + 1):
        processes.label = f"{name}, turn {turn} of {turns}"
        theirs, ours = part.theirs(sides, f"{name}_{turn}"), part.ours(sides, f"{name}_{turn}")
        for each in comparisons:
            each.theirs.append(theirs[each.name])
            each.ours.append(ours[each.name])
    return comparisons


def facts_of(checkout: Path, python: Path, load: float) -> dict[str, object]:
    """The machine, what each side computes with, and how busy the machine was before the first process of ours."""
    found = probe(str(python), checkout)
    hello = Worker(lambda line: None, "", Ranks()).hello(HelloRequest(device="cpu", threads=None))
    return {
        "device": hello["device"],
        "torch": f"{found['torch']} : {hello['torch']}",
        "threads": f"{found['threads']} : {hello['threads']}",
        "checkout": dialect.code_digest(checkout)[:12],
        "load": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after",
    }


if __name__ == "__main__":
    main()
