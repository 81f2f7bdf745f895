"""The only writer of a run's state folder: commits, journal, lock.

A commit appends the journal line of the new generation and syncs it, keeps the old state as ``state.prev.json`` and
then replaces ``state.json``: the one commit point. A line carries the change it made as a JSON merge patch
(RFC 7396), so that folding the journal gives the state again; ``state.json`` names the journal's length and SHA-256,
so that neither can be damaged, or taken from another run, without being found out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import ValidationError

from tiw_fsm import durable
from tiw_fsm.errors import ExitCode, RunHeld, StateDamaged, disk_errors
from tiw_fsm.paths import StatePaths
from tiw_fsm.run_state import SCHEMA_VERSION, Mark, RunState

Json = dict[str, Any]
LOCK_PATIENCE = 0.2
"""Seconds a runner waits for the lock: a reader that looks whether a run is alive holds it for an instant."""
RECENT_BYTES = 1 << 16
"""Of the journal's end, for those who want to know what happened lately."""
WHAT_TO_DO = "Nothing was overwritten: put a backup back, or begin anew with another --run."


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


def document_of(run: RunState) -> Json:
    """A state as the journal's lines add up to it."""
    return run.model_dump(mode="json", exclude_none=True)


def _checksum(document: Json) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Generation(NamedTuple):
    """A state as it was read, and the journal it stands on."""

    run: RunState
    journal: Mark


