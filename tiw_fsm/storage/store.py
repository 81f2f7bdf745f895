"""The only writer of a run's state folder: commits, journal, lock.

A commit appends the journal line of the new generation and syncs it, keeps the old state as ``state.prev.json`` and
then replaces ``state.json``: the one commit point. A line carries the change it made as a JSON merge patch
(RFC 7396), so that folding the journal gives the state again; ``state.json`` names the journal's length and SHA-256,
so that neither can be damaged, or taken from another run, without being found out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from tiw_fsm.config.settings import Settings
from tiw_fsm.errors import DiskRefused, ExitCode, NotPermitted, RunHeld, StateDamaged, UsageProblem, disk_errors
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.storage import places
from tiw_fsm.storage.state_folder import StateFolder, read, written
from tiw_fsm.system import durable, locking
from tiw_fsm.values.plain import JsonObject, LogPosition


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_patch(old: JsonObject, new: JsonObject) -> JsonObject:
    """The RFC 7396 patch that turns ``old`` into ``new``."""
    patch: JsonObject = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if below := merge_patch(before, value):
                patch[key] = below
        elif key not in old or before != value:
            patch[key] = value
    return patch


def apply_patch(document: JsonObject, patch: JsonObject) -> JsonObject:
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


def document_of(run: RunState) -> JsonObject:
    """A state as the journal's lines add up to it."""
    return run.model_dump(mode="json", exclude_none=True)


class Generation(NamedTuple):
    """A state as it was read, the journal it stands on, and how it stands in its file."""

    run: RunState
    journal: LogPosition
    stored: JsonObject


