"""A world as an environment: gymnasium's own checker passes it, and it steps as the world does."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import tiw_fsm
from tiw_fsm.gym import WorldEnv, WorldVectorEnv
from tiw_fsm.worlds.world import World

ACTIONS = [0, 3, 1, 2, 2, 1]


@pytest.fixture(scope="module")
def world(passed_root: Path) -> World:
    return tiw_fsm.load("default", repo_root=passed_root)


def test_gymnasiums_checker_has_nothing_to_say(passed_root: Path) -> None:
    env = gymnasium.make("tiw_fsm/World-v0", run="default", repo_root=passed_root, max_steps=5, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    assert env.action_space == gymnasium.spaces.Discrete(4)
    env.reset(seed=0)
    steps = [env.step(env.action_space.sample()) for _ in range(5)]
    assert [(reward, terminated) for _, reward, terminated, *_ in steps] == [(0.0, False)] * 5
    assert [truncated for *_, truncated, _ in steps] == [False] * 4 + [True]
    assert np.array_equal(env.render(), steps[-1][0])


def test_who_steps_on_behind_the_last_step_is_told_again(world: World) -> None:
    env = WorldEnv(world, max_steps=2)
    env.reset(seed=0)
    assert [env.step(np.int64(0))[3] for _ in range(4)] == [False, True, True, True]
    endless = WorldEnv(world)
    endless.reset(seed=0)
    assert not any(endless.step(np.int64(0))[3] for _ in range(3))


def test_an_episode_is_that_of_the_world(world: World) -> None:
    env = WorldEnv(world)
    context = world.starts[2]
    shown, _ = env.reset(seed=1, options={"frames": context})
    seen = [env.step(np.int64(action))[0] for action in ACTIONS]
    assert np.array_equal(shown, world.reset(context))
    assert np.array_equal(seen, [world.step(action) for action in ACTIONS])  # at temperature 0 no seed matters


def test_episodes_follow_from_the_seed_and_differ(world: World) -> None:
    env = WorldEnv(world)
    first = [env.reset(seed=7)[0].tobytes(), *(env.reset()[0].tobytes() for _ in range(8))]
    assert first == [env.reset(seed=7)[0].tobytes(), *(env.reset()[0].tobytes() for _ in range(8))]
    assert len(set(first)) > 3


def test_worlds_in_a_vector_are_one_batch_and_begin_anew_together(passed_root: Path, world: World) -> None:
    envs = gymnasium.make_vec("tiw_fsm/World-v0", num_envs=3, run="default", repo_root=passed_root, max_steps=4)
    assert isinstance(envs.unwrapped, WorldVectorEnv)
    shown, _ = envs.reset(seed=3)
    assert shown in envs.observation_space
    assert shown.shape == (3, 16, 16, 3)
    ends = []
    for action in ACTIONS:
        frames, rewards, terminated, truncated, _ = envs.step(np.full(3, action))
        assert frames in envs.observation_space
        assert (rewards.tolist(), terminated.tolist()) == ([0.0] * 3, [False] * 3)
        ends.append(truncated.tolist())
    assert ends == [[False] * 3] * 3 + [[True] * 3] + [[False] * 3] * 2
    own = WorldVectorEnv(world, num_envs=2, render_mode="rgb_array")
    own.reset(options={"frames": world.starts[:2]})
    found = [own.step(np.array([action, 3 - action]))[0] for action in ACTIONS]
    assert np.array_equal(own.render(), found[-1])
    world.reset(world.starts[:2])
    assert np.array_equal(found, [world.step([action, 3 - action]) for action in ACTIONS])


def test_bad_use_is_said_in_a_sentence(world: World, passed_root: Path) -> None:
    for use, said in (
        (lambda: WorldEnv("other", repo_root=passed_root), "has not begun"),
        (lambda: WorldEnv(world, max_steps=0), "max_steps 0: give a whole number from 1 up"),
        (lambda: WorldEnv(world).reset(options={"start": 1}), "option 'start': reset has none but frames"),
        (lambda: WorldVectorEnv(world, num_envs=2).reset(options={"frames": world.starts[0][None]}), "give [2, …]"),
    ):
        with pytest.raises(tiw_fsm.TiwFsmError) as refused:
            use()
        assert said in str(refused.value)


def test_without_gymnasium_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['gymnasium'] = None\ntry: import tiw_fsm.gym\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "a world as an environment needs gymnasium: pip install 'tiw_fsm[gym]'\n"
