"""The state folder of a run, for those who look: its state as JSON, the lines of its journal, whether it is alive.

Here is decided which generation can be read, and what is damaged; ``store.py`` builds on it and is the only one that
writes. Nothing here imports pydantic, which takes longer than all else that ``tiw-fsm status`` does.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from tiw_fsm.errors import DiskRefused, StateDamaged, disk_errors
from tiw_fsm.fsm.states import SCHEMA_VERSION
from tiw_fsm.storage import places, secrets
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.system import append_log, durable, locking
from tiw_fsm.values.plain import JsonObject, LogPosition

Found = TypeVar("Found")
RECENT_BYTES = 1 << 16
"""Of the journal's end, for those who want to know what happened lately."""
WHAT_TO_DO = "Nothing was overwritten: put a backup back, or begin anew with another --run."


class Document(NamedTuple):
    """A state, and the journal it stands on. What is null in a state is left out of it.

    Attributes:
        state: in today's schema, its paths absolute.
        stored: as it stands in its file.
    """

    state: JsonObject
    journal: LogPosition
    stored: JsonObject


NOTHING = Document({}, LogPosition(), {})
"""Of a run that has not begun."""


class Vouching(Protocol):
    """A state that vouches for a journal."""

    @property
    def journal(self) -> LogPosition: ...

    @property
    def stored(self) -> JsonObject: ...


class StateFolder:
    """The state folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.paths = StatePaths(folder)
        self._journal = append_log.AppendLog(self.paths.journal)

    def alive(self) -> bool:
        """Whether a runner holds this run now.

        Raises:
            DiskRefused, StateDamaged: as ``locking.is_held``.
        """
        return locking.is_held(self.paths.lock)

    def document(self) -> Document | None:
        """The newest state that can be read, or None when the run has never begun.

        Raises:
            StateDamaged: neither generation can be read, or a newer version wrote it.
        """
        return self.told()[0]

    def told(self) -> tuple[Document | None, list[str]]:
        """As ``document``, and the damage that was passed over to find it.

        Raises:
            StateDamaged: as ``document``.
        """
        return self._newest(self._generations(read))

    def journal(self) -> list[JsonObject]:
        """The lines that the newest readable state vouches for, oldest first.

        Raises:
            StateDamaged: as ``lines``.
        """
        return list(self.lines())

    def lines(
        self, found: Vouching | None = None, start: LogPosition | None = None, last: int | None = None
    ) -> Iterator[JsonObject]:
        """Lines of the journal, oldest first, one at a time: those of a long run need not fit into memory.

        Args:
            found: up to what this state vouches for; the newest readable one by default.
            start: from a line's beginning on that an earlier state vouched for.
            last: only so many, the last ones.

        Raises:
            StateDamaged: they are not what was written there, or no plain file stands in the journal's place.
        """
        found = found or next((each for each in self._generations(read) if isinstance(each, Document)), NOTHING)
        root = places.root_of(found.stored, self.paths.folder)
        lines = self.stored_lines(found, start, last)
        return (places.absolute(line, root) for line in lines) if root else lines

    def stored_lines(
        self, found: Vouching, start: LogPosition | None = None, last: int | None = None
    ) -> Iterator[JsonObject]:
        """As ``lines``, as they stand in the file: with paths that are relative to the working root."""
        raw = self._journal.lines(start or LogPosition(), found.journal)
        return map(self._parsed, raw if last is None else deque(raw, maxlen=last))

    def recent(self, newest: Document) -> list[JsonObject]:
        """The last lines of the journal of the ``newest`` state, so few that it takes no longer however long the run.

        Raises:
            StateDamaged: a line is not JSON, or no plain file stands in the journal's place.
        """
        position, start = newest.journal, max(0, newest.journal.bytes - RECENT_BYTES)
        durable.require_plain(self.paths.journal)
        if not position.bytes or not durable.is_there(self.paths.journal):
            return []
        with disk_errors("reading", self.paths.journal), open(self.paths.journal, "rb") as file:
            file.seek(start)
            lines = file.read(position.bytes - start).splitlines()[1 if start else 0 :]  # the first may be half of one
        root = places.root_of(newest.stored, self.paths.folder)
        found = [self._parsed(line) for line in lines]
        return [places.absolute(line, root) for line in found] if root else found

    def refused(self) -> JsonObject | None:
        """The word a refused start left, if no start has succeeded since: its time, exit code and message."""
        try:
            word = json.loads(durable.read_small(self.paths.refused))
        except (ValueError, RecursionError, StateDamaged):
            return None
        match word:
            case {"time": str(time), "exit_code": int(code), "message": str(message)}:
                return {"time": time, "exit_code": code, "message": message}
        return None

    def trackers(self) -> dict[str, JsonObject]:
        """What the processes that feed trackers have said of them last, by the trackers' names."""
        found = {}
        for path in sorted(self.paths.trackers.glob("*/")):
            with suppress(ValueError, RecursionError, StateDamaged, DiskRefused):
                match json.loads(durable.read_small(self.paths.tracker_status(path.name))):
                    case {"time": str(), "generation": int(), "items": int(), "reason": str() | None} as said:
                        found[path.name] = said
        return found

    def _generations(self, reading: Callable[[Path], Found]) -> Iterator[Found | str]:
        """The newest state and the one before it, if the run has begun; where one cannot be read, what is damaged."""
        states = (self.paths.state, self.paths.previous)
        if any(map(durable.is_there, states)):
            for path in states:
                try:
                    yield reading(path)
                except ValueError as exc:
                    yield f"{path} is damaged: {exc}."

    def _newest(self, generations: Iterator[Found | str]) -> tuple[Found | None, list[str]]:
        damage: list[str] = []
        for found in generations:
            if not isinstance(found, str):
                return found, damage
            damage.append(found)
        self._refuse_to_begin_anew(damage)
        return None, []

    def _refuse_to_begin_anew(self, damage: list[str]) -> None:
        """Raise StateDamaged where no state can be used, but there is damage, or the journal tells of commits."""
        durable.require_plain(self.paths.journal)
        if not damage and durable.is_there(self.paths.journal):
            with disk_errors("reading", self.paths.journal), open(self.paths.journal, "rb") as file:
                lines = [file.readline(1 << 20), file.readline(1)]
            if all(lines):  # one line alone is of a first commit that never came to be
                damage = [f"{self.paths.journal} has lines, but {self.paths.state.name} is gone."]
        if damage:
            raise StateDamaged("\n".join([*dict.fromkeys(damage), WHAT_TO_DO]))

    def _parsed(self, line: bytes) -> JsonObject:
        try:
            parsed: JsonObject = json.loads(line)
            parsed["changes"] = secrets.hidden(parsed["changes"])
        except (ValueError, RecursionError) as exc:
            raise StateDamaged(f"{self.paths.journal} is damaged: not all its lines are JSON. {WHAT_TO_DO}") from exc
        return parsed


