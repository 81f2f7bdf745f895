"""What a whole run takes: through the real command, and with the controller in this process."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from workbench import RUN, STAGES, Bench, Figure

from tiw_fsm.config.settings import Draft, Settings
from tiw_fsm.engines import registry
from tiw_fsm.engines.protocol import Engine, EngineKind, Progress, TrainRequest, TrainResult
from tiw_fsm.fsm.states import State
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Session
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.storage.state_folder import written
from tiw_fsm.storage.store import Store
from tiw_fsm.values.frozen import FrozenModel
from tiw_fsm.values.plain import LogPosition

CHECKPOINT_EVERY = 50
POLL_SECONDS = 0.01

# --- through the real command -----------------------------------------------------------------------------------


def starts(bench: Bench) -> list[Figure]:
    """From spawning ``tiw-fsm run`` to the end of the first update that it makes: of a fresh run, and of one that was
    killed while it trained dynamics. Each in turns with a process that imports torch and nothing else.

    With a checkpoint after every update the next checkpoint holds exactly that update, and its first file is written as
    soon as it is done: the file's modification time is the moment, to a few milliseconds. Then the run is killed.
    """
    repeats = bench.amount(5, 1)
    bare, fresh, resumed = [], [], []
    going = bench.root({**dict.fromkeys(STAGES, 1), Stage.DYNAMICS: 10**6}, chunk=10**6, interval=1)
    first_checkpoint(bench, going, Stage.DYNAMICS)
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        bare.append(time.perf_counter() - began)
        fresh.append(first_checkpoint(bench, bench.root(dict.fromkeys(STAGES, 1)), Stage.VIDEO))
        resumed.append(first_checkpoint(bench, going, Stage.DYNAMICS))
    of, limit = f"median of {repeats}", median(bare)
    return [
        Figure("bare import torch", limit, "s", f"{of}: the limit of the next two"),
        Figure("start to first update", median(fresh), "s", f"{of}, fresh runs", limit + 0.6),
        Figure("start to first update of resumed dynamics", median(resumed), "s", f"{of}, killed", limit + 1.1),
    ]


def first_checkpoint(bench: Bench, root: Path, stage: Stage) -> float:
    """Seconds from a start in ``root`` until it has made its first update of ``stage``; then it is killed."""
    folder, names = RunPaths(root / "results" / RUN, root).checkpoints(stage), f"*{stage}_step_*/{checkpoints.MODEL}"
    before = set(folder.glob(names))
    began = time.time()
    with open(root / "output", "wb") as output:
        process = subprocess.Popen(bench.command(), cwd=root, stdout=output, stderr=output)
    while not (new := set(folder.glob(names)) - before) and process.poll() is None:
        time.sleep(POLL_SECONDS)
    made = [path.stat().st_mtime for path in new if path.exists()]
    process.kill()
    process.wait()
    if not made:
        raise RuntimeError((root / "output").read_text())
    return min(made) - began


def whole_run(bench: Bench) -> list[Figure]:
    """A short run of the whole machine: how much of the training time is inside updates, and peak memory."""
    updates = dict(zip(STAGES, (60, 60, 60) if bench.quick else (150, 100, 250), strict=True))
    root = bench.root(updates)
    store = Store(root / "state" / RUN)
    entered: dict[str, float] = {}
    peaks: dict[str, int] = {}
    with open(root / "output", "wb") as output:
        process = subprocess.Popen(bench.command(), cwd=root, stdout=output, stderr=output)
    seen = 0
    while process.poll() is None:
        for line in store.journal()[seen:]:
            seen += 1
            entered.setdefault(line["to"], time.perf_counter())
        note_peaks(process.pid, peaks)
        time.sleep(POLL_SECONDS)
    if process.returncode != 0:
        raise RuntimeError((root / "output").read_text())
    bench.state_file = store.paths.state
    wall = entered[State.INFER] - entered[State.TRAIN_VIDEO]
    saved = [line["facts"]["seconds"] for line in store.journal() if line["event"] == "saved"]
    other = f"{wall - sum(saved):.2f} s for {len(saved)} checkpoints, 3 stage starts and their gates"
    told = "/".join(str(n) for n in updates.values())
    return [
        Figure("TRAIN time inside updates", 100 * sum(saved) / wall, "%", f"{told} updates; {other}"),
        Figure("controller, peak memory", mebibytes(peaks.get("controller")), "MiB", "VmHWM over the same run"),
        Figure("training process, peak memory", mebibytes(peaks.get("child")), "MiB", "the same"),
    ]


def note_peaks(pid: int, peaks: dict[str, int]) -> None:
    """Keep the highest resident memory, in KiB, of a controller and of its child. Linux only; nothing elsewhere."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for name, process in (("controller", pid), *(("child", child) for child in children)):
            status = Path(f"/proc/{process}/status").read_text()
            found = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
            peaks[name] = max(peaks.get(name, 0), int(found.split()[1]))
    except OSError:
        return  # one of them has just ended


