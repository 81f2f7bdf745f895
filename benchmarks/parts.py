"""What single parts take: a commit, a checkpoint, tokens, a rollout, an update."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from workbench import RUN, Bench, Figure, make_frames

from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.store import Store
from tiw_fsm.tinyworlds.clips import FrameData, generator, to_model
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, StageConfig
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.tinyworlds.tokens import BLOCK, ClipTokens
from tiw_fsm.tinyworlds.training import Trainer, write_checkpoint
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning


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
    frozen = {stage: make_model(stage, config).to(bench.device).eval() for stage in STAGES[Stage.DYNAMICS].inputs}
    trainer = Trainer(Stage.DYNAMICS, config, frames, bench.device, 0, frozen)
    tuning = tuning_of(config)
    trainer.train(0, 1, tuning, LearningRateSchedule(start=0, end=1), lambda: False, lambda done, loss: None)
    parts: dict[str, list[float]] = {"write": [], "hash and sync": [], "publish": []}
    for n in range(1, 1 + bench.amount(15, 5)):
        final = bench.folder / "checkpoints" / checkpoints.folder_name(Stage.DYNAMICS, n)
        temporary = final.with_name(f".tmp-{final.name}")
        for name, work in (
            ("write", lambda: write_checkpoint(temporary, trainer.checkpoint(n, tuning))),  # noqa: B023 - called before n moves on
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
