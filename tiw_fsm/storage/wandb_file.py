"""Read the history of a W&B run from its ``run-<id>.wandb`` file, with no part of wandb.

The file is a header and a log of records in LevelDB's framing: blocks of 32 KiB, in them fragments of
checksum, length, type. A record is a protobuf message; those of its fields that hold history are the only ones read.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32768
FRAGMENT = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
HISTORY, ITEM, STEP = 2, 1, 2
"""Field numbers: history in a record; item and step in a history."""
KEY, NESTED_KEY, VALUE = 1, 2, 16
"""Field numbers within an item."""
_WIDTH = {1: 8, 5: 4}


class NotWandb(ValueError):
    """The file does not begin as W&B's do."""


def history(path: Path) -> list[dict[str, Any]]:
    """The rows logged, oldest first, by W&B's keys (a key within a key joined by a dot).

    What lies behind the first damaged record is not read: a process that was killed leaves a torn end.

    Raises:
        NotWandb: it is no such file.
        OSError: it cannot be read.
    """
    rows = []
    for record in _records(_content(path)):
        try:
            rows += [_row(value) for number, value in _fields(record) if number == HISTORY and isinstance(value, bytes)]
        except (ValueError, IndexError):
            break
    return rows


def steps(path: Path) -> Iterator[int]:
    """The steps of the rows logged, oldest first; as ``history``, but faster.

    Raises:
        NotWandb, OSError: as ``history``.
    """
    for record in _records(_content(path)):
        try:
            logged = [value for number, value in _fields(record) if number == HISTORY and isinstance(value, bytes)]
            yield from [_step(part) for row in logged for at, part in _fields(row) if at == STEP]
        except (ValueError, IndexError):
            return


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if content[: len(HEADER) - 1] != HEADER[:-1]:
        raise NotWandb(f"{path} is no W&B run file")
    return content


def _records(content: bytes) -> Iterator[bytes]:
    position = len(HEADER)
    parts: list[bytes] = []
    while position + FRAGMENT.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < FRAGMENT.size:  # a block's end too short for a fragment is padding
            position += left
            continue
        checksum, length, kind = FRAGMENT.unpack_from(content, position)
        position += FRAGMENT.size
        data = content[position : position + length]
        position += length
        if len(data) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            return
        parts = [data] if kind in (FULL, FIRST) else [*parts, data]
        if kind in (FULL, LAST):
            yield b"".join(parts)


def _row(message: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for number, value in _fields(message):
        if number == ITEM and isinstance(value, bytes):
            item = list(_fields(value))
            keys = [part.decode() for at, part in item if at in (KEY, NESTED_KEY) and isinstance(part, bytes) and part]
            texts = [part for at, part in item if at == VALUE and isinstance(part, bytes)]
            if keys and texts:
                row[".".join(keys)] = json.loads(texts[0])
        elif number == STEP:
            row.setdefault("_step", _step(value))
    return row


def _step(message: int | bytes) -> int:
    steps = (at for field, at in _fields(message) if field == 1) if isinstance(message, bytes) else iter(())
    return next((step for step in steps if isinstance(step, int)), 0)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(message, position)
        elif wire in _WIDTH:
            length = _WIDTH[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(message):
            raise ValueError("a field reaches beyond its message")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
