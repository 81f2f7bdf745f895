"""All rows of a frame file read once: the proof that every one can be decoded, and the digest of those in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.data import frames, sources
from tiw_fsm.data.h5 import OF_H5PY, Undecodable, opened, reading
from tiw_fsm.errors import UsageProblem
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.tinyworlds.used_rows import UsedRows

Advance = Callable[[int, int], None]
"""Called with (rows read, rows in all)."""


class Digests(NamedTuple):
    """Which frames these are."""

    file: str
    """Of the bytes, as ``frames.sha256`` takes it."""
    content: str
    """Of the rows in use, as ``UsedRows`` takes it."""


def digests(
    source: DataSource, advance: Advance = lambda done, total: None, look: Callable[[], None] = lambda: None
) -> Digests:
    """Both digests of one and the same frames; reads all rows, in blocks.

    Args:
        look: called between two parts of the file's bytes; what it raises, or ``advance``, ends the reading.

    Raises:
        UsageProblem: a row cannot be decoded or was never stored, or the file changed meanwhile.
        DiskRefused: the operating system failed to read it.
    """
    path = Path(source.path)
    found = sources.of(path)
    if wrong := [*found.problems, *found.unwritten]:
        raise UsageProblem(wrong)
    both = Digests(frames.sha256(path, look), _content(source, advance))
    if frames.sha256(path, look) != both.file:
        raise UsageProblem(f"{path}: was written to while it was read; let its writer come to an end, then start again")
    return both


def _content(source: DataSource, advance: Advance) -> str:
    path, read = Path(source.path), 0
    with opened(path) as file:
        with reading(path):
            used = UsedRows(file, source)
        blocks = used.blocks(all_rows=True)
        while True:
            try:
                with reading(path):
                    read, _ = next(blocks, (len(used.rows), None))
            except Undecodable as exc:
                row = _first_bad_row(used, read)
                raise Undecodable(
                    f"{path}: row {row} cannot be decoded ({exc.__cause__}): the file is damaged from there on; copy "
                    f"or record it again, or keep the {row} rows before it"
                ) from exc
            advance(read, len(used.rows))
            if read == len(used.rows):
                return used.digest()


def _first_bad_row(used: UsedRows, begin: int) -> int:
    """Between ``begin`` and the end of the block that could not be read."""
    end = min(begin + used.block, len(used.rows))
    while end - begin > 1:
        middle = (begin + end) // 2
        try:
            used.rows[begin:middle]
        except OF_H5PY:
            end = middle
        else:
            begin = middle
    return begin
