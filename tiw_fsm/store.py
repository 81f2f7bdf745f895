"""The only writer of a run's state folder: durable replace, journal, lock.

A commit appends the journal line of the new generation and syncs it, keeps the old state as ``state.prev.json`` and
then replaces ``state.json``: the one commit point. A line carries the change it made as a JSON merge patch
(RFC 7396), so that folding the journal gives the state again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from tiw_fsm.errors import RunHeld, StateDamaged, disk_errors
from tiw_fsm.paths import StatePaths
from tiw_fsm.run_state import SCHEMA_VERSION, RunState

Json = dict[str, Any]
LOCK_PATIENCE = 0.2
"""Seconds a runner waits for the lock: a reader that looks whether a run is alive holds it for an instant."""


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Give ``path`` new content: afterwards it is whole and on disk, before it is the old one; never in between.

    Raises:
        DiskRefused: the operating system refused; ``path`` is unchanged.
    """
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors("writing", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def append_durably(path: Path, content: bytes, *, at: int | None = None) -> int:
    """Append to ``path``, first cutting off what lies beyond ``at``, and sync. Returns the new length.

    Raises:
        DiskRefused: the operating system refused.
        StateDamaged: the file is shorter than ``at``.
    """
    with disk_errors("appending to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        created = not path.exists()
        if at and (created or path.stat().st_size < at):
            raise StateDamaged(
                f"{path} is shorter than the {at} bytes the state vouches for. Nothing was overwritten: "
                "put it back from a backup, or begin anew with another --run."
            )
        with open(path, "ab") as file:
            if at is not None:
                file.truncate(at)
                file.seek(0, os.SEEK_END)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            length = file.tell()
        if created:
            sync_folder(path.parent)
        return length


def merge_patch(old: Json, new: Json) -> Json:
    """The RFC 7396 patch that turns ``old`` into ``new``."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if below := merge_patch(before, value):
                patch[key] = below
        elif key not in old or before != value:
            patch[key] = value
    return patch


def apply_patch(document: Json, patch: Json) -> Json:
    """``document`` with an RFC 7396 patch applied."""
    result = dict(document)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = apply_patch(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return result


def _document(run: RunState) -> Json:
    return run.model_dump(mode="json", exclude_none=True)


def _checksum(document: Json) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Store:
    """The state folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.paths = StatePaths(folder)
        self._journal_end = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the runner of this run for the length of the block.

        Raises:
            RunHeld: another process is.
            DiskRefused: the state folder cannot be made.
        """
        with disk_errors("making", self.paths.folder):
            self.paths.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.paths.lock, timeout=LOCK_PATIENCE)
            try:
                lock.acquire(poll_interval=0.02)
            except Timeout as exc:
                raise RunHeld(
                    f"another process is running {self.paths.folder.name!r}; look with `tiw-fsm status`, "
                    "or name another run with --run"
                ) from exc
        try:
            yield
        finally:
            lock.release()

    def alive(self) -> bool:
        """Whether a runner holds this run now."""
        if not self.paths.lock.exists():
            return False
        lock = FileLock(self.paths.lock, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            return True
        lock.release()
        return False

    def load(self) -> RunState | None:
        """The newest state that can be trusted, or None when the run has never begun.

        Raises:
            StateDamaged: neither generation can be read, or a newer version wrote it.
        """
        found = [path for path in (self.paths.state, self.paths.previous) if path.exists()]
        damage = []
        for path in found:
            try:
                return self._read(path)
            except ValueError as exc:
                damage.append(f"{path}: {exc}")
        if not found:
            if self.paths.journal.exists() and self.paths.journal.stat().st_size:
                raise StateDamaged(
                    f"{self.paths.journal} has lines, but {self.paths.state.name} is gone. Put it back from a backup, "
                    "or begin anew with another --run."
                )
            return None
        raise StateDamaged(
            "\n".join(damage)
            + "\nNothing was overwritten. Put a backup back, or begin anew with another --run; the journal beside it "
            "tells what was done."
        )

    def _read(self, path: Path) -> RunState:
        with disk_errors("reading", path):
            content = path.read_bytes()
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        version = document.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise StateDamaged(
                f"{path} was written by a newer version of this tool (schema {version}, this one knows "
                f"{SCHEMA_VERSION}). Upgrade tiw_fsm, then run again; nothing was changed."
            )
        if document.pop("checksum", None) != _checksum(document):
            raise ValueError("its checksum does not match its content")
        try:
            return RunState.model_validate_json(json.dumps(document))
        except ValidationError as exc:
            raise ValueError(str(exc)) from exc

    def recover(self, run: RunState | None) -> None:
        """Prepare for commits after ``run``: journal lines of commits that never reached the state are cut off."""
        generation = run.generation if run else 0
        if self.paths.journal.exists():
            ends = (end for line, end in self._lines() if line["generation"] <= generation)
            self._journal_end = max(ends, default=0)
            append_durably(self.paths.journal, b"", at=self._journal_end)

    def commit(self, before: RunState | None, after: RunState, event: str, facts: Mapping[str, Any]) -> RunState:
        """Make ``after`` the run's state. ``before`` is the state last recovered or committed.

        Raises:
            DiskRefused: nothing was committed; the state on disk is ``before``.
        """
        after = after.but(generation=after.generation + 1, updated_at=now())
        old = _document(before) if before else {}
        new = _document(after)
        line = {
            "generation": after.generation,
            "time": after.updated_at,
            "event": event,
            "from": before.state if before else None,
            "to": after.state,
            "facts": dict(facts),
            "changes": merge_patch(old, new),
        }
        end = append_durably(self.paths.journal, json.dumps(line).encode() + b"\n", at=self._journal_end)
        if before:
            replace_durably(self.paths.previous, _serialized(old))
        replace_durably(self.paths.state, _serialized(new))
        self._journal_end = end
        return after

    def journal(self, up_to: int | None = None) -> list[Json]:
        """The lines of all generations up to ``up_to``, oldest first. A torn last line does not count."""
        if not self.paths.journal.exists():
            return []
        return [line for line, _ in self._lines() if up_to is None or line["generation"] <= up_to]

    def _lines(self) -> Iterator[tuple[Json, int]]:
        """Journal lines with the length of the file up to their end."""
        end = 0
        with disk_errors("reading", self.paths.journal), open(self.paths.journal, "rb") as file:
            for raw in file:
                end += len(raw)
                if not raw.endswith(b"\n"):
                    return
                try:
                    yield json.loads(raw), end
                except ValueError as exc:
                    raise StateDamaged(
                        f"{self.paths.journal}: the line that ends at byte {end} is not JSON; nothing was overwritten. "
                        "Put a backup back, or begin anew with another --run."
                    ) from exc

    def previous(self) -> RunState | None:
        """The generation before the newest, if it is readable."""
        try:
            return self._read(self.paths.previous) if self.paths.previous.exists() else None
        except ValueError:
            return None


def _serialized(document: Json) -> bytes:
    return json.dumps({**document, "checksum": _checksum(document)}, separators=(",", ":")).encode() + b"\n"


def fold(lines: list[Json]) -> Json:
    """The state document that journal ``lines`` add up to."""
    document: Json = {}
    for line in lines:
        document = apply_patch(document, line["changes"])
    return document
