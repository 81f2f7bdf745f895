"""Frames of a video, decoded by PyAV as they are wanted."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiw_fsm.data.intake.images import OVER_BLACK, over_black
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import Shot, Source
from tiw_fsm.errors import UsageProblem, disk_errors

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".webm", ".mkv", ".gif", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".apng")
LOST_SECONDS, LOST_OF_SHORT, LOST_OF_LONG = 0.5, 0.1, 0.01
"""By how many seconds a video may end before it says, and by which shares of its length: clocks and lengths are
rounded. Of a short one half a second is a part that is missed."""
TELL_THEIR_END = "matroska,webm", "asf"
"""Formats that say when a video ends on its clock, not how long it is."""
GIF_END = b";"
NEAR = 1 / 16
"""Rates that differ by no more than this share are one: what is said of them is rounded."""


def open_video(name: str, options: Options) -> Source:
    """The frames of a video file between ``start`` and ``end``, one episode.

    Raises:
        UsageProblem: it is no video, has no frames, or PyAV is not installed.
        DiskRefused: it cannot be read.
    """
    path = Path(name)
    with _opened(path) as container:
        stream = _stream(container, path)
        length = _length(container, stream, path)
        notes = _notes(container, stream)
        rates = _rates(container, stream)
    if options.fps and rates and options.fps > max(rates) * (1 + NEAR):
        raise UsageProblem(f"{path}: has {max(rates):g} frames per second; give --fps {max(rates):g} or less")
    if length is not None and options.start >= length:
        raise UsageProblem(f"{path}: is {length:.1f} s long; --start has to lie before its end")
    end = min((x for x in (options.end, length) if x is not None), default=None)
    expected = round((end - options.start) * rates[0]) if rates and end is not None else None
    shots = _shots(path, options.start, options.end, length)
    return Source(path.name, shots, expected, rates[0] if rates else None, notes=notes)


def _shots(path: Path, start: float, end: float | None, length: float | None) -> Iterator[Shot]:
    with _opened(path) as container:
        stream = _stream(container, path)
        origin = _origin(stream)
        if start:
            _seek(container, stream, start)
        reached, last, number, broken = 0.0, 0.0, 0, None
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
            except _damages() as exc:
                frame, broken = None, _reason(exc)
            if frame is None:
                break
            seconds = number / _rate(stream) if frame.time is None else frame.time - origin
            number += 1
            if end is not None and seconds >= end:
                return
            duration = _duration(frame, stream)
            last = max(duration, seconds - reached)  # it may stay as long as the one before it
            reached = seconds + duration
            if seconds >= start:
                yield Shot(_picture(frame), seconds=seconds)
    wanted = min((x for x in (end, length) if x is not None), default=reached)
    whole = reached >= wanted - max(min(LOST_SECONDS, LOST_OF_SHORT * wanted), LOST_OF_LONG * wanted, last)
    if not whole or (broken and end is None):
        raise UsageProblem(_cut_short(path, reached, length, broken or "nothing follows"))
    if number == 0:
        raise UsageProblem(f"{path}: has a video stream without frames; make or download it again")


def _cut_short(path: Path, reached: float, length: float | None, reason: str) -> str:
    of = f" of {length:.1f} s" if length else ""
    whole = int(reached * 10) / 10
    keep = f", or take what is there with --end {whole:.1f}" if whole else ""
    return f"{path}: ends after {reached:.1f} s{of} ({reason}); it was cut short: copy or download it again{keep}"


def _opened(path: Path) -> InputContainer:
    import av

    with disk_errors("reading", path), open(path, "rb"):
        pass  # PyAV's own error for a file that may not be read is an OSError as well, with another text
    try:
        return av.open(path, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as exc:
        raise UsageProblem(
            f"{path}: cannot be opened as a video ({_reason(exc)}); it may be cut short, or no video: copy or download "
            "it again, or convert it with ffmpeg"
        ) from exc


def _stream(container: InputContainer, path: Path) -> VideoStream:
    if not container.streams.video:
        raise UsageProblem(f"{path}: has no video stream; give a file that has one")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _length(container: InputContainer, stream: VideoStream, path: Path) -> float | None:
    """Seconds of the video as its file has them; None where it does not say.

    Raises:
        UsageProblem: it is a GIF whose end is missing, which says nothing else of its length.
    """
    if container.format.name == "gif":
        with open(path, "rb") as file:
            file.seek(-1, 2)
            if file.read() != GIF_END:
                raise UsageProblem(f"{path}: its end is missing; it was cut short: copy or download it again")
    if container.format.name == "avi" and stream.frames:  # its duration is made of the file's size
        return stream.frames / _rate(stream)
    length: float | None = None
    if stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
    elif tag := stream.metadata.get("DURATION"):  # Matroska's, of each stream
        hours, minutes, seconds = tag.split(":")
        length = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    elif container.duration and len(container.streams) == 1:
        length = container.duration / 1e6
    if length is not None and container.format.name in TELL_THEIR_END:
        return max(0.0, length - _origin(stream)) or None
    return length


def _origin(stream: VideoStream) -> float:
    """Seconds on the file's clock at which the video begins."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _rates(container: InputContainer, stream: VideoStream) -> list[float]:
    """Frames per second, the average first. Reads the file to its end where that does not count its frames.

    What such a file says of its rate is what it was meant to be; its frames may stay for other times.
    """
    said = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    if (stream.frames and container.format.name != "avi") or not stream.time_base:  # AVI counts empty ones as well
        return said
    times = array("q")
    with suppress(*_damages()):  # of which decoding tells
        shown = (packet.dts if packet.pts is None else packet.pts for packet in container.demux(stream) if packet.size)
        times.extend(time for time in shown if time is not None)
    span = float((max(times) - min(times)) * stream.time_base) if times else 0
    measured = float(f"{(len(times) - 1) / span:.4g}") if span else 0  # clocks count in milliseconds
    agrees = not measured or (said and abs(measured / said[0] - 1) <= NEAR)
    return said if agrees else [measured, *said]


def _seek(container: InputContainer, stream: VideoStream, start: float) -> None:
    """To the last key frame before ``start``, where the format can."""
    import av

    if stream.time_base is None:
        return
    try:
        container.seek(int(start / stream.time_base) + (stream.start_time or 0), stream=stream)
    except av.error.FFmpegError:
        container.seek(0)


def _damages() -> tuple[type[Exception], ...]:
    import av

    return av.error.FFmpegError, ValueError


def _duration(frame: VideoFrame, stream: VideoStream) -> float:
    """Seconds that a frame stays."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1 / _rate(stream)


def _rate(stream: VideoStream) -> float:
    """Frames per second; what is left where nobody says is films' own."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def _notes(container: InputContainer, stream: VideoStream) -> tuple[str, ...]:
    """What becomes of what is transparent; a GIF says of all of its pictures that they might be."""
    if container.format.name != "gif" and _is_clear(stream.codec_context.format):
        return (OVER_BLACK,)
    hidden = stream.metadata.get("alpha_mode") == "1"  # WebM's, in a stream beside the colours
    return ("what is transparent is shown as if it were not",) if hidden else ()


def _is_clear(format: VideoFormat | None) -> bool:
    return format is not None and any(component.is_alpha for component in format.components)


def _picture(frame: VideoFrame) -> Any:
    """RGB as it is to be seen, over black: a phone that was held upright says so in each frame."""
    if _is_clear(frame.format):
        colours: Any = frame.to_ndarray(format="rgba")
        picture = over_black(colours) if colours[..., 3].min() < 255 else colours[..., :3]
    else:
        picture = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
