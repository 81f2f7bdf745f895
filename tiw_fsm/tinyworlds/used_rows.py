"""The rows of a frame file that are trained and judged on, read in blocks, and the digest of them. No torch.

One definition for all who read: whoever loads the rows and whoever only proves that they can be read take the same
digest of the same bytes on their way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import h5py
import numpy as np
from numpy.typing import NDArray

from tiw_fsm.tinyworlds import episodes
from tiw_fsm.tinyworlds.config import DataSource

BLOCK = 32 << 20
"""Bytes of rows that are read at a time, about: whole chunks of the file, so that none is decoded twice."""
LARGEST_BLOCK = 8 * BLOCK
"""Bytes of rows up to which a chunk is read whole; of larger ones a part at a time, and decoded anew for each."""


class UsedRows:
    """What an open frame file holds for a run.

    Args:
        file: with ``frames`` (N, H, W, 3) uint8, and maybe ``episode`` (N) and ``actions`` (N).
        source: skip and training share.

    Raises:
        KeyError: there is no dataset ``frames``.
        OSError: the file cannot be read.
    """

    def __init__(self, file: h5py.File, source: DataSource) -> None:
        self.rows = file["frames"]
        if not isinstance(self.rows, h5py.Dataset) or self.rows.ndim == 0:
            raise KeyError("frames is no dataset of rows")
        count = len(self.rows)
        episode = file["episode"][:] if "episode" in file else None
        recorded = file["actions"] if "actions" in file else None  # noqa: SIM401 - get passes over a lost link
        self.actions: NDArray[np.int64] | None = None if recorded is None else recorded[:].astype(np.int64)
        self.names: list[str] = [] if recorded is None else list(map(str, recorded.attrs.get("names", ())))
        self.numbers, self.held_out = episodes.split_rows(count, episode, source.skip)
        self.wanted = self.numbers >= 0
        """Which of the file's rows are used, bool [N]."""
        if source.preload_ratio is not None:
            self.wanted &= self.held_out | (np.arange(count) < int(count * source.preload_ratio))
        self._digest = hashlib.sha256(json.dumps([self.rows.dtype.str, self.rows.shape, self.names]).encode())
        for label in (self.numbers, self.held_out, self.wanted, self.actions):
            self._digest.update(b"-" if label is None else label.data)

    @property
    def block(self) -> int:
        """Rows that are read at a time."""
        each = max(1, int(self.rows.dtype.itemsize * np.prod(self.rows.shape[1:])))
        some, most = max(1, BLOCK // each), max(1, LARGEST_BLOCK // each)
        chunk = int(self.rows.chunks[0]) if self.rows.chunks else 1
        return -(-some // chunk) * chunk if chunk <= most else most

    def blocks(self, *, all_rows: bool = False) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The used rows in their order, a block at a time, and how many rows of the file lie behind that.

        What is yielded is what the digest covers. With ``all_rows`` the others are read too, and left.

        Raises:
            OSError: a row cannot be decoded.
        """
        for begin in range(0, len(self.rows), self.block):
            end = min(begin + self.block, len(self.rows))
            chosen = self.wanted[begin:end]
            if not all_rows and not chosen.any():
                continue
            read = self.rows[begin:end]
            used = np.ascontiguousarray(read if chosen.all() else read[chosen])
            self._digest.update(used.reshape(-1).data)  # hashlib takes one dimension
            yield end, used

    def digest(self) -> str:
        """Digest of the rows that ``blocks`` yielded, and of all that says what they are."""
        return self._digest.hexdigest()
