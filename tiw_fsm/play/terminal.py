"""A world played in the terminal: two pixels a character, keys read as they are pressed. Needs no extra."""

from __future__ import annotations

import os
import re
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby

import numpy as np
from PIL import Image

from tiw_fsm.play.opening import Opened
from tiw_fsm.play.world import Frames, Player

ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
LETTERS = {"w": "up", "s": "down", "d": "right", "a": "left", " ": "wait"}
QUIT = ("q", "\x03")
LOOK_SECONDS = 0.5
"""How often it looks whether the terminal has another size."""
TEXT_ROWS = 4
"""Below the picture."""
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[0m\x1b[?25h\x1b[?1049l"
"""The other screen without a cursor; and back, as it was."""


class Screen:
    """A game on a terminal.

    Attributes:
        frames: that were played so far.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened, self.player, self.frames = opened, Player(opened.game), 0
        self._dream = self.player.last(1)[-1]
        self._truth: Frames | None = None
        self._said = ""

    def play(self) -> None:
        """Until `q`."""
        with raw_terminal():
            drawn = ""
            while True:
                picture = self.picture(*shutil.get_terminal_size())
                if picture != drawn:
                    _write(picture)
                    drawn = picture
                if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
                    pressed = os.read(sys.stdin.fileno(), 1024).decode(errors="ignore")
                    if not pressed:
                        return  # the terminal is gone
                    for key, _ in groupby(keys(pressed)):  # one held down may come faster than the model steps
                        if key in QUIT:
                            return
                        self._press(key)

    def picture(self, columns: int, lines: int) -> str:
        """All that is on the screen, which has so many columns and lines: the picture, then what there is to know."""
        shown = self._dream
        if self._truth is not None:
            gap = np.zeros((shown.shape[0], 2, 3), np.uint8)
            shown = np.concatenate([shown, gap, self._truth], axis=1)
        rows = half_blocks(fitted(shown, columns, 2 * max(1, lines - TEXT_ROWS)))
        keymap, player = self.opened.keymap, self.player
        arrows = ", ".join(f"{key} {action + 1}" for key, action in keymap.keys.items())
        told = [
            f"start {player.start + 1} of {len(self.opened.game.starts)}, step {player.steps}"
            + ("; right: the true frame" if self._truth is not None else "")
            + (f"; {self._said}" if self._said else ""),
            f"arrows or WASD, space waits ({arrows or 'nothing mapped'}); 1 to {len(keymap.uses)}: the actions",
            "r again  n next start  p previous  f follow the recording  q quit",
            " ".join([self.opened.verdict, *self.opened.warnings]),
        ]
        return "\x1b[H\x1b[2J" + "\r\n".join([*rows, *(line[:columns] for line in told[-max(1, lines - len(rows)) :])])

    def _press(self, key: str) -> None:
        player, game, pressed = self.player, self.opened.game, self.opened.keymap.keys
        self._said, truth = "", None
        if key in ("r", "n", "p"):
            player.reset(player.start + {"r": 0, "n": 1, "p": -1}[key])
            self._dream = player.last(1)[-1]
        elif key == "f":
            followed = player.follow()
            if followed is None:
                self._said, truth = "the recorded episode ends here", self._truth
            else:
                self._dream, truth = followed.dream[-1], followed.truth[-1]
                self.frames += len(followed.dream)
        else:
            action = int(key) - 1 if key.isdecimal() and key.isascii() else pressed.get(key, -1)
            if not 0 <= action < game.n_actions:
                return
            dream = player.step(action)
            self._dream, self.frames = dream[-1], self.frames + len(dream)
        self._truth = truth


def keys(pressed: str) -> Iterator[str]:
    """The keys in what a terminal sent: ``left`` for its arrow or its letter, else the character itself."""
    for sequence, character in re.findall(r"\x1b[\[O][0-9;]*(.)|(.)", pressed, re.DOTALL):
        letter = character.lower()
        yield ARROWS.get(sequence, "") if sequence else LETTERS.get(letter, letter)


def fitted(frame: Frames, width: int, height: int) -> Frames:
    """``frame`` in at most so many pixels: enlarged by a whole factor, or made smaller."""
    factor = min(width / frame.shape[1], height / frame.shape[0])
    if factor >= 1:
        return frame.repeat(int(factor), axis=0).repeat(int(factor), axis=1)
    size = max(1, int(frame.shape[1] * factor)), max(1, int(frame.shape[0] * factor))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def half_blocks(frame: Frames) -> list[str]:
    """Lines of a terminal: the upper pixel of a character is its colour, the lower one its background."""
    if frame.shape[0] % 2:
        frame = np.concatenate([frame, np.zeros_like(frame[:1])])
    lines = []
    for upper, lower in zip(frame[::2].tolist(), frame[1::2].tolist(), strict=True):
        pairs = zip(upper, lower, strict=True)
        cells = (f"\x1b[38;2;{r};{g};{b}m\x1b[48;2;{R};{G};{B}m▀" for (r, g, b), (R, G, B) in pairs)
        lines.append("".join(cells) + "\x1b[0m")
    return lines


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key as it is pressed, and another screen; afterwards all is as it was, however the block ends."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        _write(ENTER)
        yield
    finally:
        with suppress(OSError, termios.error):  # it may be gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
            _write(LEAVE)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
