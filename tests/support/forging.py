"""Runs forged so well that every hash agrees: only computing them once more finds it out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.run_folder import RunFolder
from tiw_fsm.run import fingerprint
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.state_folder import read, written
from tiw_fsm.values.plain import LogPosition


class Forger(RunFolder):
    """Alters what the ended run ``default`` left, and has its state and its journal vouch for that."""

    def weight(self, stage: Stage) -> str:
        """Move one weight of a stage's newest checkpoint by the least there is; returns the tensor's name."""
        ref = self.state.stages[stage].checkpoint
        assert ref is not None
        folder = Path(ref.path)
        weights = torch.load(folder / checkpoints.FILES[0], weights_only=True)
        name = next(name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.numel() > 1)
        first = weights[name].view(-1)[0]
        first.copy_(torch.nextafter(first, torch.tensor(np.inf)))
        torch.save(weights, folder / checkpoints.FILES[0])
        owner = checkpoints.owner_of(folder)
        assert owner is not None
        self._vouch({ref.sha256: checkpoints.write_manifest(folder, stage, ref.completed, owner)})
        return str(name)

    def metric(self, stage: Stage) -> None:
        """Alter the last digit but one of the last row's loss."""
        path = self.root / "results/default" / stage / "metrics.jsonl"
        before = path.read_text()
        loss = json.dumps(self.rows(stage)[-1]["loss"])
        head, _, tail = before.rpartition(loss)
        path.write_text(head + _other(loss) + tail)
        self._vouch({_sha256(before.encode()): _sha256(path.read_bytes())})

    def figure(self) -> None:
        """Alter the MSE of the last attempt, in its result file and in its verdict."""
        path = Path(self.state.inference.attempts[-1].result or "")
        before = path.read_bytes()
        mse = json.dumps(json.loads(before)["mse"])
        path.write_bytes(before.replace(mse.encode(), _other(mse).encode()))
        self._vouch({mse: _other(mse), _sha256(before): _sha256(path.read_bytes())})

    def device(self) -> None:
        """Say that the run was made on another device of a name as long."""
        before = self.state.fingerprint
        assert before is not None
        other = before.evolve(device="?" * len(before.device))
        self._vouch({before.device: other.device, fingerprint.digest(before): fingerprint.digest(other)})

    def _vouch(self, replaced: Mapping[str, str]) -> None:
        """Say in state and journal what is as long but something else, with hashes that agree."""
        journal = self.store.paths.journal
        states = [(path, read(path)) for path in (self.store.paths.state, self.store.paths.previous)]
        lines = _replaced(journal.read_text(), replaced)
        journal.write_text(lines)
        for path, found in states:
            told: dict[str, Any] = json.loads(_replaced(json.dumps(found.stored), replaced))
            there = lines.encode()[: found.journal.bytes]
            path.write_bytes(written(told, LogPosition(len(there), _sha256(there))))


def _replaced(text: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        assert len(old) == len(new)
        text = text.replace(old, new)
    return text


def _other(number: str) -> str:
    """A number in as many letters that is not the same."""
    return number[:-2] + ("1" if number[-2] != "1" else "2") + number[-1]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
