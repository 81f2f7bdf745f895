"""A game as a file that a run can be trained on."""

from __future__ import annotations

import io

import h5py
import numpy as np

from tiw_fsm.play.world import Played


def episode(played: Played, names: list[str]) -> bytes:
    """A game as an HDF5 file such as runs are trained on: ``frames``, ``episode``, ``actions``, stride 1.

    Args:
        names: of the latent actions, by number.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["stride"] = 1
        file.create_dataset("frames", data=np.stack(played.frames), compression="gzip", compression_opts=1)
        file["episode"] = np.zeros(len(played.frames), np.int64)
        file["actions"] = np.array([*played.led[1:], -1], np.int64)  # the last row leads nowhere
        file["actions"].attrs["names"] = names
    return content.getvalue()
