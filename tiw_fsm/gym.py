"""A world as an environment of gymnasium: ``gymnasium.make("tiw_fsm/World-v0", run="default")`` once this is imported.

The reward is always 0, and no episode ends by itself: a world model knows frames and nothing of goals. What is worth
having is for a wrapper to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.api import load
from tiw_fsm.errors import UsageProblem
from tiw_fsm.values.printable import quoted
from tiw_fsm.worlds.world import Frames, World

try:
    import gymnasium
    from gymnasium.vector.utils import batch_space
except ImportError as exc:
    raise ImportError("a world as an environment needs gymnasium: pip install 'tiw_fsm[gym]'") from exc

ID = "tiw_fsm/World-v0"
SEEDS = 2**31
"""Seeds that a world is given when an episode begins."""
Information = dict[str, Any]


class WorldEnv(gymnasium.Env[Frames, np.int64]):
    """One world. An observation is the current frame, uint8 [H, W, 3]; an action the number of a latent one.

    Attributes:
        world: what is stepped through.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        run: World | str | Path = "default",
        *,
        max_steps: int | None = None,
        render_mode: str | None = None,
        **how: Any,
    ) -> None:
        """An environment of a world, or of what ``tiw_fsm.load`` makes of a run's name or an export's folder.

        Args:
            max_steps: after so many an episode is truncated; never if None.
            how: as ``tiw_fsm.load`` takes it: ``repo_root``, ``state_dir``, ``device``, ``allow_failed``.

        Raises:
            UsageProblem, StateDamaged: as ``tiw_fsm.load`` says.
        """
        self.world = _loaded(run, how)
        self.max_steps, self.render_mode = _positive(max_steps), render_mode
        self.observation_space = gymnasium.spaces.Box(0, 255, self.world.frame_shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(self.world.n_actions)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, Information]:
        """Begin an episode at one of the world's starts, or at a context of one's own: ``options={"frames": …}``.

        Raises:
            UsageProblem: as ``World.reset`` says.
        """
        super().reset(seed=seed)
        self._steps = 0
        frame = self.world.reset(_context(options), seed=int(self.np_random.integers(SEEDS)))
        return frame, {"frames": self.world.frames}

    def step(self, action: np.int64) -> tuple[Frames, float, bool, bool, Information]:
        """The next frame; ``info["frames"]`` has all that came of the step.

        Raises:
            UsageProblem: as ``World.step`` says.
        """
        frame = self.world.step(action)
        self._steps += 1
        truncated = self.max_steps is not None and self._steps >= self.max_steps
        return frame, 0.0, False, truncated, {"frames": self.world.frames}

    def render(self) -> Frames | None:
        """The current frame where the mode is ``rgb_array``."""
        current: Frames = self.world.frames[-1]
        return current.copy() if self.render_mode == "rgb_array" else None


class WorldVectorEnv(gymnasium.vector.VectorEnv[Frames, NDArray[np.int64], NDArray[Any]]):
    """Several worlds of one model, stepped together as one batch: what ``gymnasium.make_vec`` makes.

    All are truncated at the same step, and begin anew together with the step after it.
    """

    metadata = {**WorldEnv.metadata, "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        run: World | str | Path = "default",
        *,
        num_envs: int = 1,
        max_steps: int | None = None,
        render_mode: str | None = None,
        **how: Any,
    ) -> None:
        """As ``WorldEnv``, for ``num_envs`` worlds."""
        self.world = _loaded(run, how)
        self.num_envs, self.max_steps, self.render_mode = num_envs, _positive(max_steps), render_mode
        self.single_observation_space = gymnasium.spaces.Box(0, 255, self.world.frame_shape, np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(self.world.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._steps = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, Information]:
        """As that of ``WorldEnv``; of seeds for each world the first is taken, for all.

        Raises:
            UsageProblem: as ``World.reset`` says.
        """
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        self._steps = 0
        context, drawn = _context(options), int(self.np_random.integers(SEEDS))
        if context is not None and np.shape(context)[:1] != (self.num_envs,):
            raise UsageProblem(f"frames of shape {list(np.shape(context))}: give [{self.num_envs}, …] for the worlds")
        frames = self.world.reset(context, count=None if context is not None else self.num_envs, seed=drawn)
        return frames, {"frames": self.world.frames}

    def step(self, actions: NDArray[np.int64]) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], Information]:
        """The next frames; where the step before was the last, the first ones of the next episode.

        Raises:
            UsageProblem: as ``World.step`` says.
        """
        if self._steps == self.max_steps:
            frames, _ = self.reset()
        else:
            frames = self.world.step(actions)
            self._steps += 1
        ended = np.full(self.num_envs, self._steps == self.max_steps)
        nothing = np.zeros(self.num_envs)
        return frames, nothing, np.zeros(self.num_envs, bool), ended, {"frames": self.world.frames}

    def render(self) -> tuple[Frames, ...] | None:
        """The current frames where the mode is ``rgb_array``."""
        return tuple(self.world.frames[:, -1].copy()) if self.render_mode == "rgb_array" else None


def _loaded(run: World | str | Path, how: dict[str, Any]) -> World:
    return run if isinstance(run, World) else load(run, **how)


def _context(options: dict[str, Any] | None) -> Any:
    if unknown := (options or {}).keys() - {"frames"}:
        raise UsageProblem(f"option {quoted(min(unknown))}: reset has none but frames")
    return (options or {}).get("frames")


def _positive(max_steps: int | None) -> int | None:
    if max_steps is not None and max_steps < 1:
        raise UsageProblem(f"max_steps {quoted(max_steps)}: give a whole number from 1 up, or none")
    return max_steps


gymnasium.register(ID, entry_point=WorldEnv, vector_entry_point=WorldVectorEnv)