class Store(StateFolder):
    """The state folder of one run, for its runner and for those who want to know its state as values."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._position = LogPosition()
        self._stored: JsonObject = {}
        self._lock: locking.Lock | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the runner of this run for the length of the block. Of a run that was refused before it began nothing is
        left.

        Raises:
            RunHeld: another process is.
            LockLost: the lock is no longer what keeps others out; what was committed is whole.
            DiskRefused: the state folder, or the lock in it, cannot be made.
            StateDamaged: no plain file stands in the lock's place.
        """
        missing = [path for path in (self.paths.folder, *self.paths.folder.parents) if not path.exists()]
        durable.make_folder(self.paths.folder)
        with locking.held(self.paths.lock) as lock:
            if lock is None:
                raise RunHeld(
                    f"another process is running {self.paths.folder.name!r}; look with `tiw-fsm status`, "
                    "or name another run with --run"
                )
            self._lock = lock
            try:
                with durable.kept_to(self.paths.folder, lock.folder):
                    yield
            except UsageProblem:
                self._leave_nothing(missing)
                raise
            except DiskRefused as exc:
                lock.require()  # what is gone with its folder is no fault of the disk's
                if isinstance(exc, NotPermitted):
                    self._leave_nothing(missing)
                raise
            finally:
                self._lock = None

    def _leave_nothing(self, made: Sequence[Path]) -> None:
        """Remove what a start made that never became a run: its files, and the folders for them, the inner ones first.

        The lock goes last: whoever waits for it finds that it bears the name no more.
        """
        paths = self.paths
        if any(map(durable.is_there, (paths.state, paths.previous, paths.journal))):
            return
        with suppress(OSError):
            for path in (paths.child_log, paths.child_result, paths.log, paths.lock):
                path.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()

    def require_lock(self) -> None:
        """Make sure that nobody else can be the runner now: before anything is done that a state vouches for.

        Raises:
            LockLost: somebody can.
        """
        if self._lock is not None:
            self._lock.require()

    def load(self) -> RunState | None:
        """The newest state that can be read, or None when the run has never begun. For those who only look.

        Raises:
            StateDamaged: neither generation can be read, or a newer version wrote it.
        """
        found = self.newest()
        return found.run if found else None

    def newest(self) -> Generation | None:
        """As ``load``, with the journal that the state stands on."""
        return self._newest(self.generations())[0]

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
                self._position, self._stored = found.journal, found.stored
                return found.run, damage
            damage.append(str(problem))
        self._refuse_to_begin_anew(damage)
        return None, []

    def generations(self) -> Iterator[Generation | str]:
        """The newest state and the one before it, if the run has begun; where one cannot be read, what is damaged.

        Raises:
            StateDamaged: a version of another schema wrote it, or a link stands in its place.
        """
        return self._generations(generation)

    def commit(self, before: RunState | None, after: RunState, event: str, facts: Mapping[str, Any]) -> RunState:
        """Make ``after`` the run's state. ``before`` is the state last resumed from or committed.

        Raises:
            LockLost: another process may be the runner now; the state on disk is ``before``.
            DiskRefused: the state on disk is ``before``, or whole and ``after``.
            StateDamaged: somebody else changed the journal.
        """
        self.require_lock()
        after = after.evolve(generation=after.generation + 1, updated_at=now())
        old, new = self._stored, self._portable(after)
        line = {
            "generation": after.generation,
            "time": after.updated_at,
            "event": event,
            "from": before.state if before else None,
            "to": after.state,
            "facts": places.portable(dict(facts), Path(after.root)),
            "changes": merge_patch(old, new),
        }
        position = self._journal.append(self._position, json.dumps(line).encode() + b"\n")
        if before:
            durable.replace(self.paths.previous, written(old, self._position), named_later=True)
        durable.replace(self.paths.state, written(new, position))
        self._position, self._stored = position, new
        return after

    def _portable(self, run: RunState) -> JsonObject:
        """A state as it goes into its file."""
        root = Path(run.root)
        return {**places.portable(document_of(run), root), "root": places.root_seen_from(self.paths.folder, root)}

    def previous(self) -> RunState | None:
        """The generation before the newest, if it is readable."""
        try:
            return generation(self.paths.previous).run
        except (ValueError, StateDamaged):
            return None

    def config(self, run: RunState) -> JsonObject:
        """The effective configuration that the last start saved beside the state ``run``, its paths absolute.

        Raises:
            StateDamaged: it is gone, or not what that start saved.
            DiskRefused: it cannot be read.
        """
        with self._config_read():
            content = durable.read_small(self.paths.config)
            if hashlib.sha256(content).hexdigest() != run.config_sha256:
                raise ValueError("it is not the configuration of the last start")
            try:
                return places.absolute(json.loads(content), Path(run.root))
            except (RecursionError, AttributeError) as exc:
                raise ValueError("it is no configuration") from exc

    def settings(self, run: RunState) -> Settings:
        """The same as settings. Raises as ``config``."""
        config = self.config(run)
        with self._config_read():
            return Settings.model_validate_json(json.dumps(config))

    @contextmanager
    def _config_read(self) -> Iterator[None]:
        try:
            yield
        except ValueError as exc:
            path = self.paths.config
            raise StateDamaged(f"{path} cannot be used: {exc}. The next start of this run writes it anew") from exc

    def keep_command(self, command: str | None) -> None:
        """Keep what shall be run at the end where its owner alone can read it.

        Raises:
            DiskRefused: the disk did not take it.
        """
        if command:
            durable.replace(self.paths.on_finish, command.encode() + b"\n", mode=durable.OWNER_ONLY)
        elif os.path.lexists(self.paths.on_finish):
            with disk_errors("removing", self.paths.on_finish):
                self.paths.on_finish.unlink(missing_ok=True)

    def refuse(self, code: ExitCode, message: str) -> None:
        """Leave word for ``status`` that a start was refused, and why."""
        word = {"time": now(), "exit_code": int(code), "message": message}
        durable.replace(self.paths.refused, json.dumps(word).encode())

    def started(self) -> None:
        """A start has succeeded: what an earlier one was refused for holds no longer."""
        with disk_errors("removing", self.paths.refused):
            durable.unlink(self.paths.refused)


def generation(path: Path) -> Generation:
    """A state file.

    Raises:
        ValueError, StateDamaged: as ``read``.
    """
    state, journal, stored = read(path)
    try:
        return Generation(RunState.model_validate_json(json.dumps(state)), journal, stored)
    except ValidationError as exc:
        raise ValueError(str(exc)) from exc


def fold(lines: Iterable[JsonObject]) -> JsonObject:
    """The state document that journal ``lines`` add up to."""
    document: JsonObject = {}
    for line in lines:
        merge(document, line["changes"])
    return document


def merge(document: JsonObject, patch: JsonObject) -> None:
    """Apply an RFC 7396 patch to ``document`` itself: a long journal is folded without a copy at each line."""
    for key, value in patch.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(document.get(key), dict):
                document[key] = {}
            merge(document[key], value)
        else:
            document[key] = value
