"""Training: what its loss and its tokens depend on, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import DataSource, StageConfig
from tiw_fsm.tinyworlds.tokens import ClipTokens
from tiw_fsm.tinyworlds.training import Trainer
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning

CONFIG = StageConfig(
    n_updates=20, learning_rate=0.003, gradient_accumulation_steps=1, batch_size_per_gpu=4, log_interval=5,
    context_length=4, frame_size=16, patch_size=8, embed_dim=24, num_heads=2, hidden_dim=24, num_blocks=1,
    latent_dim=3, num_bins=4, n_actions=4,
)  # fmt: skip


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
    some, all_of_them = (ClipTokens(data, 4, tokenizer, actions) for _ in range(2))  # type: ignore[arg-type]
    picks = torch.tensor([3, 200, 7, 3])
    late = all_of_them.lookup(torch.arange(len(all_of_them.starts)))
    for early, later in zip(some.lookup(picks), late, strict=True):
        assert early is not None
        assert later is not None
        assert torch.equal(early, later[picks])