def mebibytes(kibibytes: int | None) -> float | None:
    return kibibytes / 1024 if kibibytes else None


def cold_status(bench: Bench) -> list[Figure]:
    """``tiw-fsm status``, a new process each time: after a hundred steps of a run, and after a hundred thousand.

    In turns, so that a machine that is slow for a while is so to both.
    """
    repeats = bench.amount(20, 5)
    commands = {
        steps: [sys.executable, "-m", "tiw_fsm", "status", "--run", RUN, "--state-dir", str(many_steps(bench, steps))]
        for steps in (100, 100_000)
    }
    seconds: dict[int, list[float]] = {steps: [] for steps in commands}
    for _ in range(1 + repeats):
        for steps, command in commands.items():
            seconds[steps].append(
                bench.timed(lambda: subprocess.run(command, check=True, capture_output=True))  # noqa: B023
            )
    note = f"median of {repeats} processes; the journal has"
    return [
        Figure(f"cold status, {steps:,} steps", median(taken[1:]), "s", f"{note} {steps:,} lines", 0.15)
        for steps, taken in seconds.items()  # the first of each has read the files in
    ]


def many_steps(bench: Bench, steps: int) -> Path:
    """A state folder whose run has as many steps: the state of a finished run on a journal of checkpoints."""
    assert bench.state_file is not None
    source, folder = Store(bench.state_file.parent), bench.folder / f"steps{steps}"
    if folder.exists():
        return folder
    found = source.document()
    assert found is not None
    saved = [line for line in source.journal() if line["event"] == "saved"]
    lines = [json.dumps(saved[n % len(saved)] | {"generation": n + 1}).encode() + b"\n" for n in range(steps)]
    journal = b"".join(lines)
    paths = Store(folder / RUN).paths
    paths.folder.mkdir(parents=True)
    paths.journal.write_bytes(journal)
    mark = LogPosition(bytes=len(journal), sha256=hashlib.sha256(journal).hexdigest())
    paths.state.write_bytes(written({**found.state, "generation": steps}, mark))
    paths.lock.touch()
    return folder


# --- the controller in this process -----------------------------------------------------------------------------


@dataclass
class Call:
    """One training request: what it did, and when it came and went."""

    stage: Stage
    ends_chunk: bool
    updates: int
    began: float
    ended: float
    seconds: float
    """Inside updates."""
    state_bytes: int
    """Size of state.json when the request came."""


class TimedEngine:
    """Passes everything on to an engine, and notes every training request."""

    def __init__(self, engine: Engine, state: Path, calls: list[Call]) -> None:
        self.engine, self.state, self.calls = engine, state, calls

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        size = self.state.stat().st_size
        began = time.perf_counter()
        result = self.engine.train(request, progress)
        ended = time.perf_counter()
        updates = result.completed - request.start
        ends_chunk = request.picture is not None
        self.calls.append(Call(request.stage, ends_chunk, updates, began, ended, result.seconds, size))
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


