"""As much of a W&B server, on loopback, as its client needs to begin a run, to send it rows, and to resume it."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Keeps the history of one run.

    Attributes:
        rows: what was logged, in its order.
        runs: the ids under which that was.
        takes: so many rows at a time, and gives no answer then; None takes all.
        delay: seconds that it takes to answer when it is sent rows.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows: list[dict[str, Any]] = []
        self.runs: set[str] = set()
        self.takes: int | None = None
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """To an operation of its GraphQL interface."""
        project = {"id": "p", "name": "tiw_fsm", "entity": {"id": "e", "name": "me"}}
        tail = [json.dumps(self.rows[-1])] if self.rows else []
        bucket = {
            **dict.fromkeys(("id", "name", "displayName"), variables.get("name") or "run"),
            "config": "{}",
            "summaryMetrics": "{}",
            "wandbConfig": json.dumps({"t": 1}),
            **dict.fromkeys(("logLineCount", "eventsLineCount"), 0),
            "historyLineCount": len(self.rows),
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "tags": [],
            "project": project,
        }
        match operation:
            case "RunResumeStatus":
                return {"model": {**project, "bucket": bucket if self.rows else None}}
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": bucket, "inserted": not self.rows}}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": []}}
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "me", "flags": "{}", "teams": {"edges": []}, "username": "me"}}
        return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = self.server.takes is not None
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        if self.path.endswith("/file_stream"):
            time.sleep(self.server.delay)
        with self.server.lock:
            if self.path.startswith("/graphql"):
                asked = json.loads(content)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                self._reply({"data": self.server.answer(named[1] if named else "", asked.get("variables") or {})})
                return
            if self.path.endswith("/file_stream"):
                self._take((json.loads(content).get("files") or {}).get("wandb-history.jsonl"))
            self._reply({"exitcode": None, "limits": {}})

    def _take(self, sent: dict[str, Any] | None) -> None:
        if sent:
            self.server.rows[sent["offset"] :] = map(json.loads, sent["content"][: self.server.takes])
            self.server.runs.add(self.path.split("/")[-2])
            if self.server.takes is not None:
                raise ConnectionAbortedError

    def _reply(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server, for the length of the block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
