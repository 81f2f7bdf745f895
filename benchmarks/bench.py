"""How fast it is here: ``python benchmarks/bench.py [--device auto|cpu|cuda] [--json FILE] [--quick]``.

Sizes are those of configs/demo (``--config-dir`` takes others), frames those of data/crafter_frames.h5 if it has been
recorded, else made up. Everything is measured on the disk that holds results/, in a folder that is removed afterwards.
Takes up to three minutes on two processors; ``--quick`` does less of everything and says how much.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the native engine's child has it

import h5py
import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table

from tiw_fsm.config.settings import Settings, load_settings
from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.native.worker import Worker
from tiw_fsm.engines.protocol import Engine, HelloRequest, Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import SimulatedEngine
from tiw_fsm.fsm.states import State
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.display import Display
from tiw_fsm.run.log import make_log
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.storage.state_folder import written
from tiw_fsm.storage.store import Store
from tiw_fsm.tinyworlds.clips import FrameData, generator, to_model
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, StageConfig
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.tinyworlds.tokens import BLOCK, ClipTokens
from tiw_fsm.tinyworlds.training import Trainer
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning
from tiw_fsm.values.plain import LogPosition

REPO = Path(__file__).resolve().parents[1]
RECORDED = REPO / "data" / "crafter_frames.h5"
RUN = "bench"
CHECKPOINT_EVERY = 50
POLL_SECONDS = 0.01
STAGES = tuple(stage.value for stage in Stage)

median = statistics.median


@dataclass
class Figure:
    """One line of the table. A target is the most a value may be, or the least if ``at_least``."""

    name: str
    value: float | None
    unit: str
    note: str = ""
    target: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass
class Bench:
    """What the benchmarks share: where to work, on which frames and device, and how much."""

    folder: Path
    config_dir: Path
    frames: Path
    device_flag: str
    device: torch.device
    quick: bool
    state_file: Path | None = None
    """state.json of a finished run, left by ``whole_run`` for those that need a real one."""
    roots: list[Path] = field(default_factory=list)

    def amount(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def root(
        self,
        updates: Mapping[str, int],
        chunk: int | None = None,
        interval: int | None = None,
        share: float | None = None,
    ) -> Path:
        """A new working root: the profile, with ``updates`` per stage and gates that let every finite chunk pass.

        ``None`` for ``chunk``, ``interval`` or ``share`` (of the rows to train on) leaves what the profile says.
        """
        root = self.folder / f"root{len(self.roots)}"
        self.roots.append(root)
        shutil.copytree(self.config_dir, root / "configs", ignore=lambda _, names: [n for n in names if "." not in n])
        loop_file = root / "configs" / "loop.yaml"
        loop = yaml.safe_load(loop_file.read_text()) if loop_file.exists() else {}
        loop["gates"] = {stage: {**loop.get("gates", {}).get(stage, {}), "from_update": 10**9} for stage in STAGES}
        loop.setdefault("inference", {}).update(max_mse=1e9, allow_trivial=True)
        if chunk:
            loop["chunks"] = dict.fromkeys(STAGES, chunk)
        if interval:
            loop["checkpoint_interval"] = interval
        loop_file.write_text(yaml.safe_dump(loop))
        for stage, n_updates in updates.items():
            change_yaml(root / "configs" / f"{stage}.yaml", n_updates=n_updates)
        if share:
            change_yaml(root / "configs" / "training.yaml", preload_ratio=share)
        return root

    def flags(self) -> dict[str, str]:
        return {"dataset": str(self.frames), "device": self.device_flag}

    def command(self) -> list[str]:
        """The real ``tiw-fsm run``."""
        flags = [text for name, value in self.flags().items() for text in (f"--{name}", value)]
        return [sys.executable, "-m", "tiw_fsm", "run", "--run", RUN, *flags]

    def settings(self) -> Settings:
        return load_settings(self.flags(), run=RUN, repo_root=self.root({}))

    def sync(self) -> None:
        """Wait for what was asked of the GPU, so that a clock read next counts it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds that ``work`` takes, the GPU's share included."""
        self.sync()
        began = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - began


# --- through the real command -----------------------------------------------------------------------------------


