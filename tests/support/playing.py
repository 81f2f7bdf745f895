"""Runs that are played: the server as a process, what a game should have come to, a line that can be cut."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect

from tiw_fsm.play.world import Frames, Game
from tiw_fsm.tinyworlds.clips import to_pixels


def rolled_out(game: Game, start: int, played: Sequence[int]) -> Frames:
    """What the gate's rollout makes of a held-out start and these actions: [frames, H, W, 3]."""
    window, horizon = game.config.context_window, game.config.prediction_horizon
    config = game.config.evolve(generation_steps=len(played))
    context = game.clip(int(game.starts[start]), window)
    with torch.no_grad():
        inside = game.model.actions.encode(context)
    numbers = torch.tensor(played).repeat_interleave(horizon)[None]
    led = torch.cat([inside, game.model.actions.quantizer.latents_from_indices(numbers)], dim=1)
    steps = [led[:, n * horizon : n * horizon + window - 1 + horizon] for n in range(len(played))]
    return to_pixels(game.model.rollout(context, steps, config)[0])


class Message(NamedTuple):
    """What a server answers with frames."""

    header: dict[str, Any]
    dream: Frames
    truth: Frames


def unpacked(message: str | bytes, size: Sequence[int]) -> Message:
    """A binary message of the server's, taken apart."""
    assert isinstance(message, bytes)
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    pictures = np.frombuffer(message[4 + length :], np.uint8).reshape(-1, *size, 3)
    assert len(pictures) == header["dream"] + header["truth"]
    return Message(header, pictures[: header["dream"]], pictures[header["dream"] :])


def websocket(address: str, **more: Any) -> ClientConnection:
    """A connection that whoever asked for it closes."""
    return connect(address, max_size=None, **more).__enter__()


class Tab:
    """A client as the page is one."""

    def __init__(self, page: str, session: str = "", start: int = 0) -> None:
        self.socket = websocket(f"{page.replace('http://', 'ws://')}socket?session={session}&start={start}")
        self.hello: dict[str, Any] = json.loads(self.socket.recv())
        self.shown = unpacked(self.socket.recv(), self.hello["size"])

    def ask(self, do: str, **more: int) -> Message | None:
        """What the server answers with; None for the end of an episode."""
        self.socket.send(json.dumps({"do": do, **more}))
        answer = self.socket.recv()
        return None if answer == '{"end": true}' else unpacked(answer, self.hello["size"])

    def play(self, actions: Sequence[int]) -> Frames:
        answers = [self.ask("step", action=action) for action in actions]
        return np.concatenate([answer.dream for answer in answers if answer])


WITH_TOKEN = """
import socket, sys
from tiw_fsm.api import open_run
from tiw_fsm.play.opening import open_game
from tiw_fsm.play.server import PlayServer
listener = socket.create_server(("127.0.0.1", 0))
address = f"http://127.0.0.1:{listener.getsockname()[1]}/?token={sys.argv[1]}"
PlayServer(open_game(open_run(), "cpu"), sys.argv[1]).run(listener, lambda: print(address, flush=True))
"""
"""A server that wants a token, where nobody else can reach it."""


class Served:
    """`tiw-fsm play` as a process.

    Attributes:
        address: of its page, as it printed it.
    """

    def __init__(self, root: Path, *, port: int = 0, token: str | None = None) -> None:
        command = ["-m", "tiw_fsm", "play", "--no-browser", "--port", str(port)]
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", WITH_TOKEN, token] if token else command)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, self.process.communicate())
        self.address = found[0]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1].partition("/")[0])

    def end(self, by: int = signal.SIGTERM) -> tuple[int, str, str]:
        """End it: its exit code, what else it said, its errors."""
        self.process.send_signal(by)
        said, errors = self.process.communicate(timeout=20)
        return self.process.returncode, said, errors


@contextmanager
def served(root: Path, *, port: int = 0, token: str | None = None) -> Iterator[Served]:
    """`tiw-fsm play` for the length of the block; with a token as if it listened elsewhere than on loopback."""
    server = Served(root, port=port, token=token)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


class Line:
    """A line to a server on loopback, that can be cut: connections through it are lost, and new ones are let through
    once it is mended."""

    def __init__(self, port: int) -> None:
        self._target, self._whole = port, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing goes through."""
        self._whole = False
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            sink.sendall(content)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