class Store:
    """The state folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.paths = StatePaths(folder)
        self._journal = durable.Ledger(self.paths.journal)
        self._mark = Mark()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the runner of this run for the length of the block.

        Raises:
            RunHeld: another process is.
            DiskRefused: the state folder cannot be made.
            StateDamaged: a symbolic link stands in the lock's place.
        """
        durable.make_folder(self.paths.folder)
        durable.require_plain(self.paths.lock)
        with disk_errors("locking", self.paths.lock):
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
        """Whether a runner holds this run now.

        Raises:
            StateDamaged: no plain file stands in the lock's place.
        """
        durable.require_plain(self.paths.lock)
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
        """The newest state that can be read, or None when the run has never begun. For those who only look.

        Raises:
            StateDamaged: neither generation can be read, or a newer version wrote it.
        """
        damage = []
        for found in self.generations():
            if isinstance(found, Generation):
                return found.run
            damage.append(found)
        self._refuse_to_begin_anew(damage)
        return None

    def resume(self) -> tuple[RunState | None, list[str]]:
        """The state to go on from, and the damage that was passed over to find it.

        That is the newest generation whose part of the journal is whole.

        Raises:
            StateDamaged: neither generation can be trusted, or a newer version wrote it.
        """
        damage: list[str] = []
        for found in self.generations():
            problem = found if isinstance(found, str) else self._journal.problem(found.journal)
            if isinstance(found, Generation) and problem is None:
                self._mark = found.journal
                return found.run, damage
            damage.append(str(problem))
        self._refuse_to_begin_anew(damage)
        return None, []

    def generations(self) -> Iterator[Generation | str]:
        """The newest state and the one before it, if the run has begun; where one cannot be read, what is damaged.

        Raises:
            StateDamaged: a version of another schema wrote it, or a link stands in its place.
        """
        states = (self.paths.state, self.paths.previous)
        if any(path.exists() or path.is_symlink() for path in states):
            for path in states:
                try:
                    yield self._read(path)
                except ValueError as exc:
                    yield f"{path} is damaged: {exc}."

    def _refuse_to_begin_anew(self, damage: list[str]) -> None:
        """Raise StateDamaged where no state can be used, but there is damage, or the journal tells of commits."""
        durable.require_plain(self.paths.journal)
        if not damage and self.paths.journal.exists():
            with disk_errors("reading", self.paths.journal), open(self.paths.journal, "rb") as file:
                lines = [file.readline(1 << 20), file.readline(1)]
            if all(lines):  # one line alone is of a first commit that never came to be
                damage = [f"{self.paths.journal} has lines, but {self.paths.state.name} is gone."]
        if damage:
            raise StateDamaged("\n".join([*dict.fromkeys(damage), WHAT_TO_DO]))

    def _read(self, path: Path) -> Generation:
        try:
            document = json.loads(durable.read_small(path))
        except RecursionError as exc:
            raise ValueError("it is not a state") from exc
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
        document = migrated(document, path)
        if document.pop("checksum", None) != _checksum(document):
            raise ValueError("its checksum does not match its content")
        try:
            mark = Mark.model_validate(document.pop("journal", None))
            return Generation(RunState.model_validate_json(json.dumps(document)), mark)
        except ValidationError as exc:
            raise ValueError(str(exc)) from exc

    def commit(self, before: RunState | None, after: RunState, event: str, facts: Mapping[str, Any]) -> RunState:
        """Make ``after`` the run's state. ``before`` is the state last resumed from or committed.

        Raises:
            DiskRefused: the state on disk is ``before``, or whole and ``after``.
            StateDamaged: somebody else changed the journal.
        """
        after = after.but(generation=after.generation + 1, updated_at=now())
        old = document_of(before) if before else {}
        new = document_of(after)
        line = {
            "generation": after.generation,
            "time": after.updated_at,
            "event": event,
            "from": before.state if before else None,
            "to": after.state,
            "facts": dict(facts),
            "changes": merge_patch(old, new),
        }
        mark = self._journal.append(self._mark, json.dumps(line).encode() + b"\n")
        if before:
            durable.replace(self.paths.previous, _serialized(old, self._mark), named_later=True)
        durable.replace(self.paths.state, _serialized(new, mark))
        self._mark = mark
        return after

    def journal(self) -> list[Json]:
        """The lines that the newest readable state vouches for, oldest first.

        Raises:
            StateDamaged: a line is not JSON, or no plain file stands in the journal's place.
        """
        return self._lines(from_end=None)

    def recent(self) -> list[Json]:
        """The last of these lines, so few that reading them takes no longer however long the run."""
        return self._lines(from_end=RECENT_BYTES)

    def _lines(self, from_end: int | None) -> list[Json]:
        durable.require_plain(self.paths.journal)
        mark = self._mark
        if not mark.bytes:
            readable = (found.journal for found in self.generations() if isinstance(found, Generation))
            mark = next(readable, mark)
        if not mark.bytes or not self.paths.journal.exists():
            return []
        start = max(0, mark.bytes - from_end) if from_end else 0
        with disk_errors("reading", self.paths.journal), open(self.paths.journal, "rb") as file:
            file.seek(start)
            lines = file.read(mark.bytes - start).splitlines()[1 if start else 0 :]  # the first may be half of one
        try:
            return [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as exc:
            raise StateDamaged(f"{self.paths.journal} is damaged: not all its lines are JSON. {WHAT_TO_DO}") from exc

    def previous(self) -> RunState | None:
        """The generation before the newest, if it is readable."""
        try:
            return self._read(self.paths.previous).run
        except (ValueError, StateDamaged):
            return None

    def refuse(self, code: ExitCode, message: str) -> None:
        """Leave word for ``status`` that a start was refused, and why."""
        word = {"time": now(), "exit_code": int(code), "message": message}
        durable.replace(self.paths.refused, json.dumps(word).encode())

    def refused(self) -> Json | None:
        """The word a refused start left, if no start has succeeded since."""
        try:
            word = json.loads(durable.read_small(self.paths.refused))
        except (ValueError, RecursionError, StateDamaged):
            return None
        return word if isinstance(word, dict) else None

    def started(self) -> None:
        """A start has succeeded: what an earlier one was refused for holds no longer."""
        with disk_errors("removing", self.paths.refused):
            self.paths.refused.unlink(missing_ok=True)


def migrated(document: Json, path: Path) -> Json:
    """``document`` in today's schema: the one place where older ones are brought up to date.

    Raises:
        StateDamaged: a newer version wrote it, or one so old that it vouches for too little to go on from.
    """
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StateDamaged(
            f"{path} was written by a newer version of this tool (schema {version}, this one knows {SCHEMA_VERSION}). "
            "Upgrade tiw_fsm, then run again; nothing was changed."
        )
    if version == 1:
        raise StateDamaged(
            f"{path} was written before states named the hashes of journal and metrics (schema 1). End that run with "
            "the version that began it, or begin anew with another --run; nothing was changed."
        )
    return document


def _serialized(document: Json, journal: Mark) -> bytes:
    vouched = {**document, "journal": journal.model_dump()}
    return json.dumps({**vouched, "checksum": _checksum(vouched)}, separators=(",", ":")).encode() + b"\n"


def fold(lines: list[Json]) -> Json:
    """The state document that journal ``lines`` add up to."""
    document: Json = {}
    for line in lines:
        document = apply_patch(document, line["changes"])
    return document
