"""The command of ``on_finish`` taken out of what an older version wrote it into, as far as that can be."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from tiw_fsm.fsm.events import RunnerEvent, Started
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.storage import secrets
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.storage.store import Store
from tiw_fsm.system import durable


def concealed(store: Store, before: RunState | None, root: str, log: FilteringBoundLogger) -> RunState | None:
    """The run as it stands once its state and configuration no longer have the command in them.

    Args:
        root: the working root, which a state that is so old does not name.

    Raises:
        DiskRefused: the disk did not take them.
    """
    paths = store.paths
    exposing = secrets.exposed(paths)
    if not exposing:
        return before
    known = before.config_sha256 if before else None
    was, now = _concealed_config(paths)
    after = before
    if before:
        known = now if known == was else known
        after = before.evolve(root=before.root or root, config_sha256=known)
        after = store.commit(before, after, RunnerEvent.STARTED, Started())
        _write_page(store)
    log.warning(
        f"{', '.join(path.name for path in exposing)} in {paths.folder} had the command of on_finish in them for all "
        f"to read, and have it no more. {paths.journal.name} cannot be rewritten, nor what {paths.log.name} has said: "
        "if there is a password in the command, use another one from now on, or let nobody else read these two"
    )
    return after


def _concealed_config(paths: StatePaths) -> tuple[str | None, str | None]:
    """SHA-256 of the configuration before and after; None where there is none that can be read."""
    try:
        before = durable.read_small(paths.config)
        after = json.dumps(secrets.hidden(json.loads(before)), indent=1).encode()
    except (ValueError, RecursionError):
        return None, None
    durable.replace(paths.config, after)
    return hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest()


def _write_page(store: Store) -> None:
    """The page is a help; it hinders nothing."""
    from tiw_fsm.reporting.html import writer  # brings numpy, which `tiw-fsm check` does without

    with suppress(Exception):
        writer.refresh(store, alive=False)
