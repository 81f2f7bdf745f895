"""A world played in a real terminal: keys go in, pictures come out, and afterwards the terminal is as it was."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.playing import rolled_out
from tests.support.waiting import wait_for
from tiw_fsm.play.opening import Opened
from tiw_fsm.play.terminal import ENTER, LEAVE, fitted, half_blocks, keys
from tiw_fsm.play.world import Frames

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m▀")


class Terminal:
    """`tiw-fsm play --terminal` on a pseudo-terminal of a size."""

    def __init__(self, root: Path, columns: int, lines: int) -> None:
        self.near, self.far = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.far)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tiw_fsm", "play", "--terminal"],
            cwd=root,
            stdin=self.far,
            stdout=self.far,
            stderr=self.far,
            env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
        )
        self.said, self._decoder = "", codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        """All that it said so far."""
        while select.select([self.near], [], [], 0)[0]:
            self.said += self._decoder.decode(os.read(self.near, 1 << 16))
        return self.said

    def shows(self, text: str) -> str:
        """The newest screen, once it has such a text on it."""
        wait_for(text, lambda: text in self.read().rpartition("\x1b[2J")[2], 60)
        return self.said.rpartition("\x1b[2J")[2]

    def press(self, pressed: str) -> None:
        os.write(self.near, pressed.encode())

    def ended(self) -> int:
        """Its exit code, once it has ended; what it says is read meanwhile, else it would wait for that."""
        wait_for("the end", lambda: (self.read(), self.process.poll() is not None)[1], 30)
        self.read()
        return int(self.process.returncode)


@pytest.fixture
def terminal(passed_root: Path) -> Iterator[Terminal]:
    found = Terminal(passed_root, 100, 40)
    yield found
    if found.process.poll() is None:
        found.process.kill()
    found.process.wait()
    os.close(found.near)
    os.close(found.far)


def pixels(screen: str) -> Any:
    """The picture on a screen: [H, W, 3]."""
    rows = [CELL.findall(line) for line in screen.split("\r\n") if CELL.search(line)]
    both = np.array(rows, dtype=int).reshape(len(rows), -1, 2, 3)
    return both.transpose(0, 2, 1, 3).reshape(2 * len(rows), -1, 3)


def shrunk(picture: Any, game_size: tuple[int, int]) -> Any:
    """A picture that was enlarged by a whole factor, in its own size."""
    factor = picture.shape[1] // game_size[1]
    return picture[::factor, ::factor]


def test_keys_play_the_rollout_and_the_terminal_is_as_it_was(terminal: Terminal, opened: Opened) -> None:
    terminal.shows("step 0")
    found = []
    for number, (key, said) in enumerate([("1", "step 1"), ("4", "step 2"), ("3", "step 3")]):
        terminal.press(key)
        screen = terminal.shows(said)
        picture = pixels(screen)
        assert picture.shape[0] <= 2 * 40
        found.append(shrunk(picture, opened.game.size))
        assert f"step {number + 1}" in screen
    assert np.array_equal(np.stack(found), rolled_out(opened.game, 0, [0, 3, 2]))
    assert termios.tcgetattr(terminal.far) != terminal.before
    terminal.press("q")
    assert terminal.ended() == 0
    assert termios.tcgetattr(terminal.far) == terminal.before
    assert terminal.said.count(ENTER) == terminal.said.count(LEAVE) == 1
    assert terminal.said.rpartition(LEAVE)[2].startswith("Ended after 3 frames; the run is as it was.")


def test_starts_and_the_recording_can_be_walked(terminal: Terminal, opened: Opened) -> None:
    terminal.shows("start 1 of 44, step 0")
    terminal.press("n")
    terminal.shows("start 2 of 44, step 0")
    terminal.press("p")
    terminal.shows("start 1 of 44, step 0")
    terminal.press("p")
    terminal.shows("start 44 of 44, step 0")
    terminal.press("f")
    screen = terminal.shows("step 1; right: the true frame")
    width = opened.game.size[1]
    assert pixels(screen).shape[1] % (2 * width + 2) == 0
    terminal.press("f")
    terminal.shows("the recorded episode ends here")
    terminal.press("r")
    terminal.shows("start 44 of 44, step 0")


def test_it_fits_the_terminal_also_when_that_changes(terminal: Terminal) -> None:
    first = pixels(terminal.shows("step 0"))
    assert first.shape == (64, 64, 3)  # 16 pixels four times, in 36 lines of two
    terminal.resize(20, 10)
    wait_for("the last of 20 columns", lambda: terminal.read().endswith("\r\nInference gate, atte"), 30)
    assert pixels(terminal.said.rpartition("\x1b[2J")[2]).shape == (12, 12, 3)
    assert all(
        len(re.sub(r"\x1b\[[\d;]*[a-zA-Z]", "", line)) <= 20
        for line in terminal.said.rpartition("\x1b[2J")[2].split("\r\n")
    )


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "sighup"])
def test_however_it_ends_the_terminal_is_as_it_was(terminal: Terminal, how: str) -> None:
    terminal.shows("step 0")
    if how == "ctrl-c":
        terminal.press("\x03")
    else:
        terminal.process.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGHUP)
    assert terminal.ended() == 0
    assert termios.tcgetattr(terminal.far) == terminal.before
    assert terminal.said.endswith("opens its newest checkpoints again.\r\n")
    assert LEAVE in terminal.said


@pytest.mark.parametrize(
    ("sent", "understood"),
    [
        ("\x1b[A\x1b[B\x1bOC\x1b[D", ["up", "down", "right", "left"]),
        ("wasd ", ["up", "left", "down", "right", "wait"]),
        ("WQ7", ["up", "q", "7"]),
        ("\x1b[5~1", ["", "1"]),  # page up is nobody's action 5
        ("\x1b[1;5A", ["up"]),
        ("\x1b", ["\x1b"]),
    ],
)
def test_what_a_terminal_sends_is_understood(sent: str, understood: list[str]) -> None:
    assert list(keys(sent)) == understood


@pytest.mark.parametrize(
    ("room", "expected"), [((64, 64), (48, 32)), ((10, 100), (15, 10)), ((100, 12), (12, 8)), ((1, 1), (1, 1))]
)
def test_a_picture_fits_the_room_there_is(room: tuple[int, int], expected: tuple[int, int]) -> None:
    frame: Frames = np.zeros((24, 16, 3), np.uint8)
    assert fitted(frame, *room).shape[:2] == expected
    assert len(half_blocks(fitted(frame, *room))) == -(-expected[0] // 2)
