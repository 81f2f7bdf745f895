"""The worlds that browsers play, each kept for a while after its connection is lost."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from tiw_fsm.play.world import Player

KEPT_SECONDS = 600.0
"""How long a world waits for its browser: a phone in a pocket is gone for minutes."""
MOST = 32
"""Worlds at a time; each may keep 64 MiB of its game."""


@dataclass
class Session:
    """One tab's world. ``connection`` counts its connections: only the newest speaks for it."""

    id: str
    player: Player
    connection: int = 0
    connected: bool = False
    left: float = 0.0
    """When its last connection was lost."""


class Sessions:
    """All worlds by their ids, which nobody can guess.

    Args:
        clock: seconds, from any moment on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._all)

    def find(self, id: str) -> Session | None:
        """The session of that id, if its world is still kept."""
        self._free()
        return self._all.get(id)

    def begin(self, player: Player) -> Session | None:
        """A new session; None if there are too many players. One whose browser is gone makes room."""
        self._free()
        if len(self._all) >= MOST:
            gone = [session for session in self._all.values() if not session.connected]
            if not gone:
                return None
            del self._all[min(gone, key=lambda session: session.left).id]
        session = Session(secrets.token_urlsafe(16), player)
        self._all[session.id] = session
        return session

    def connect(self, session: Session) -> int:
        """A connection speaks for the session from now on; an earlier one does so no longer."""
        session.connection += 1
        session.connected = True
        return session.connection

    def disconnect(self, session: Session, connection: int) -> None:
        """A connection is lost."""
        if session.connection == connection:
            session.connected, session.left = False, self._clock()

    def _free(self) -> None:
        now = self._clock()
        for session in list(self._all.values()):
            if not session.connected and session.connection and now - session.left > KEPT_SECONDS:
                del self._all[session.id]
