"""Sources made for tests, really: videos encoded by PyAV, arrays, pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
from numpy.typing import NDArray

from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options

Frames = NDArray[np.uint8]
CODECS = {
    **dict.fromkeys((".mp4", ".mkv", ".mov", ".ts"), "libx264"),
    ".webm": "libvpx",
    ".avi": "mpeg4",
    ".wmv": "wmv2",
    ".gif": "gif",
}


def numbered(count: int, height: int = 48, width: int = 64) -> Frames:
    """Frames that say by their grey which they are: 4 levels apart, from 0 on again after 60."""
    grey = (np.arange(count) % 60 * 4).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (count, height, width, 3)).copy()


def numbers(frames: Frames) -> list[int]:
    """Which of ``numbered`` frames these are, read from their middles."""
    middle = frames[:, frames.shape[1] // 2, frames.shape[2] // 2, 0]
    return [round(int(grey) / 4) for grey in middle]


def write_video(path: Path, frames: Iterable[Frames], rate: int = 30, **options: str) -> Path:
    with av.open(path, "w", options=options) as container:
        stream: Any = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        if path.suffix in (".mp4", ".mkv", ".mov"):
            stream.options = {"g": "10", "preset": "ultrafast", "bf": "2"}
        for frame in frames:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_timed(path: Path, times: Iterable[int], rate: int) -> Path:
    """A video of ``numbered`` frames, each shown from its time on: ticks of which ``rate`` are a second."""
    shown = list(times)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.options = {"bf": "0", "g": "10"} if CODECS[path.suffix] == "libx264" else {}
        for frame, pts in zip(numbered(len(shown)), shown, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


class Held:
    """A file that was made, read."""

    def __init__(self, path: Path) -> None:
        with h5py.File(path) as file:
            self.frames: Frames = file["frames"][:]
            self.episode = file["episode"][:] if "episode" in file else None
            self.actions = file["actions"][:] if "actions" in file else None
            self.names = [str(name) for name in file["actions"].attrs.get("names", ())] if "actions" in file else []
            self.attrs = dict(file.attrs)

    @property
    def lengths(self) -> list[int]:
        """Of the episodes, in rows."""
        assert self.episode is not None
        return np.bincount(self.episode).tolist()


def make(path: Path, *sources: Path | str, **options: Any) -> Held:
    """What the intake makes of sources, at ``path``."""
    making.make(path, [str(source) for source in sources], Options(**{"size": 16, **options}))
    return Held(path)
