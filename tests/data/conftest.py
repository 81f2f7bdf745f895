"""Recordings that several tests look at; not to be changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tiw_fsm.data import recording


class Seen(NamedTuple):
    """A recording, read."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    episode: NDArray[np.int64]
    names: list[str]

    @property
    def turns(self) -> NDArray[np.int64]:
        """Rows whose action leads to the next row."""
        return np.flatnonzero(self.episode[1:] == self.episode[:-1])


def seen(path: Path) -> Seen:
    with h5py.File(path) as file:
        names = list(map(str, file["actions"].attrs["names"]))
        return Seen(file["frames"][:], file["actions"][:], file["episode"][:], names)


@pytest.fixture(scope="session")
def planet(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    path = tmp_path_factory.mktemp("planet") / "frames.h5"
    recording.record(path, frames=8192, seed=5)
    return seen(path)


@pytest.fixture(scope="session")
def crafter(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    path = tmp_path_factory.mktemp("crafter") / "frames.h5"
    recording.record(path, game="crafter", frames=300, seed=1)
    return seen(path)
