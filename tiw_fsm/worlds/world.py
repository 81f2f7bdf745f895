"""A world to be stepped through: frames in, actions in, frames out. What ``tiw_fsm.load`` gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tiw_fsm.errors import UsageProblem
from tiw_fsm.tinyworlds.clips import generator, to_model, to_pixels
from tiw_fsm.tinyworlds.config import InferenceConfig
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.values.printable import quoted
from tiw_fsm.worlds.stepping import Stepper

Frames = NDArray[np.uint8]


class World:
    """One world, or several that are stepped together. All frames are uint8, [..., H, W', 3].

    Every bad use is a ``UsageProblem``, a ``TiwFsmError`` whose text says what is wrong.

    Attributes:
        model: the three models, for those who want more than steps.
        config: what the gate rolls out with, and this too.
        starts: true frames of held-out clips to start from, [N, context_window, H, W', 3]; none where ``lacking`` says
            why.
        keys: the latent action that goes with each key of the recording, by the key's name; empty where the recording
            has no keys, or none goes with any action.
        verdict: what the inference gate said of the model, a sentence.
        frames: what the last ``reset`` or ``step`` came to, [T, H, W', 3] or [B, T, H, W', 3]: the context, or as many
            frames as the model makes in a step.
    """

    def __init__(
        self,
        model: WorldModel,
        config: InferenceConfig,
        frame_size: int,
        starts: Frames | None,
        *,
        keys: dict[str, int] | None = None,
        verdict: str = "",
        lacking: str = "",
    ) -> None:
        self.model, self.config, self.verdict = model, config, verdict
        self.keys = keys or {}
        self.frame_shape = frame_size, frame_size, 3
        """Height, width and colours of a frame."""
        self.starts = np.empty((0, self.context_window, *self.frame_shape), np.uint8) if starts is None else starts
        self._lacking, self._batched = lacking, False
        self._stepper: Stepper | None = None
        self._frames: Frames | None = None

    @property
    def n_actions(self) -> int:
        """How many latent actions there are: 0 to ``n_actions - 1``."""
        return int(self.model.actions.quantizer.codebook_size)

    @property
    def context_window(self) -> int:
        """Frames that a step is made of."""
        return self.config.context_window

    @property
    def frames(self) -> Frames:
        """What the last ``reset`` or ``step`` came to.

        Raises:
            UsageProblem: there was no reset yet.
        """
        if self._frames is None:
            raise UsageProblem("the world has not begun: call reset() first")
        return self._frames if self._batched else self._frames[0]

    def reset(self, frames: ArrayLike | None = None, *, count: int | None = None, seed: int | None = None) -> Frames:
        """Begin anew.

        Args:
            frames: the context, true frames in their order, uint8 [context_window, H, W', 3]; or [B, …] for B worlds.
                Without it, ``starts`` are drawn by the seed.
            count: how many worlds to begin without ``frames``; one without a batch if None.
            seed: of the start and of the sampling that follows; that of the gate if None.

        Returns:
            The current frame: the last of the context, [H, W', 3] or [B, H, W', 3].

        Raises:
            UsageProblem: ``frames`` are of another shape or type, or there are no ``starts``.
        """
        seed = self.config.seed if seed is None else _whole(seed, "seed")
        if frames is None:
            context = self._drawn(count, seed)
        elif count is not None:
            raise UsageProblem("give frames or count, not both: frames say how many worlds there are")
        else:
            context = self._checked(frames)
        self._batched = context.ndim == 5
        batch = torch.from_numpy(np.ascontiguousarray(context if self._batched else context[None]))
        device = next(self.model.dynamics.parameters()).device
        random = generator(seed, "rollout")  # the gate's own stream
        self._stepper = Stepper(self.model, self.config, to_model(batch.to(device)), random)
        self._frames = batch.numpy().copy()
        return self._current()

    def step(self, action: ArrayLike) -> Frames:
        """What follows if ``action`` leads on.

        Args:
            action: the number of a latent action; for several worlds [B] of them, or one for all.

        Returns:
            The frame that is current now, [H, W', 3] or [B, H, W', 3]. Where a step makes several frames
            (``config.prediction_horizon``), the last of them: ``frames`` has all.

        Raises:
            UsageProblem: there is no such action, there are not as many as worlds, or there was no reset yet.
        """
        if self._stepper is None:
            raise UsageProblem("the world has not begun: call reset() before step()")
        new = self._stepper.step(self._numbers(action, len(self._stepper.context)))
        self._frames = to_pixels(new)
        return self._current()

    def _current(self) -> Frames:
        current: Frames = self.frames[..., -1, :, :, :].copy()
        return current

    def _drawn(self, count: int | None, seed: int) -> Frames:
        if not len(self.starts):
            raise UsageProblem(f"there are no held-out frames to start from: {self._lacking}; give reset(frames)")
        wanted = 1 if count is None else _whole(count, "count", least=1)
        places = torch.randint(len(self.starts), (wanted,), generator=generator(seed, "starts")).numpy()
        drawn: Frames = self.starts[places if count is not None else places[0]]
        return drawn

    def _checked(self, frames: ArrayLike) -> Frames:
        given = _array(frames, "frames")
        one = self.context_window, *self.frame_shape
        if given.dtype != np.uint8:
            raise UsageProblem(
                f"frames are uint8, from 0 to 255, and these are {given.dtype}; "
                "of numbers from 0 to 1, give (frames * 255).round().astype('uint8')"
            )
        if given.shape[-4:] != one or given.ndim not in (4, 5) or 0 in given.shape:
            raise UsageProblem(
                f"frames of shape {list(given.shape)} are no context: give {list(one)}, the last {one[0]} frames seen "
                "in their order, or [B, …] of them for B worlds"
            )
        return given

    def _numbers(self, action: ArrayLike, worlds: int) -> torch.Tensor:
        given = _array(action, "an action")
        if given.dtype.kind not in "iu":
            raise UsageProblem(f"an action is a whole number from 0 to {self.n_actions - 1}, not {quoted(action)}")
        if given.ndim and not (self._batched and given.shape == (worlds,)):
            wanted = f"{worlds} actions, or one for all" if self._batched else "one action"
            raise UsageProblem(f"actions of shape {list(given.shape)}: {worlds} worlds want {wanted}")
        if wrong := [int(number) for number in given.flat if not 0 <= number < self.n_actions]:
            raise UsageProblem(f"there is no action {wrong[0]}: they are 0 to {self.n_actions - 1}")
        return torch.from_numpy(np.broadcast_to(given, (worlds,)).astype(np.int64))


def _array(value: ArrayLike, what: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as exc:  # ragged lists, tensors of another device or with gradients
        raise UsageProblem(f"{what}: {quoted(value)} makes no array of numpy's ({exc})") from exc


def _whole(value: object, what: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageProblem(f"{what} {quoted(value)}: give a whole number from {least} up")
    return int(value)
