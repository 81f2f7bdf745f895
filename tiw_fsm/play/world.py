"""One player's world: where it started, what was played in it, and the recording beside it. No web, no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiw_fsm.tinyworlds.clips import FrameData, generator, to_model, to_pixels
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.tinyworlds.keys import UNKNOWN
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.worlds.stepping import Stepper

Frames = NDArray[np.uint8]
"""[T, H, W, 3]."""
MOST_BYTES = 64 << 20
MOST_FRAMES = 6000
"""What of a game is kept to be downloaded: its last ten minutes at ten frames a second, if they have at most so many
bytes; tabs are many, and memory is not."""


@dataclass(frozen=True)
class Game:
    """What all players share: the model, the frames it is started from, what it infers with."""

    model: WorldModel
    data: FrameData
    config: InferenceConfig

    @cached_property
    def starts(self) -> Tensor:
        """File rows of every held-out start: a context and at least one step of truth follow. Long [N]."""
        return self.data.clip_starts(self.config.context_window + self.config.prediction_horizon, held_out=True)

    @cached_property
    def episodes(self) -> list[int]:
        """The first start of every held-out episode, as a place in ``starts``."""
        numbers = self.data.numbers[self.starts.numpy()]
        return [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()]

    @property
    def n_actions(self) -> int:
        """How many latent actions there are."""
        return int(self.model.actions.quantizer.codebook_size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        height, width = self.data.frames.shape[1:3]
        return height, width

    def clip(self, row: int, frames: int) -> Tensor:
        """The true frames from file row ``row`` on, [1, frames, C, H, W] in [-1, 1]."""
        return to_model(self.data.clips(torch.tensor([row]), frames))


class Followed(NamedTuple):
    """One step along a recorded episode: what the model made, and what really came. Both [horizon, H, W, 3]."""

    dream: Frames
    truth: Frames


@dataclass
class Played:
    """A game so far, as it can be stored: frames, and for each the action that led to it (-1 for the first)."""

    frames: list[Frames] = field(default_factory=list)
    """Each [H, W, 3]."""
    led: list[int] = field(default_factory=list)


class Player:
    """One player's world. Worlds share nothing that changes: each has its own context and its own random generator.

    Args:
        game: what all players share.
        start: where to begin, a place in ``game.starts``.
    """

    def __init__(self, game: Game, start: int = 0) -> None:
        self.game = game
        height, width = game.size
        kept = max(1, min(MOST_FRAMES, MOST_BYTES // (3 * height * width)))
        self._frames: deque[Frames] = deque(maxlen=kept)
        self._led: deque[int] = deque(maxlen=kept)
        self.reset(start)

    def reset(self, start: int) -> None:
        """Begin at a held-out start; past the last one they begin anew."""
        game = self.game
        self.start = start % len(game.starts)
        """Place in ``game.starts``."""
        self.steps = 0
        """Since the start."""
        self.followed = 0
        """Of them, those that followed the recorded episode without a break from the start on."""
        self._row = int(game.starts[self.start])
        context = game.clip(self._row, game.config.context_window)
        random = generator(game.config.seed, "rollout")  # the gate's own stream: the same game twice is the same
        self._world = Stepper(game.model, game.config, context, random)
        self._frames.clear()
        self._led.clear()
        self._keep(to_pixels(context[0]), [UNKNOWN, *self._numbers(self._world.between)])

    def step(self, action: int) -> Frames:
        """What follows if ``action`` leads on: [horizon, H, W, 3].

        Raises:
            IndexError: there is no such action.
        """
        game = self.game
        if not 0 <= action < game.n_actions:
            raise IndexError(f"there is no action {action}: they are 0 to {game.n_actions - 1}")
        return self._stepped(self._world.step(torch.tensor([action])))

    def follow(self) -> Followed | None:
        """One step along the recorded episode, by the actions inferred from its true frames, as in the gate's rollout.
        None where the episode ends. A game in which anything else was played is begun again first."""
        if self.followed < self.steps:
            self.reset(self.start)
        game, config = self.game, self.game.config
        window, horizon, stride = config.context_window, config.prediction_horizon, game.data.source.stride
        first = self._row + self.steps * horizon * stride
        last = first + (window + horizon - 1) * stride
        numbers = game.data.numbers
        if last >= len(numbers) or numbers[last] != numbers[self._row]:
            return None
        clip = game.clip(first, window + horizon)
        with torch.no_grad():
            actions = game.model.actions.encode(clip)
        dream = self._stepped(self._world.advance(actions))
        self.followed = self.steps
        return Followed(dream, to_pixels(clip[0, window:]))

    def last(self, count: int) -> Frames:
        """The last frames, at most ``count`` of them, oldest first."""
        return np.stack(list(self._frames)[-count:])

    @property
    def played(self) -> Played:
        """The game so far, or the last part of a long one."""
        return Played(list(self._frames), [UNKNOWN, *list(self._led)[1:]])

    def _stepped(self, new: Tensor) -> Frames:
        """``new`` [1, horizon, C, H, W], which the world came to by its last actions, as people see it."""
        self.steps += 1
        frames = to_pixels(new[0])
        self._keep(frames, self._numbers(self._world.led))
        return frames

    def _keep(self, frames: Frames, led: Iterable[int]) -> None:
        self._frames.extend(frames)
        self._led.extend(led)

    def _numbers(self, actions: Tensor) -> list[int]:
        indices: list[int] = self.game.model.actions.quantizer.indices_from_latents(actions)[0].tolist()
        return indices
