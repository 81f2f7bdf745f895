"""A file that only grows, of which somebody vouches for the beginning."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from tiw_fsm.errors import StateDamaged, disk_errors
from tiw_fsm.system.durable import is_there, make_folder, open_there, require_plain, sync
from tiw_fsm.values.plain import LogPosition


class AppendLog:
    """A file that only grows, of which the state vouches for the beginning: so many bytes, with this SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = LogPosition()
        self._hash = hashlib.sha256()
        self._is_named = False

    def append(self, position: LogPosition, content: bytes) -> LogPosition:
        """Put ``content`` behind ``position``, cutting off what lies there, and sync; returns the new position.

        Raises:
            DiskRefused: the operating system refused.
            StateDamaged: the file does not begin with what ``position`` vouches for.
        """
        self.verify(position)
        grown = self._hash.copy()
        grown.update(content)
        make_folder(self.path.parent)
        with disk_errors("appending to", self.path):
            descriptor = open_there(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            with open(descriptor, "r+b") as file:
                file.truncate(position.bytes)
                file.seek(position.bytes)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            if not self._is_named:
                sync(self.path.parent)
                self._is_named = True
        self._known, self._hash = LogPosition(bytes=position.bytes + len(content), sha256=grown.hexdigest()), grown
        return self._known

    def verify(self, position: LogPosition) -> None:
        """Make sure that the file begins with what ``position`` vouches for.

        Raises:
            DiskRefused: it cannot be read.
            StateDamaged: it does not, or no plain file stands in its place.
        """
        if problem := self.problem(position):
            raise StateDamaged(
                f"{problem} Nothing was overwritten: put it back from a backup, or begin anew with another --run."
            )

    def problem(self, position: LogPosition) -> str | None:
        """Why the file does not begin with what ``position`` vouches for; None if it does.

        Raises:
            DiskRefused: it cannot be read.
            StateDamaged: no plain file stands in its place.
        """
        require_plain(self.path)
        if position == self._known:
            return None
        # What was vouched for before is not read again, as long as what is vouched for now goes on from there.
        for known, begun in ((self._known, self._hash), (LogPosition(), hashlib.sha256())):
            if known.bytes <= position.bytes:
                reached = self._read_on(known, begun, position)
                if self._known == position:
                    return None
        if reached < position.bytes:
            gone = f"of the {position.bytes} bytes the state vouches for, the last {position.bytes - reached} are gone"
            return f"{self.path} is damaged: {gone}."
        return f"{self.path} is damaged: its first {position.bytes} bytes are not those the state vouches for."

    def _read_on(self, known: LogPosition, begun: hashlib._Hash, position: LogPosition) -> int:
        """Hash on from ``known`` to ``position``, which is known then if its hash comes out; the byte that was reached.

        Raises:
            DiskRefused: the file cannot be read.
        """
        found, reached = begun.copy(), known.bytes
        with disk_errors("reading", self.path):
            if position.bytes and is_there(self.path):
                with open(self.path, "rb") as file:
                    file.seek(known.bytes)
                    while reached < position.bytes and (block := file.read(min(position.bytes - reached, 1 << 20))):
                        found.update(block)
                        reached += len(block)
        if found.hexdigest() == position.sha256:
            self._known, self._hash = position, found
        return reached

    def read(self, start: LogPosition, end: LogPosition) -> bytes:
        """What lies between two marks.

        Raises:
            DiskRefused, StateDamaged: as ``verify``.
        """
        return b"".join(self.lines(start, end))

    def lines(self, start: LogPosition, end: LogPosition) -> Iterator[bytes]:
        """The lines between two marks, one at a time: a file that only grows may not fit into memory.

        Raises:
            DiskRefused, StateDamaged: as ``verify``.
        """
        self.verify(end)
        return self._between(start.bytes, end.bytes)

    def _between(self, start: int, end: int) -> Iterator[bytes]:
        if start == end:
            return
        with disk_errors("reading", self.path), open(self.path, "rb") as file:
            file.seek(start)
            while start < end and (line := file.readline(end - start)):
                start += len(line)
                yield line
