"""What may have a password in it, and is therefore kept in a file of its own: the command of ``on_finish``.

In state, journal and configuration a word stands in its place. Versions before this one wrote the command there: what
they left is read as if they had not, and is mended by the next start as far as it can be.
"""

from __future__ import annotations

import json
from pathlib import Path

from tiw_fsm.errors import TiwFsmError
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.system import durable
from tiw_fsm.values.plain import HIDDEN, JsonObject


def hidden(document: JsonObject) -> JsonObject:
    """A state, a change of it, or a configuration, with a word in the place of the command."""
    match document:
        case {"loop": {"on_finish": str(command)}} if command != HIDDEN:
            return {**document, "loop": {**document["loop"], "on_finish": HIDDEN}}
    return document


def exposed(paths: StatePaths) -> list[Path]:
    """Files that others may read, and that have the command in them."""
    return [path for path in (paths.state, paths.previous, paths.config) if _exposes(path)]


def _exposes(path: Path) -> bool:
    try:
        document = json.loads(durable.read_small(path))
    except (TiwFsmError, ValueError, RecursionError):
        return False  # whoever needs it says so
    return isinstance(document, dict) and hidden(document) is not document
