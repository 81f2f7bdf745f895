"""A game as a file: a film, a moving picture, or an episode that a run can be trained on."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import cast

import h5py
import numpy as np
from PIL import Image

from tiw_fsm.play.world import Frames, Played

PACE = 10
"""Frames per second of films and moving pictures."""
LEAST_SIDE = 224
"""Small frames are enlarged by a whole factor to at least this many pixels: players enlarge them with a blur."""
CODECS = ("libx264", "libopenh264")
"""H.264, which every browser and phone plays, by whichever encoder PyAV was built with."""


def film_codec() -> str | None:
    """The encoder that films are made with; None if PyAV is not there or has none."""
    try:
        import av
    except ImportError:
        return None
    return next((name for name in CODECS if name in av.codecs_available), None)


def film(frames: Iterable[Frames]) -> bytes:
    """``frames``, each [H, W, 3], as an MP4 file with H.264.

    Raises:
        LookupError: PyAV has no encoder for it.
    """
    import av
    from av.video.stream import VideoStream

    if (codec := film_codec()) is None:
        raise LookupError("PyAV has no H.264 encoder here")
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=PACE))
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = _even(_enlarged(frame))
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def moving_picture(frames: Iterable[Frames]) -> bytes:
    """``frames``, each [H, W, 3] and at least one, as an animated GIF that runs for ever."""
    pictures = (Image.fromarray(_enlarged(frame)).quantize() for frame in frames)
    content = io.BytesIO()
    next(pictures).save(content, "GIF", save_all=True, append_images=pictures, duration=1000 // PACE, loop=0)
    return content.getvalue()


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


def _enlarged(frame: Frames) -> Frames:
    factor = max(1, -(-LEAST_SIDE // min(frame.shape[:2])))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _even(frame: Frames) -> Frames:
    """With its last row and column doubled where their number is odd, which H.264's colours cannot have."""
    return np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
