"""Values that need no library, so that ``tiw-fsm status`` can use them and stay fast."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object as Python reads it."""

HIDDEN = "(kept in the file on_finish of the state folder)"
"""What stands in the place of a secret in whatever others than its owner may read."""


@dataclass(frozen=True)
class LogPosition:
    """A place in a file that only grows, and what lies before it: so many bytes, with this SHA-256."""

    __pydantic_config__ = {"strict": True, "extra": "forbid"}  # for the states that name it

    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()
