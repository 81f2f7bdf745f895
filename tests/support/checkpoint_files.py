"""Checkpoints of a small model in training, and ways to damage them."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.checkpoints import MODEL, OPTIMIZER, STATE

STAGE = "video_tokenizer"
OWNER = "this run"


@dataclass
class Training:
    """A small model in training, with everything a checkpoint saves."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def begun(cls) -> Training:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return cls(model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (i + 1)))

    def train(self, updates: range) -> Training:
        for update in updates:
            torch.manual_seed(update)
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 8)).square().mean().backward()
            self.optimizer.step()
            self.schedule.step()
        return self

    def save(self, folder: Path, config: object) -> None:
        folder.mkdir(parents=True)
        torch.save(self.model.state_dict(), folder / MODEL)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        torch.save({"config": config, "scheduler_state_dict": self.schedule.state_dict()}, folder / STATE)

    def load(self, folder: Path) -> Training:
        self.model.load_state_dict(torch.load(folder / MODEL, weights_only=True))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))
        self.schedule.load_state_dict(torch.load(folder / STATE, weights_only=True)["scheduler_state_dict"])
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}


class RunsCode:
    """Unpickling this the usual way would create ``marker`` in the working folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch marker",)


def save_checkpoint(checkpoints_dir: Path, completed: int, *, manifest: bool = True) -> Path:
    folder = checkpoints_dir / checkpoints.folder_name(STAGE, completed)
    Training.begun().train(range(2)).save(folder, {"num_blocks": 2})
    if manifest:
        checkpoints.write_manifest(folder, STAGE, completed, OWNER)
    return folder


def rewrite_record(path: Path, record: str, data: bytes, *, compression: int = zipfile.ZIP_STORED) -> None:
    """Replace one record of a torch file, with correct checksums."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records[f"{path.stem}/{record}"] = data
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def tear(path: Path, length: int = 2000) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
