"""Game frames for training: held once, as uint8, on the device that computes."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiw_fsm.tinyworlds import episodes
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig
from tiw_fsm.tinyworlds.keys import RecordedKeys
from tiw_fsm.tinyworlds.used_rows import UsedRows

SUM_ROWS = 256
"""Rows summed at a time, in integers: exactly, and faster than in float64."""


class FrameData:
    """The rows of a frame file that training and evaluation need, as one uint8 tensor [N, H, W, 3].

    Args:
        source: file, skip, stride and training share.
        device: where the frames are kept and clips are made.

    Attributes:
        digest: of what was loaded, as ``UsedRows`` takes it.

    Raises:
        OSError, KeyError: the file cannot be read.
    """

    def __init__(self, source: DataSource, device: torch.device) -> None:
        self.source, self.device = source, device
        with h5py.File(source.path, "r") as file:
            used = UsedRows(file, source)
            self.numbers, self.held_out = used.numbers, used.held_out
            self.training = torch.from_numpy(used.wanted & ~used.held_out)  # of the file's rows
            self.place = torch.from_numpy(np.cumsum(used.wanted) - 1).to(device)  # file row → row kept here
            shape = int(used.wanted.sum()), *used.rows.shape[1:]
            self.frames = torch.empty(shape, dtype=torch.uint8, device=device)
            kept = 0
            for _, block in used.blocks():
                self.frames[kept : kept + len(block)] = torch.from_numpy(block)
                kept += len(block)
        self.digest = used.digest()
        self.keys: RecordedKeys | None = None
        if used.actions is not None:
            self.keys = RecordedKeys(torch.from_numpy(used.actions), self.training, source.stride, used.names)
        self._starts: dict[tuple[int, bool], Tensor] = {}

    def clip_starts(self, length: int, *, held_out: bool) -> Tensor:
        """File rows at which a clip of ``length`` frames may begin, long [N] on the CPU."""
        key = length, held_out
        if key not in self._starts:
            found = episodes.clip_starts(
                self.numbers,
                self.held_out,
                length=length,
                stride=self.source.stride,
                preload_ratio=self.source.preload_ratio,
                for_evaluation=held_out,
            )
            self._starts[key] = torch.from_numpy(found)
        return self._starts[key]

    def clips(self, starts: Tensor, length: int) -> Tensor:
        """The clips that begin at file rows ``starts`` [B]: uint8 [B, T, H, W, 3]. The host does not wait."""
        offsets = torch.arange(length) * self.source.stride
        rows = (starts[:, None] + offsets).to(self.device, non_blocking=True)
        return self.frames[self.place[rows]]

    def held_out_clips(self, length: int, count: int, seed: int, share: float | None = None) -> Tensor:
        """Starts of ``count`` distinct held-out clips, spread over the held-out rows; fewer if there are fewer.

        ``share`` limits them to the first of those rows.
        """
        starts = torch.from_numpy(episodes.first_share(self.clip_starts(length, held_out=True).numpy(), share))
        edges = torch.linspace(0, len(starts), min(count, len(starts)) + 1).long()
        random = generator(seed, "held out")
        picked = [int(torch.randint(low, high, (), generator=random)) for low, high in edges.unfold(0, 2, 1).tolist()]
        return starts[picked]

    def evaluation_starts(self, config: InferenceConfig, count: int) -> Tensor:
        """Where the ``count`` held-out clips begin that inference is judged on."""
        return self.held_out_clips(config.frames, count, config.seed, config.preload_ratio)

    def evaluation_clips(self, config: InferenceConfig, count: int) -> Tensor:
        """The ``count`` held-out clips that inference is judged on, [B, F, C, H, W] in [-1, 1]."""
        return to_model(self.clips(self.evaluation_starts(config, count), config.frames))

    def keys_between(self, starts: Tensor, length: int) -> Tensor | None:
        """The recorded keys between the frames of the clips that begin at file rows ``starts`` [B].

        Returns:
            Places in ``keys.values``, long [B, length - 1] on the CPU; None where nothing is recorded.
        """
        return None if self.keys is None else self.keys.clip(starts, length)

    def mean_training_frame(self) -> Tensor:
        """Mean over all training frames, [C, H, W] in [0, 1]."""
        rows = self.training.nonzero().flatten()
        total = torch.zeros(self.frames.shape[1:], dtype=torch.float64, device=self.device)
        for block in torch.split(rows.to(self.device), SUM_ROWS):
            total += self.frames[self.place[block]].sum(0, dtype=torch.int32)
        return (total / len(rows) / 255).float().permute(2, 0, 1)


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream is a pure function of ``key``."""
    digest = hashlib.blake2b(repr(tuple(map(str, key))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_batch(clips: int, batch_size: int, random: torch.Generator) -> Tensor:
    """``batch_size`` numbers below ``clips``, uniformly and with replacement: long [B] on the CPU."""
    return torch.randint(clips, (batch_size,), generator=random)


def to_model(clips: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] to float [B, T, C, H, W] in [-1, 1]."""
    return clips.permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def to_unit(frames: Tensor) -> Tensor:
    """Model frames in [-1, 1] to pixels in [0, 1], clamped."""
    return ((frames + 1) / 2).clamp(0, 1)


def to_pixels(frames: Tensor) -> NDArray[np.uint8]:
    """Model frames [..., C, H, W] in [-1, 1] as people see them, on the host: uint8 [..., H, W, C]."""
    found: NDArray[np.uint8] = (to_unit(frames.float()) * 255).round().byte().movedim(-3, -1).cpu().numpy()
    return found
