"""A file that only grows, of which somebody vouches for the beginning."""

from __future__ import annotations

import hashlib
import os
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
        found = hashlib.sha256()
        left = position.bytes
        with disk_errors("reading", self.path):
            if position.bytes and is_there(self.path):
                with open(self.path, "rb") as file:
                    while left and (block := file.read(min(left, 1 << 20))):
                        found.update(block)
                        left -= len(block)
        if left:
            gone = f"of the {position.bytes} bytes the state vouches for, the last {left} are gone"
            return f"{self.path} is damaged: {gone}."
        if found.hexdigest() != position.sha256:
            return f"{self.path} is damaged: its first {position.bytes} bytes are not those the state vouches for."
        self._known, self._hash = position, found
        return None

    def read(self, start: LogPosition, end: LogPosition) -> bytes:
        """What lies between two marks.

        Raises:
            DiskRefused, StateDamaged: as ``verify``.
        """
        self.verify(end)
        if start == end:
            return b""
        with disk_errors("reading", self.path), open(self.path, "rb") as file:
            file.seek(start.bytes)
            return file.read(end.bytes - start.bytes)
