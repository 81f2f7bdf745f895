"""Which key presses which latent action, found out on held-out clips.

Latent actions have numbers and no names. Where keys were recorded, an arrow presses the action that the model infers
where that key was pressed. Where none were, it goes by the picture: the player stands in the middle and the world
moves under them, so the action under which the picture moves right is `left`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiw_fsm.play.world import Frames, Game
from tiw_fsm.worlds import held_out

DIRECTIONS = ("left", "right", "up", "down")
KEYS = (*DIRECTIONS, "wait")
"""What a player can press, beside the numbers of the actions."""
WAITING = ("none", "noop", "wait", "stay", "idle")
"""What recordings call a turn in which nothing was pressed."""
MIDDLE = 0.2
"""Share of a picture's sides in its middle, where the player stands."""
LEAST_SHIFT = 0.25
"""Pixels that the picture has to move on the average before an action counts as a direction."""

Scores = NDArray[np.float64]
"""[actions, KEYS]: how much speaks for a key pressing an action; at most 0 where nothing does."""


class KeyMap(NamedTuple):
    """What the keys press, and how one knows.

    Attributes:
        keys: of ``KEYS``, those that press an action, and its number.
        known_by: ``keys``, ``motion`` or ``nothing``.
        uses: how often each action was inferred, in the order of the numbers; shares of 1.
        told: of each action, what else there is to say: the recorded key it goes with most, or how the picture moves.
    """

    keys: dict[str, int]
    known_by: str
    uses: list[float]
    told: list[str]

    def name(self, action: int) -> str:
        """What presses ``action``, else its number as people count."""
        return next((key for key, pressed in self.keys.items() if pressed == action), str(action + 1))

    def shared(self) -> list[list[str]]:
        """The keys, those that press the same action together."""
        actions = dict.fromkeys(self.keys.values())
        return [[key for key, pressed in self.keys.items() if pressed == action] for action in actions]


def propose(game: Game) -> KeyMap:
    """What held-out clips say of the keys."""
    data = game.data
    inferred = held_out.infer(game.model, data, game.config)
    actions, found = inferred.actions, None
    uses = torch.bincount(actions.flatten(), minlength=game.n_actions).double().numpy()
    if inferred.keys is not None and data.keys is not None:
        found = _by_keys(actions, inferred.keys, data.keys.names, game.n_actions)
        known_by = "keys"
    if found is None:
        found = _by_motion(actions, inferred.clips.cpu().numpy(), game.n_actions)
        known_by = "motion"
    pressed = assign(found[0])
    known_by = known_by if pressed.keys() & set(DIRECTIONS) else "nothing"
    return KeyMap(pressed, known_by, (uses / uses.sum()).tolist(), found[1])


def assign(scores: Scores) -> dict[str, int]:
    """An action for each key that anything speaks for: the best pairs first, no action twice as long as others are
    left; a key that is left over shares the action that most speaks for."""
    pressed: dict[str, int] = {}
    for place in np.argsort(-scores, axis=None, kind="stable").tolist():
        action, column = divmod(place, len(KEYS))
        if scores[action, column] > 0 and KEYS[column] not in pressed and action not in pressed.values():
            pressed[KEYS[column]] = action
    for column, left_over in enumerate(KEYS):
        if left_over not in pressed and scores[:, column].max() > 0:
            pressed[left_over] = int(scores[:, column].argmax())
    return pressed


def meaning(name: str) -> str | None:
    """Which of ``KEYS`` a recording means by ``name``: `up` by `move_up`, `wait` by `noop`; None if none of them."""
    words = re.split(r"[\W_]+", name.lower())
    return "wait" if set(words) & set(WAITING) else next((key for key in DIRECTIONS if key in words), None)


def _by_keys(actions: Tensor, keys: Tensor, names: list[str], n_actions: int) -> tuple[Scores, list[str]] | None:
    """What recorded keys say, scored by ``held_out.lift``. None where they tell no direction from another."""
    table = held_out.counts(actions, keys, (n_actions, len(names)))
    meant = [meaning(name) for name in names]
    if len({key for key, seen in zip(meant, table.sum(0), strict=True) if key in DIRECTIONS and seen}) < 2:
        return None
    lift = held_out.lift(table)
    scores = np.zeros((n_actions, len(KEYS)))
    for column, key in enumerate(meant):
        if key is not None:
            scores[:, KEYS.index(key)] += lift[:, column]
    told = []
    for row in table:
        best = int(row.argmax())
        told.append(f"{row[best] / row.sum():.0%} {names[best]}" if row.sum() else "never inferred")
    return scores, told


def _by_motion(actions: Tensor, frames: NDArray[np.uint8], n_actions: int) -> tuple[Scores, list[str]]:
    """What the picture says: ``actions`` [B, N] lead on between ``frames`` [B, N + 1, H, W, 3]."""
    before, after = (part.reshape(-1, *frames.shape[2:]) for part in (frames[:, :-1], frames[:, 1:]))
    moved, numbers = shifts(before, after), actions.flatten().numpy()
    scores, told = np.zeros((n_actions, len(KEYS))), []
    for action in range(n_actions):
        mine = moved[numbers == action]
        if not len(mine):
            told.append("never inferred")
            continue
        dy, dx = (float(value) for value in mine.mean(0))
        ways = [way - LEAST_SHIFT for way in (dx, -dx, dy, -dy)]
        scores[action] = [*ways, LEAST_SHIFT - np.hypot(dx, dy)]
        told.append(f"picture moves {dx:+.1f}, {dy:+.1f} px")
    return scores, told


def shifts(before: Frames, after: Frames) -> NDArray[np.int64]:
    """How far each picture of ``after`` is moved against that of ``before``: [N, 2], pixels down and right.

    The shift, of up to a quarter of the side, at which the two differ least where they overlap. All shifts are tried at
    once, as correlations by FFT. Phase correlation will not do: tiles that repeat, and a player who stays in the middle
    have it see no motion. So the middle is left out, and of shifts that are as good the shortest counts.
    """
    height, width = before.shape[1:3]
    y, x = (np.abs(np.arange(side) - (side - 1) / 2) >= side * MIDDLE / 2 for side in (height, width))
    seen = (y[:, None] | x).astype(float)
    earlier, later = (seen * frames.mean(-1) / 255 for frames in (before, after))

    def spectrum(pictures: NDArray[np.float64]) -> NDArray[np.complex128]:
        found: NDArray[np.complex128] = np.fft.rfft2(pictures, (2 * height, 2 * width))
        return found

    def moved(product: NDArray[np.complex128]) -> NDArray[np.float64]:
        everywhere = np.fft.irfft2(product, (2 * height, 2 * width))
        found: NDArray[np.float64] = everywhere[..., down[:, None], right]
        return found

    down, right = (np.arange(-(side // 4), side // 4 + 1) for side in (height, width))
    mask = spectrum(seen)
    squares = spectrum(later**2) * mask.conj() + mask * spectrum(earlier**2).conj()
    differences = moved(squares - 2 * spectrum(later) * spectrum(earlier).conj()) / moved(mask * mask.conj())
    differences += 1e-6 * (np.abs(down)[:, None] + np.abs(right))
    best = np.unravel_index(differences.reshape(len(before), -1).argmin(1), differences.shape[1:])
    return np.stack([down[best[0]], right[best[1]]], axis=1)
