"""The page that a world is played on, and the websocket behind it. Torch works in one thread; the loop only talks.

The browser sends JSON, a message an input: ``{"do": "step", "action": 2}``, ``{"do": "follow"}``,
``{"do": "reset", "start": 7}``. It is answered, one answer a message, by a binary message (``packed``), or by
``{"end": true}`` where the episode that is followed ends. Frames go as they are: what is seen is, bit for bit, what the
model made. Anything else closes the connection, and the world waits for a better one.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from tiw_fsm.play.episode import episode
from tiw_fsm.play.guard import HEADERS, Guard
from tiw_fsm.play.opening import Opened
from tiw_fsm.play.sessions import Session, Sessions
from tiw_fsm.play.world import Frames, Player
from tiw_fsm.worlds import films

STATIC = {
    "/": (files("tiw_fsm.play") / "static/page.html", "text/html"),
    "/play.js": (files("tiw_fsm.play") / "static/play.js", "text/javascript"),
    "/play.css": (files("tiw_fsm.play") / "static/play.css", "text/css"),
    "/colours.css": (files("tiw_fsm.reporting.html") / "templates/colours.css", "text/css"),
}
STRIP = 12
"""Frames that a page is shown again when it comes back."""
LARGEST_MESSAGE = 1024
LEAVING_SECONDS = 2
"""What is still being sent when the server ends gets so long."""
WRONG_MESSAGE, TOO_MANY = 1003, 1013
"""Close codes of RFC 6455: unsupported data; try again later."""
T = TypeVar("T")


class Ending(Exception):
    """The server ends, and so does what takes long."""


class PlayServer:
    """Serves one run to many tabs.

    Attributes:
        frames: that were played so far.
    """

    def __init__(self, opened: Opened, token: str | None) -> None:
        self.opened = opened
        self.sessions = Sessions()
        self.frames = 0
        self.ending = threading.Event()
        self._worker = ThreadPoolExecutor(1, "model")
        free = frozenset(STATIC) - {"/"}
        routes = [
            *(Route(path, self._static) for path in STATIC),
            Route("/game.{kind}", self._download),
            WebSocketRoute("/socket", self._socket),
        ]
        self.app: ASGIApp = Guard(Starlette(routes=routes), token, free)

    def run(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until a signal ends it.

        Args:
            ready: called once pages are answered.
        """
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws_max_size=LARGEST_MESSAGE,
            timeout_graceful_shutdown=LEAVING_SECONDS,
        )
        try:
            _Uvicorn(config, self.ending, ready).run(sockets=[listener])
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _static(self, request: Request) -> Response:
        file, kind = STATIC[request.url.path]
        return Response(file.read_bytes(), media_type=kind, headers=HEADERS)

    async def _download(self, request: Request) -> Response:
        kind, session = request.path_params["kind"], self.sessions.find(request.query_params.get("session", ""))
        if kind not in self._formats() or session is None:
            return PlainTextResponse("There is no such game; play on the page first.\n", 404, headers=HEADERS)
        played = await self._in_worker(lambda: session.player.played)
        makers: dict[str, tuple[str, Callable[[], bytes]]] = {
            "mp4": ("video/mp4", lambda: films.film(self._until_end(played.frames))),
            "gif": ("image/gif", lambda: films.moving_picture(self._until_end(played.frames))),
            "h5": ("application/x-hdf5", lambda: episode(played, self._names())),
        }
        media_type, make = makers[kind]
        try:
            content = await asyncio.to_thread(make)
        except Ending:
            return PlainTextResponse("The server ends.\n", 503, headers=HEADERS)
        name = f"{self.opened.name}-start-{session.player.start + 1}.{kind}"
        attached = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=media_type, headers=HEADERS | attached)

    async def _socket(self, browser: WebSocket) -> None:
        await browser.accept()
        session = self.sessions.find(browser.query_params.get("session", ""))
        resumed = session is not None
        if session is None:
            start = browser.query_params.get("start", "0")
            begin = int(start) if start.isdecimal() and len(start) < 10 else 0
            player = await self._in_worker(lambda: Player(self.opened.game, begin))
            session = self.sessions.begin(player)
        if session is None:
            await browser.close(TOO_MANY, "too many play at once; close a tab")
            return
        connection = self.sessions.connect(session)
        try:
            await browser.send_text(json.dumps(self._hello(session, resumed)))
            await browser.send_bytes(await self._in_worker(lambda: shown(session.player)))
            while True:
                asked = self._understood(await browser.receive())
                if asked is None or session.connection != connection:
                    told = "that is no message of this page" if asked is None else "another connection took its place"
                    await browser.close(WRONG_MESSAGE, told)
                    return
                answer = await self._in_worker(lambda: self._done(session.player, *asked))  # noqa: B023 - awaited here
                if isinstance(answer, bytes):
                    await browser.send_bytes(answer)
                else:
                    await browser.send_text(json.dumps(answer))
        except WebSocketDisconnect:
            pass  # its world waits for it
        finally:
            self.sessions.disconnect(session, connection)

    def _understood(self, message: Any) -> tuple[str, int] | None:
        """What a message asks for, and the number with it; None where it makes no sense.

        Raises:
            WebSocketDisconnect: it says that the browser is gone.
        """
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        try:
            asked = json.loads(message.get("text") or "")
        except (ValueError, RecursionError):
            return None
        limits = {"step": self.opened.game.n_actions, "reset": len(self.opened.game.starts)}
        match asked:
            case {"do": "follow"}:
                return "follow", 0
            case {"do": "step", "action": int(number)} | {"do": "reset", "start": int(number)}:
                known = not isinstance(number, bool) and 0 <= number < limits[asked["do"]]
                return (asked["do"], number) if known else None
        return None

    def _done(self, player: Player, do: str, number: int) -> bytes | dict[str, bool]:
        """The answer to a message. In the worker's thread."""
        if do == "reset":
            player.reset(number)
            return shown(player)
        if do == "step":
            dream = player.step(number)
            self.frames += len(dream)
            return packed(player, "step", dream)
        followed = player.follow()
        if followed is None:
            return {"end": True}
        self.frames += len(followed.dream)
        return packed(player, "follow", *followed)

    def _hello(self, session: Session, resumed: bool) -> dict[str, Any]:
        opened, game = self.opened, self.opened.game
        return {
            "session": session.id,
            "resumed": resumed,
            "run": opened.name,
            "updates": opened.updates,
            "verdict": opened.verdict,
            "warnings": opened.warnings,
            "size": game.size,
            "starts": len(game.starts),
            "episodes": game.episodes,
            "keys": opened.keymap.keys,
            "known_by": opened.keymap.known_by,
            "actions": [
                {"uses": uses, "told": told} for uses, told in zip(opened.keymap.uses, opened.keymap.told, strict=True)
            ],
            "formats": self._formats(),
        }

    def _formats(self) -> list[str]:
        return [*(["mp4"] if films.film_codec() else []), "gif", "h5"]

    def _names(self) -> list[str]:
        return [self.opened.keymap.name(action) for action in range(self.opened.game.n_actions)]

    def _until_end(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        for frame in frames:
            if self.ending.is_set():
                raise Ending
            yield frame

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


class _Uvicorn(uvicorn.Server):
    """Ends quietly on the signals that people and schedulers send; uvicorn's own would be raised again."""

    def __init__(self, config: uvicorn.Config, ending: threading.Event, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ending, self.ready = ending, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end(number: int, frame: object) -> None:
            self.ending.set()
            self.should_exit = True

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def packed(player: Player, kind: str, dream: Frames, truth: Frames | None = None) -> bytes:
    """Frames as a message: the length of a JSON header (uint32, little-endian), the header, then the pixels, those of
    the dream before those of the truth, rows of RGB."""
    header = {
        "kind": kind,
        "start": player.start,
        "steps": player.steps,
        "dream": len(dream),
        "truth": 0 if truth is None else len(truth),
    }
    told = json.dumps(header).encode()
    pixels = dream if truth is None else np.concatenate([dream, truth])
    return struct.pack("<I", len(told)) + told + pixels.tobytes()


def shown(player: Player) -> bytes:
    """What a page that begins, or comes back, shows: the last frames."""
    return packed(player, "start", player.last(STRIP))