class TimedKind(EngineKind):
    """A kind of engine, whose engine is timed."""

    def __init__(self, kind: EngineKind) -> None:
        self.kind = kind
        self.calls: list[Call] = []
        """Training requests, as they came."""
        for name in ("name", "needs_frames", "interpreter_needs"):
            setattr(self, name, getattr(kind, name))

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        return self.kind.read_settings(draft, problems)

    def data_problems(self, settings: Settings) -> list[str]:
        return self.kind.data_problems(settings)

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        engine: Any = TimedEngine(self.kind.make(settings, paths), paths.state, self.calls)
        return engine


def drive(root: Path, flags: Mapping[str, Any]) -> list[Call]:
    """Run the whole machine in this process; its training requests."""
    store, kind = Store(root / "state" / RUN), TimedKind(registry.find(flags.get("engine", "native")))
    with store.hold():
        session = Session.open(store, flags, repo_root=root, console=Console(quiet=True), kind=kind)
        Controller(session).run()
    return kind.calls


def boundaries(calls: list[Call], *, ends_chunk: bool) -> list[float]:
    """Seconds between the last update of a request and the first of the next one of the same stage.

    That is all a boundary costs: saving, hashing, syncing, the picture, the answer, metrics rows, publishing, the
    gate's verdict with its look into the checkpoint, and every commit.
    """
    return [
        following.began - call.began - call.seconds
        for call, following in pairwise(calls)
        if call.stage is following.stage and call.ends_chunk is ends_chunk
    ]


def training(bench: Bench) -> list[Figure]:
    """Updates per second of each stage, and what checkpoints and chunk boundaries cost, on the native engine.

    On a small share of the rows: dynamics tokenize a clip the first time they see it, which ``tokens`` measures.
    """
    size = bench.amount(30, 10)
    root = bench.root(dict.fromkeys(STAGES, 4 * size), size, size // 2, share=0.03)
    calls = drive(root, bench.flags())
    plain, whole = boundaries(calls, ends_chunk=False), boundaries(calls, ends_chunk=True)
    figures, shares = [], []
    for stage in Stage:
        rates = [call.updates / call.seconds for call in calls if call.stage is stage][2:]
        shares.append(median(plain) / (median(plain) + CHECKPOINT_EVERY / median(rates)))
        note = f"median of {len(rates)} × {size // 2} updates" + (
            ", clips tokenized" if stage is Stage.DYNAMICS else ""
        )
        figures.append(Figure(f"updates, {stage}", median(rates), "/s", note))
    told = f"a checkpoint every {CHECKPOINT_EVERY} updates; by stage {', '.join(f'{100 * s:.1f}' for s in shares)} %"
    figures += [
        Figure("chunk boundary with its picture", 1e3 * median(whole), "ms", spread(whole), 100),
        Figure("checkpoint boundary", 1e3 * median(plain), "ms", spread(plain)),
        Figure("wall time that durability takes", 100 * statistics.fmean(shares), "%", told, 1),
    ]
    return figures


def spread(seconds: list[float]) -> str:
    return f"median of {len(seconds)}, {1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f}; last update to next"


def flat_state(bench: Bench) -> list[Figure]:
    """Whether state.json and the machine's own time per step stay as they are over ten thousand updates."""
    updates, every = bench.amount(10_000, 1_000), 10
    root = bench.root({**dict.fromkeys(STAGES, every), Stage.VIDEO.value: updates}, 10 * every, every)
    calls = drive(root, {"engine": "simulated"})
    calls = [call for call in calls if call.stage is Stage.VIDEO]
    steps = [following.began - call.ended for call, following in pairwise(calls) if not call.ends_chunk]
    count = len(steps) // 10
    told = f"simulated engine, {len(calls)} checkpoints; of the"
    return [
        Figure("state.json at the start", calls[1].state_bytes / 1024, "KiB", "after the first update's commit"),
        Figure("state.json at the end", calls[-1].state_bytes / 1024, "KiB", f"after {updates} updates"),
        Figure("machine's step at the start", 1e3 * median(steps[:count]), "ms", f"{told} first {count}"),
        Figure("machine's step at the end", 1e3 * median(steps[-count:]), "ms", f"{told} last {count}"),
    ]