def folders_in(state_dir: Path) -> list[str]:
    """The folders in one where runs keep their state, by name; it need not be there.

    Raises:
        DiskRefused: it cannot be read.
    """
    with disk_errors("reading", state_dir):
        return sorted(path.name for path in state_dir.iterdir() if path.is_dir()) if state_dir.is_dir() else []


def runs_in(state_dir: Path) -> list[str]:
    """Those of them that have a state.

    Raises:
        DiskRefused: as ``folders_in``.
    """
    return [name for name in folders_in(state_dir) if durable.is_there(StatePaths(state_dir / name).state)]


def read(path: Path) -> Document:
    """A state file.

    Raises:
        ValueError: it is not what was written there.
        StateDamaged: a version of another schema wrote it, or a link stands in its place.
    """
    try:
        document = json.loads(durable.read_small(path))
    except RecursionError as exc:
        raise ValueError("it is not a state") from exc
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    _refuse_other_schemas(document, path)
    if document.pop("checksum", None) != _checksum(document):
        raise ValueError("its checksum does not match its content")
    document = secrets.hidden(document)
    match document.pop("journal", None):
        case {"bytes": int(length), "sha256": str(sha256)} if length >= 0:
            return Document(migrated(document, path), LogPosition(length, sha256), document)
    raise ValueError("it does not say on which journal it stands")


def written(state: JsonObject, journal: LogPosition) -> bytes:
    """The content of a state file, from which ``read`` makes the same again."""
    vouched = {**state, "journal": vars(journal)}
    return json.dumps({**vouched, "checksum": _checksum(vouched)}, separators=(",", ":")).encode() + b"\n"


def _checksum(document: JsonObject) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def migrated(stored: JsonObject, path: Path) -> JsonObject:
    """A state as it stands in the file ``path``, in today's schema and with absolute paths: the one place where older
    ones are brought up to date. Those of schema 2 name no root, and have absolute paths throughout."""
    root = places.root_of(stored, path.parent)
    state = {**places.absolute(stored, root), "root": str(root)} if root else stored
    return {**state, "schema_version": SCHEMA_VERSION}


def _refuse_other_schemas(document: JsonObject, path: Path) -> None:
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