def first_update(bench: Bench) -> list[Figure]:
    """From spawning ``tiw-fsm run`` on a fresh run to the end of its first update.

    With one update per stage the first checkpoint holds exactly the first update, and its first file is written as
    soon as that is done: the file's modification time is the moment, to a few milliseconds. Then the run is killed.
    """
    repeats = bench.amount(3, 1)
    seconds = []
    for _ in range(repeats):
        root = bench.root(dict.fromkeys(STAGES, 1))
        folder = RunPaths(root / "results" / RUN, root).checkpoints(Stage.VIDEO)
        first = folder / checkpoints.folder_name(Stage.VIDEO, 1) / checkpoints.MODEL
        began = time.time()
        with open(root / "output", "wb") as output:
            process = subprocess.Popen(bench.command(), cwd=root, stdout=output, stderr=output)
        while not first.exists() and process.poll() is None:
            time.sleep(POLL_SECONDS)
        if not first.exists():
            raise RuntimeError((root / "output").read_text())
        seconds.append(first.stat().st_mtime - began)
        process.kill()
        process.wait()
    return [Figure("process start to first update", median(seconds), "s", f"median of {repeats}, fresh runs")]


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

    def __init__(self, engine: Engine, state: Path) -> None:
        self.engine = engine
        self.state = state
        self.calls: list[Call] = []

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


def drive(root: Path, flags: Mapping[str, Any], make_engine: Callable[[Settings, Store], Engine]) -> list[Call]:
    """Run the whole machine in this process; its training requests."""
    store, quiet = Store(root / "state" / RUN), Console(quiet=True)
    settings = load_settings(flags, run=RUN, repo_root=root)
    engine = TimedEngine(make_engine(settings, store), store.paths.state)
    with store.hold(), Display(quiet) as display:
        Controller(
            settings,
            flags,
            store,
            None,
            make_engine=lambda settings, store: engine,
            display=display,
            log=make_log(quiet, store.paths.log),
        ).run()
    return engine.calls


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
    calls = drive(
        root,
        bench.flags(),
        lambda settings, store: NativeEngine(settings.python_exec, store.paths, settings.loop.max_silence),
    )
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
    calls = drive(root, {"engine": "simulated"}, lambda settings, store: SimulatedEngine())
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


# --- single parts -----------------------------------------------------------------------------------------------


def commit(bench: Bench) -> list[Figure]:
    """``Store.commit`` with the state of a finished run: journal line, previous and new state, all synced."""
    assert bench.state_file is not None
    run = Store(bench.state_file.parent).load()
    assert run is not None
    store, seconds = Store(bench.folder / "commits" / RUN), []
    with store.hold():
        before = store.commit(None, run, "first", {})
        for n in range(bench.amount(200, 50)):
            after = before.with_stage(Stage.DYNAMICS, completed=n)
            began = time.perf_counter()
            before = store.commit(before, after, "saved", {"completed": n})
            seconds.append(time.perf_counter() - began)
    note = f"median of {len(seconds)}, five fsyncs; {1e3 * max(seconds):.1f} at most"
    return [Figure("commit", 1e3 * median(seconds), "ms", note)]


def checkpoint(bench: Bench) -> list[Figure]:
    """Making a dynamics checkpoint count: write, hash and sync, publish."""
    settings = bench.settings()
    config = settings.stages[Stage.DYNAMICS]
    frames = FrameData(settings.data, bench.device)
    frozen = [make_model(stage, config).to(bench.device).eval() for stage in (Stage.VIDEO, Stage.LATENT)]
    trainer = Trainer(Stage.DYNAMICS, config, frames, bench.device, 0, *frozen)
    tuning = tuning_of(config)
    trainer.train(0, 1, tuning, LearningRateSchedule(start=0, end=1), lambda: False, lambda done, loss: None)
    parts: dict[str, list[float]] = {"write": [], "hash and sync": [], "publish": []}
    for n in range(1, 1 + bench.amount(15, 5)):
        final = bench.folder / "checkpoints" / checkpoints.folder_name(Stage.DYNAMICS, n)
        temporary = final.with_name(f".tmp-{final.name}")
        for name, work in (
            ("write", lambda: trainer.save(temporary, n, tuning)),  # noqa: B023 - called before n moves on
            ("hash and sync", lambda: checkpoints.write_manifest(temporary, Stage.DYNAMICS, n, RUN)),  # noqa: B023
            ("publish", lambda: checkpoints.publish(temporary, final, RUN)),  # noqa: B023
        ):
            parts[name].append(bench.timed(work))
    size = sum(path.stat().st_size for path in final.iterdir()) / 2**20
    note = ", ".join(f"{name} {1e3 * median(values):.1f}" for name, values in parts.items())
    total = median(sum(values) for values in zip(*parts.values(), strict=True))
    return [Figure("checkpoint", 1e3 * total, "ms", f"{size:.1f} MiB, dynamics; {note}")]


