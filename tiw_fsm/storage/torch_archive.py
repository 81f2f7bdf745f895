"""The archive that ``torch.save`` writes: a zip of one pickle that describes objects, and of one record per storage."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiw_fsm.errors import ExitCode, TiwFsmError
from tiw_fsm.values.printable import excerpt

_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

# What damaged bytes make zipfile, pickletools and the machine raise; none of it is an error of this program.
_DAMAGE = (
    OSError, EOFError, zipfile.BadZipFile, struct.error, ValueError, LookupError, TypeError, AttributeError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


class UnreadableFile(TiwFsmError):
    """A file that cannot be read as what it should be; the message names it and says why."""

    exit_code = ExitCode.USAGE


@contextmanager
def damage_as(path: Path, reason: str) -> Iterator[None]:
    """Translate what damaged bytes make libraries raise into UnreadableFile with a plain ``reason``."""
    try:
        yield
    except _DAMAGE as exc:
        detail = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UnreadableFile(f"{path} {reason} ({excerpt(detail or type(exc).__name__)}).") from exc


BLOCK = 1 << 20
"""Bytes of a record that are looked at together: whole numbers, of whatever type."""
MOST_UNSTORED = 1 << 28
"""Bytes that a file may claim beyond what the disk keeps of it, which a disk that compresses may be right about."""
MOST_HOLES = 64
"""How many times larger than what the disk keeps of it may be what a file claims beyond that."""


def refuse_holes(path: Path) -> None:
    """Raise UnreadableFile if reading ``path`` would take far longer than what is stored of it: the rest is holes."""
    with damage_as(path, "cannot be read"):
        status = path.stat()
    stored = status.st_blocks * 512
    if stored and status.st_size > max(MOST_UNSTORED, MOST_HOLES * stored):
        raise UnreadableFile(
            f"{path} claims {status.st_size:,} bytes, of which {stored:,} are on the disk: it has holes, which no "
            "checkpoint has."
        )


class Archive:
    """The zip that torch.save wrote, held open as long as a tensor of it may be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finite: dict[str, bool] = {}
        """What is known of records: whether all their numbers are."""
        self.types: dict[str, str] = {}
        """As which dtype a record was first viewed; torch views none as two."""
        refuse_holes(path)
        with damage_as(path, "cannot be read"), path.open("rb") as file:
            if file.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC:
                raise UnreadableFile(f"{path} has torch's format from before 1.6: save it anew with torch.")
        with damage_as(path, "is no complete zip archive: it was cut short, or torch.save did not write it"):
            self._zip = zipfile.ZipFile(path)
        self._refuse_tricks()
        names = self._zip.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnreadableFile(f"{path} is a zip archive without the data.pkl that torch.save writes.")
        self._root = pickles[0].removesuffix("/data.pkl")
        order = self.read("byteorder") if f"{self._root}/byteorder" in names else b"little"
        self.byte_order = ">" if order == b"big" else "<"

    def _refuse_tricks(self) -> None:
        names = [name.lower() for name in self._zip.namelist()]
        if len(set(names)) < len(names):  # torch and zipfile might each take another one
            raise UnreadableFile(f"{self.path} holds two records of one name, which torch.save never writes.")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in self._zip.infolist()):  # no zip bombs
            raise UnreadableFile(f"{self.path} is compressed, which torch.save never does: save it anew.")
        sizes = [(entry.file_size, entry.compress_size) for entry in self._zip.infolist()]
        if any(size != stored for size, stored in sizes) or sum(map(max, sizes)) > self.path.stat().st_size:
            raise UnreadableFile(f"{self.path} has records that claim more than the file holds, or that overlap.")

    def size(self, record: str) -> int:
        return self._zip.getinfo(f"{self._root}/{record}").file_size

    def read(self, record: str) -> bytes:
        """The bytes of ``record``, whose checksum zipfile has compared.

        Raises:
            UnreadableFile: missing, cut short or altered.
        """
        with damage_as(self.path, f"is damaged at its record {record}"):
            return self._zip.read(f"{self._root}/{record}")

    def blocks(self, record: str) -> Iterator[bytes]:
        """The same, a part at a time. The last comes only if the checksum is right.

        Raises:
            UnreadableFile: missing, cut short or altered.
        """
        reason = f"is damaged at its record {record}"
        with damage_as(self.path, reason), self._zip.open(f"{self._root}/{record}") as file:
            while block := file.read(BLOCK):
                yield block
