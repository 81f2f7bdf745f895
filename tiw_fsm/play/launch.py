"""One `tiw-fsm play`: the extra, the port, the run, then the page or the terminal, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console

from tiw_fsm.api import Run
from tiw_fsm.errors import UsageProblem
from tiw_fsm.system import processors

WANTED = ("starlette", "uvicorn", "websockets", "av")


def play_in_browser(run: Run, *, device: str, host: str, port: int, browser: bool, out: Console) -> None:
    """Serve the page until a signal ends it.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        host: to listen at; on another than a loopback one the address holds a token.
        browser: whether to open it.

    Raises:
        UsageProblem: the extra is not installed, or one cannot listen there.
        UsageProblem, StateDamaged: as ``open_game``.
    """
    if missing := [name for name in WANTED if find_spec(name) is None]:
        raise UsageProblem(
            f"the page needs {', '.join(missing)}: pip install 'tiw_fsm[play]' (`--terminal` plays without)"
        )
    played = 0
    with _listening(host, port) as listener, _ended_by_signals():
        os.environ.update(processors.wait_policy(os.environ))  # before torch is loaded
        from tiw_fsm.play.guard import new_token
        from tiw_fsm.play.opening import open_game
        from tiw_fsm.play.server import PlayServer

        token = new_token(host)
        address = _address(host, listener.getsockname()[1], token)
        opened = open_game(run, device)
        server = PlayServer(opened, token)

        def ready() -> None:
            out.print(f"Run {opened.name} is played at {address}", soft_wrap=True)
            if browser and any(name in os.environ for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
                webbrowser.open(address)  # not one in the terminal, which would take it over

        try:
            server.run(listener, ready)
        finally:
            played = server.frames
    _say_how_it_ended(run, played, out)


def play_in_terminal(run: Run, *, device: str, out: Console) -> None:
    """Play in this terminal until `q`, or a signal, ends it.

    Raises:
        UsageProblem: this is no terminal.
        UsageProblem, StateDamaged: as ``open_game``.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageProblem("--terminal wants a terminal to read keys from: start it in one, or leave --terminal out")
    played = 0
    with _ended_by_signals():
        os.environ.update(processors.wait_policy(os.environ))  # before torch is loaded
        from tiw_fsm.play.opening import open_game
        from tiw_fsm.play.terminal import Screen

        screen = Screen(open_game(run, device))
        try:
            screen.play()
        finally:
            played = screen.frames
    _say_how_it_ended(run, played, out)


def _say_how_it_ended(run: Run, frames: int, out: Console) -> None:
    name = run.store.paths.folder.name
    out.print(
        f"Ended after {frames} frame{'s' if frames != 1 else ''}; the run is as it was. "
        f"`tiw-fsm play {name}` opens its newest checkpoints again.",
        soft_wrap=True,
    )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP do what Ctrl-C does, and all of them end the block and nothing more."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there, taken before the models are loaded: who cannot have it shall not wait.

    Raises:
        UsageProblem: somebody else has it, or this machine has no such address.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as exc:
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno and exc.errno > 0 else str(exc)
        raise UsageProblem(
            f"cannot listen at {host} port {port} ({reason}): give another with --port, or 0 for any that is free"
        ) from exc


def _address(host: str, port: int, token: str | None) -> str:
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/" + (f"?token={token}" if token else "")