def tuning_of(config: StageConfig) -> Tuning:
    return Tuning(**{key: getattr(config, key) for key in Tuning.model_fields})


def tokens(bench: Bench) -> list[Figure]:
    """How fast clips become tokens and actions: dynamics do it once per clip and start of the process."""
    settings = bench.settings()
    config = settings.stages[Stage.DYNAMICS]
    frames = FrameData(settings.data, bench.device)
    video, latent = (make_model(stage, config).to(bench.device).eval() for stage in (Stage.VIDEO, Stage.LATENT))
    clips = ClipTokens(frames, config.context_length, video, latent)  # type: ignore[arg-type]
    count = min(bench.amount(1024, 256), len(clips.starts) // 2)
    clips.lookup(torch.arange(BLOCK))
    rate = count / bench.timed(lambda: clips.lookup(torch.arange(BLOCK, BLOCK + count)))
    note = f"over {count}; all {len(clips.starts)} of the data take {len(clips.starts) / rate:.1f} s in all"
    return [Figure("clips tokenized for dynamics", rate, "clips/s", note)]


def rollout(bench: Bench) -> list[Figure]:
    """Frames per second of the gate's autoregressive rollout; fresh weights take as long as trained ones."""
    settings = bench.settings()
    config = settings.inference
    frames = FrameData(settings.data, bench.device)
    models = {stage: make_model(stage, config) for stage, config in settings.stages.items()}
    for model in models.values():
        model.to(bench.device).eval().requires_grad_(False)
    world: Any = WorldModel(*models.values())  # type: ignore[arg-type]
    starts = frames.held_out_clips(config.frames, settings.loop.inference.clips, 0)
    clips = to_model(frames.clips(starts, config.frames))

    def generate(config: InferenceConfig) -> None:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=config.amp and bench.device.type == "cuda"):
            world.rollout(clips, world.infer_actions(clips, config), config, generator(0, "rollout"))

    generate(config.evolve(generation_steps=1))
    seconds = median(bench.timed(lambda: generate(config)) for _ in range(bench.amount(3, 1)))
    count = len(clips) * config.generation_steps * config.prediction_horizon
    note = f"{len(clips)} clips × {config.generation_steps} steps, {config.decode_steps} decode steps; {seconds:.2f} s"
    return [Figure("rollout", count / seconds, "frames/s", note)]


def flat_updates(bench: Bench) -> list[Figure]:
    """Whether an update takes at the ten-thousandth what it took at the first, with a model too small to hide it."""
    total, part = (2_000, 200) if bench.quick else (10_000, 500)
    path = bench.folder / "tiny.h5"
    make_frames(path, size=16, rows=400)
    config = StageConfig(
        n_updates=total,
        learning_rate=1e-3,
        gradient_accumulation_steps=1,
        batch_size_per_gpu=1,
        log_interval=part,
        context_length=2,
        frame_size=16,
        patch_size=8,
        embed_dim=8,
        num_heads=2,
        hidden_dim=8,
        num_blocks=1,
        latent_dim=2,
        num_bins=2,
        n_actions=2,
    )
    frames = FrameData(DataSource(path=str(path), skip=0, stride=1), bench.device)

    def train(trainer: Trainer, start: int, stop_at: int) -> None:
        schedule = LearningRateSchedule(start=0, end=total)
        trainer.train(start, stop_at, tuning_of(config), schedule, lambda: False, lambda done, loss: None)

    train(Trainer(Stage.VIDEO, config, frames, bench.device, 0), 0, 50)  # what torch does only once
    trainer = Trainer(Stage.VIDEO, config, frames, bench.device, 0)
    means = []
    for start in range(0, total, part):
        means.append(1e3 * bench.timed(lambda: train(trainer, start, start + part)) / part)  # noqa: B023
    note = "tiny tokenizer, mean of updates"
    return [
        Figure("update at the start", means[0], "ms", f"{note} 0 to {part}"),
        Figure("update at the end", means[-1], "ms", f"{note} {total - part} to {total}"),
    ]


