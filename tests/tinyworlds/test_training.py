"""Training: what its loss and its tokens depend on, and what not."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import DataSource, StageConfig
from tiw_fsm.tinyworlds.determinism import make_deterministic
from tiw_fsm.tinyworlds.objectives import Row
from tiw_fsm.tinyworlds.tokens import ClipTokens
from tiw_fsm.tinyworlds.training import Trainer, write_checkpoint
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning

CONFIG = StageConfig(
    n_updates=20, learning_rate=0.003, gradient_accumulation_steps=1, batch_size_per_gpu=4, log_interval=5,
    context_length=4, frame_size=16, patch_size=8, embed_dim=24, num_heads=2, hidden_dim=24, num_blocks=1,
    latent_dim=3, num_bins=4, n_actions=4,
)  # fmt: skip


MANY = 10**6
"""Clips drawn by a long training."""


def first_loss(root: Path, accumulation: int) -> float:
    tuning = Tuning(learning_rate=0.003, gradient_accumulation_steps=accumulation, batch_size_per_gpu=4, log_interval=5)
    data = FrameData(DataSource(path=str(root / "frames.h5"), skip=0, stride=1), torch.device("cpu"))
    trainer = Trainer(Stage.VIDEO, CONFIG, data, torch.device("cpu"), 0)
    (row,) = trainer.train(0, 1, tuning, LearningRateSchedule(start=0, end=20), lambda: False, lambda done, loss: None)
    loss: float = row["loss"]
    return loss


def test_the_loss_judged_does_not_depend_on_the_accumulation(root: Path) -> None:
    """TinyWorlds logs it divided by the accumulation: four micro-batches would look four times as good."""
    assert first_loss(root, 4) == pytest.approx(first_loss(root, 1), rel=0.3)


def test_a_clips_tokens_do_not_depend_on_who_asks_first(root: Path) -> None:
    """What an interrupted run tokenizes again comes out bit for bit the same."""
    data = FrameData(DataSource(path=str(root / "frames.h5"), skip=0, stride=1), torch.device("cpu"))
    tokenizer, actions = (Trainer(stage, CONFIG, data, torch.device("cpu"), 0).model for stage in list(Stage)[:2])
    some, all_of_them = (ClipTokens(data, 4, MANY, tokenizer, actions) for _ in range(2))  # type: ignore[arg-type]
    picks = torch.tensor([3, 200, 7, 3])
    late = all_of_them.lookup(torch.arange(len(all_of_them.starts)))
    for early, later in zip(some.lookup(picks), late, strict=True):
        assert early is not None
        assert later is not None
        assert torch.equal(early, later[picks])


def test_a_short_training_has_the_tokens_of_a_long_one_but_keeps_none(root: Path) -> None:
    data = FrameData(DataSource(path=str(root / "frames.h5"), skip=0, stride=1), torch.device("cpu"))
    tokenizer, actions = (Trainer(stage, CONFIG, data, torch.device("cpu"), 0).model for stage in list(Stage)[:2])
    short, long = (ClipTokens(data, 4, drawn, tokenizer, actions) for drawn in (1, MANY))  # type: ignore[arg-type]
    picks = torch.tensor([3, 200, 7, 3])
    for fresh, kept in zip(short.lookup(picks), long.lookup(picks), strict=True):
        assert fresh is not None
        assert kept is not None
        assert (fresh == kept).float().mean() > 0.99  # one on the border of two codes may be rounded to either
    assert not len(short.indices)


# --- going on in another process ---------------------------------------------------------------------------------

MUON, EXPERTS, COMPILED = {"optimizer": "muon"}, {"use_moe": True}, {"compile": True}
TUNING = Tuning(learning_rate=0.003, gradient_accumulation_steps=2, batch_size_per_gpu=4, log_interval=5)
HALF, WHOLE = 2, 4
NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")


def dynamics_trainer(root: Path, changes: dict[str, Any]) -> Trainer:
    """Of dynamics, against models that have learnt nothing."""
    config, cpu = CONFIG.evolve(num_blocks=2, **changes), torch.device("cpu")
    data = FrameData(DataSource(path=str(root / "frames.h5"), skip=0, stride=1), cpu)
    inputs = {stage: Trainer(stage, CONFIG, data, cpu, 0).model.eval() for stage in (Stage.VIDEO, Stage.LATENT)}
    return Trainer(Stage.DYNAMICS, config, data, cpu, 0, inputs)


def train(trainer: Trainer, start: int, stop_at: int, folder: Path) -> list[Row]:
    """The rows of these updates, after which a checkpoint is left."""
    schedule = LearningRateSchedule(start=0, end=20)
    rows = trainer.train(start, stop_at, TUNING, schedule, lambda: False, lambda done, loss: None)
    write_checkpoint(folder, trainer.checkpoint(stop_at, TUNING))
    return rows


def go_on(root: Path, changes: dict[str, Any]) -> None:
    """The second half of the updates; run in a process of its own."""
    make_deterministic(threads=1)
    trainer = dynamics_trainer(root, changes)
    trainer.load(root / "half", weights_only=False)
    rows = train(trainer, HALF, WHOLE, root / "halves")
    (root / "rows.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    "changes",
    [
        {**MUON, **EXPERTS},
        *(pytest.param(changes, marks=pytest.mark.whole) for changes in (MUON, EXPERTS)),
        *(
            pytest.param(changes, marks=[pytest.mark.whole, NEEDS_COMPILER])
            for changes in (COMPILED, {**COMPILED, **MUON, **EXPERTS})
        ),
    ],
    ids=" ".join,
)
def test_updates_that_another_process_goes_on_with_are_those_of_one(
    root: Path, changes: dict[str, Any], one_thread: None
) -> None:
    """Weights, optimizer, schedule and rows are the same to the last bit."""
    rows = train(dynamics_trainer(root, changes), 0, WHOLE, root / "whole")
    before = train(dynamics_trainer(root, changes), 0, HALF, root / "half")
    process = multiprocessing.get_context("spawn").Process(target=go_on, args=(root, changes))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert before + json.loads((root / "rows.json").read_text()) == rows
    for file in (MODEL, OPTIMIZER, STATE):
        assert (root / "halves" / file).read_bytes() == (root / "whole" / file).read_bytes()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """This process computes as the training process does, on one thread."""
    threads = torch.get_num_threads()
    make_deterministic(threads=1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_a_row_tells_how_each_block_used_its_experts(root: Path) -> None:
    (row,) = train(dynamics_trainer(root, EXPERTS), 0, 1, root / "one")
    assert [len(block) for block in row["expert_shares"]] == [4, 4]
    assert [sum(block) for block in row["expert_shares"]] == pytest.approx([1, 1], abs=0.002)
    assert 0 <= row["expert_entropy"] <= math.log(4)
