"""TensorBoard: an item is an event in a file of the run root, so that the file itself says how many it has.

What is told of a step for another time, as in a repeated chunk, goes into a run of its own beside the first, under the
same tags: TensorBoard draws it over the first in another colour, and no tag has a step twice.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.summary.writer.record_writer import RecordWriter

from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable
from tiw_fsm.tracking.images import moving_gif, still_png
from tiw_fsm.tracking.items import Item
from tiw_fsm.tracking.tracker import Shown, Tracker

HEADER, FOOTER = 12, 4
"""Bytes of a record before and after its content: length and checksum, and checksum."""
VERSION = Event(file_version="brain.Event:2")


class Feeder(Tracker):
    """Event files under the run root."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._files: dict[int, EventFile] = {}

    def add(self, item: Item) -> None:
        if item.repeat not in self._files:
            self._files[item.repeat] = EventFile(self._shown.paths.tensorboard(self._shown.run_id, item.repeat))
        file = self._files[item.repeat]
        if file.lacks_next():
            file.append(_event(item))

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class EventFile:
    """An event file that goes on where it stopped; half a record at its end, of a process that was killed, is cut off.

    Raises:
        DiskRefused: it cannot be used.
        StateDamaged: no plain file stands in its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        durable.make_folder(path.parent)
        durable.require_plain(path)
        with disk_errors("opening", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            self._file = open(descriptor, "r+b")  # noqa: SIM115 - as long as the tracker
            ends = list(_whole(self._file))
            self._file.truncate(ends[-1] if ends else 0)
            self._file.seek(0, os.SEEK_END)
        self._writer = RecordWriter(self._file)
        self._has = len(ends) - 1  # the first is the version of the format
        self._next = 0
        if not ends:
            self._has = 0
            self._write(VERSION)

    def lacks_next(self) -> bool:
        """Whether the next item is one that the file does not have."""
        self._next += 1
        return self._next > self._has

    def append(self, event: Event) -> None:
        """Put an event at the end. Raises DiskRefused."""
        self._has += 1
        self._write(event)

    def flush(self) -> None:
        """Bring to the disk what was appended. Raises DiskRefused."""
        with disk_errors("writing", self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Raises DiskRefused."""
        with disk_errors("writing", self._path):
            self._file.close()

    def _write(self, event: Event) -> None:
        with disk_errors("writing", self._path):
            self._writer.write(event.SerializeToString())


def _whole(file: BinaryIO) -> Iterator[int]:
    """Where each record ends that is there to its end, but for the last ones if they are not what was written."""
    size, position, begins = os.fstat(file.fileno()).st_size, 0, [0]
    while position + HEADER + FOOTER <= size:
        file.seek(position)
        (length,) = struct.unpack("<Q", file.read(8))
        position += HEADER + length + FOOTER
        if position > size:
            break
        begins.append(position)
    while len(begins) > 1 and not _is_written(file, begins[-2], begins[-1]):
        begins.pop()
    yield from begins[1:]


def _is_written(file: BinaryIO, begin: int, end: int) -> bool:
    """Whether a record has the checksums of its content."""
    file.seek(begin)
    record, anew = file.read(end - begin), io.BytesIO()
    RecordWriter(anew).write(record[HEADER:-FOOTER])
    return anew.getvalue() == record


def _event(item: Item) -> Event:
    values = []
    for name, value in item.values.items():
        tag = f"{item.group}/{name}"
        values.append(_text(tag, value) if isinstance(value, str) else Summary.Value(tag=tag, simple_value=value))
    if item.picture and (png := still_png(item.picture)):
        values.append(_image(f"{item.group}/picture", png))
    if item.picture and item.moves and (gif := moving_gif(item.picture)):
        values.append(_image(f"{item.group}/rollout", gif))
    return Event(wall_time=item.time, step=item.step, summary=Summary(value=values))


def _image(tag: str, encoded: bytes) -> Summary.Value:
    return Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=encoded))


def _text(tag: str, text: str) -> Summary.Value:
    plugin = SummaryMetadata.PluginData(plugin_name=text_plugin.PLUGIN_NAME, content=b"")
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