# --- putting it together ----------------------------------------------------------------------------------------

BENCHMARKS = (
    first_update,
    whole_run,
    training,
    cold_status,
    commit,
    checkpoint,
    tokens,
    rollout,
    flat_state,
    flat_updates,
)


def change_yaml(path: Path, **values: Any) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def make_frames(path: Path, *, size: int, rows: int) -> None:
    """A bright square that walks over a dark field, in episodes of 100 frames."""
    rng = np.random.default_rng(0)
    side = size // 4
    places = np.cumsum(rng.integers(-1, 2, (rows, 2)), axis=0) % (size - side)
    frames = np.full((rows, size, size, 3), 30, np.uint8)
    for frame, (y, x) in zip(frames, places, strict=True):
        frame[y : y + side, x : x + side] = (220, 180, 60)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, chunks=(16, size, size, 3), compression="gzip", compression_opts=4)
        file.create_dataset("episode", data=np.arange(rows) // 100)
        file.attrs["stride"] = 1


def table_of(figures: list[Figure], facts: Mapping[str, Any]) -> Table:
    table = Table(title="  ".join(f"{name}: {value}" for name, value in facts.items()), title_justify="left")
    for name, justify in (("what", "left"), ("value", "right"), ("unit", "left"), ("target", "left"), ("how", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for figure in figures:
        value = "not measured" if figure.value is None else f"{figure.value:.3g}"
        if figure.value is not None and figure.value >= 100:
            value = f"{figure.value:.0f}"
        sign = "≥" if figure.at_least else "≤"
        target = "" if figure.target is None else f"{sign} {figure.target:g} {'met' if figure.met else 'MISSED'}"
        table.add_row(figure.name, value, figure.unit, target, figure.note)
    return table


def frames_of(folder: Path, config_dir: Path) -> tuple[Path, str]:
    """The recorded demo frames, if they are there and fit the profile; else made-up ones."""
    training = yaml.safe_load((config_dir / "training.yaml").read_text())
    size = training["frame_size"]
    if RECORDED.is_file():
        with h5py.File(RECORDED, "r") as file:
            if file["frames"].shape[1] == size:
                return RECORDED, f"{len(file['frames'])} of Crafter"
    path = folder / "frames.h5"
    make_frames(path, size=size, rows=12_000)
    return path, f"12000 made up, {size} pixels"


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--config-dir", type=Path, default=REPO / "configs" / "demo", help="profile to measure")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="do less of everything")
    arguments = parser.parse_args()
    console, began = Console(highlight=False), time.monotonic()
    worker = Worker(lambda line: None)
    hello = worker.hello(HelloRequest(device=arguments.device, threads=None))  # sets torch up as in the child
    (REPO / "results").mkdir(exist_ok=True)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=REPO / "results") as temporary:
        folder = Path(temporary)
        frames, told = frames_of(folder, arguments.config_dir)
        facts = {**hello, "frames": told, "profile": arguments.config_dir.name}
        bench = Bench(folder, arguments.config_dir, frames, arguments.device, worker.device, arguments.quick)
        for number, benchmark in enumerate(BENCHMARKS, 1):
            name = benchmark.__name__.replace("_", " ")
            console.print(f"{time.monotonic() - began:5.0f} s  {number} of {len(BENCHMARKS)}: {name}")
            figures += benchmark(bench)
    console.print(table_of(figures, facts))
    console.print(f"{time.monotonic() - began:.0f} s in all{', --quick' if arguments.quick else ''}")
    if arguments.json:
        values = [{**asdict(figure), "met": figure.met} for figure in figures]
        arguments.json.write_text(json.dumps({**facts, "quick": arguments.quick, "figures": values}, indent=1) + "\n")


if __name__ == "__main__":
    main()
