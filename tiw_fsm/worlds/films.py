"""Frames as a film or a moving picture."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
"""[H, W, 3]."""

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


def film(frames: Iterable[Picture]) -> bytes:
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


def moving_picture(frames: Iterable[Picture]) -> bytes:
    """``frames``, each [H, W, 3] and at least one, as an animated GIF that runs for ever."""
    pictures = (Image.fromarray(_enlarged(frame)).quantize() for frame in frames)
    content = io.BytesIO()
    next(pictures).save(content, "GIF", save_all=True, append_images=pictures, duration=1000 // PACE, loop=0)
    return content.getvalue()


def _enlarged(frame: Picture) -> Picture:
    factor = max(1, -(-LEAST_SIDE // min(frame.shape[:2])))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _even(frame: Picture) -> Picture:
    """With its last row and column doubled where their number is odd, which H.264's colours cannot have."""
    return np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
