"""What single parts take: a commit, a checkpoint, tokens, a rollout, an update."""

from __future__ import annotations

import time
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from runs import many_steps
from workbench import RUN, Bench, Figure, train, trainer_of

from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.store import Store
from tiw_fsm.tinyworlds.clips import FrameData, generator, to_model
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.tinyworlds.tokens import BLOCK, ClipTokens
from tiw_fsm.tinyworlds.training import write_checkpoint


def commit(bench: Bench) -> list[Figure]:
    """``Store.commit`` with the state of a finished run, on journals of two lengths: line, previous and new state, all
    synced. In turns, so that a disk that is slow for a while is so to both."""
    repeats = bench.amount(200, 50)
    with ExitStack() as held:
        runs = {}
        for steps in (100, 100_000):
            store = Store(many_steps(bench, steps) / RUN)
            held.enter_context(store.hold())
            run = store.load()
            assert run is not None
            runs[steps] = [store, run]
        seconds: dict[int, list[float]] = {steps: [] for steps in runs}
        for n in range(repeats):
            for steps, (store, before) in runs.items():
                after = before.with_stage(Stage.DYNAMICS, completed=n)
                began = time.perf_counter()
                runs[steps][1] = store.commit(before, after, "saved", {"completed": n})
                seconds[steps].append(time.perf_counter() - began)
    return [
        Figure(
            f"commit, {steps:,} lines",
            1e3 * median(taken),
            "ms",
            f"median of {repeats}, five fsyncs; {1e3 * max(taken):.1f} at most",
        )
        for steps, taken in seconds.items()
    ]


def checkpoint(bench: Bench) -> list[Figure]:
    """Making a dynamics checkpoint count: write, hash and sync, publish."""
    settings = bench.settings()
    config = settings.stages[Stage.DYNAMICS]
    frames = FrameData(settings.data, bench.device)
    trainer = trainer_of(Stage.DYNAMICS, config, frames)
    train(trainer, 0, 1)
    parts: dict[str, list[float]] = {"write": [], "hash and sync": [], "publish": []}
    for n in range(1, 1 + bench.amount(15, 5)):
        final = bench.folder / "checkpoints" / checkpoints.folder_name(Stage.DYNAMICS, n)
        temporary = final.with_name(f".tmp-{final.name}")
        for name, work in (
            ("write", lambda: write_checkpoint(temporary, trainer.checkpoint(n, config.tuning))),  # noqa: B023 - called before n moves on
            ("hash and sync", lambda: checkpoints.write_manifest(temporary, Stage.DYNAMICS, n, RUN)),  # noqa: B023
            ("publish", lambda: checkpoints.publish(temporary, final, RUN)),  # noqa: B023
        ):
            parts[name].append(bench.timed(work))
    size = sum(path.stat().st_size for path in final.iterdir()) / 2**20
    note = ", ".join(f"{name} {1e3 * median(values):.1f}" for name, values in parts.items())
    total = median(sum(values) for values in zip(*parts.values(), strict=True))
    return [Figure("checkpoint", 1e3 * total, "ms", f"{size:.1f} MiB, dynamics; {note}")]


def tokens(bench: Bench) -> list[Figure]:
    """How fast clips become tokens and actions: dynamics do it once per clip and start of the process."""
    settings = bench.settings()
    config = settings.stages[Stage.DYNAMICS]
    frames = FrameData(settings.data, bench.device)
    video, latent = (make_model(stage, config).to(bench.device).eval() for stage in (Stage.VIDEO, Stage.LATENT))
    clips = ClipTokens(frames, config.context_length, 10**9, video, latent)  # type: ignore[arg-type]
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
