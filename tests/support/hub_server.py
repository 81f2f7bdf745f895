"""A small hub on loopback: what ``huggingface_hub`` asks of the real one, and the ways in which that can fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATASETS, MODELS = "datasets/AlmondGod/tinyworlds", "models/AlmondGod/tinyworlds-models"


@dataclass
class Hub:
    """What it has, what it does wrong, and what it was asked.

    Attributes:
        repositories: files by path, by ``datasets/OWNER/NAME`` or ``models/OWNER/NAME``.
        small: paths of files that are kept in git itself, so that only git's hash is told.
        claims: sizes that its listing tells instead of the true ones.
        hashes: what its listing tells as a large file's hash instead of the true one.
        answers: status and headers to answer a repository's listing, or a file's path, with instead.
        cut_at: after so many bytes of a file in one answer the connection ends, where there are any left.
        cuts: what ``cut_at`` is in the answers after the next one.
        hold_at: after so many bytes of a file it sends no more until ``release`` is set.
        wrong: paths of files that are sent otherwise than their hashes say.
        ignores_ranges: sends a file from its beginning, whatever is asked.
        asked: method, path and range of every request for a file.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    small: set[str] = field(default_factory=set)
    claims: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, object] = field(default_factory=dict)
    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    cut_at: int | None = None
    cuts: list[int] = field(default_factory=list)
    hold_at: int | None = None
    release: threading.Event = field(default_factory=threading.Event)
    wrong: set[str] = field(default_factory=set)
    ignores_ranges: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def listing(self, name: str) -> dict[str, Any]:
        files = self.repositories[name]
        return {"id": name.partition("/")[2], "sha": COMMIT, "siblings": [self._told(*file) for file in files.items()]}

    def _told(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        size = self.claims.get(path, len(content))
        told = {"rfilename": path, "size": size, "blobId": blob}
        if path not in self.small:
            sha256 = self.hashes.get(path, hashlib.sha256(content).hexdigest())
            told["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
        return told


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0].strip("/"))
        hub = self.hub
        for name, files in hub.repositories.items():
            if path in (f"api/{name}", f"api/{name}/revision/{COMMIT}", f"api/{name}/revision/main"):
                return self.answer(*hub.answers.get(name, (200, {})), json.dumps(hub.listing(name)).encode())
            resolved = f"{name.removeprefix('models/')}/resolve/{COMMIT}/"
            if path.startswith(resolved) and path.removeprefix(resolved) in files:
                return self.answer(
                    302, {"Location": hub.endpoint + quote(f"/store/{name}/{path.removeprefix(resolved)}")}
                )
            if path.startswith(stored := f"store/{name}/"):
                return self.send_file(path.removeprefix(stored), files[path.removeprefix(stored)])
            if path.startswith(f"api/{name}/revision/"):
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        return self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, path: str, content: bytes) -> None:
        hub, asked = self.hub, self.headers["Range"]
        hub.asked.append((path, asked))
        if path in hub.answers:
            return self.answer(*hub.answers[path])
        if path in hub.wrong:
            content = bytes(len(content))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not hub.ignores_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if hub.cut_at is not None and hub.cut_at < len(content) - start:
            self.wfile.write(content[start : start + hub.cut_at])
            self.close_connection = True
            hub.cut_at = hub.cuts.pop(0) if hub.cuts else hub.cut_at
        elif hub.hold_at is not None:
            self.wfile.write(content[start : start + hub.hold_at])
            self.wfile.flush()
            hub.release.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(content[start:])
        return None


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, at its endpoint, for the length of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": hub})) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.release.set()
            server.shutdown()
            thread.join()
