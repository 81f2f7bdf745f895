"""Who may talk to the server: what a browser's Host, Origin and token must be.

A page of a stranger's may name a server on loopback, by an address of its own that it has turned to 127.0.0.1 (DNS
rebinding) or by opening a websocket to it. The first is refused by its Host, the second by its Origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address may hold the token
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address, is this machine talking to itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token(host: str) -> str | None:
    """What must stand in the address of a server at ``host``; None on loopback, where nobody else comes."""
    return None if is_loopback(host) else secrets.token_urlsafe(16)


class Guard:
    """Lets requests and websockets through to ``app`` that come from its own page.

    Args:
        token: what the query must hold, but for scripts and styles, which hold no secret; None where none is wanted,
            and then the Host must be a loopback one.
    """

    def __init__(self, app: ASGIApp, token: str | None, free: frozenset[str]) -> None:
        self.app, self.token, self.free = app, token, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (problem := self._problem(scope)):
            await PlainTextResponse(problem, status_code=403, headers=HEADERS)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and not is_loopback(_name(host)):
            return f"This server talks to loopback only, not to {host!r}; start it with --host to have it otherwise.\n"
        if (origin := headers.get("origin")) is not None and urlsplit(origin).netloc != host:
            return f"A page of {origin} may not talk to this server.\n"
        if self.token is not None and scope["path"] not in self.free:
            (given, *_) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return "Open the address that `tiw-fsm play` printed, with its token.\n"
        return None


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
