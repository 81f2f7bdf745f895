"""A world that is stepped through from Python: the gate's rollout, one by one or in a batch, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tiw_fsm
from tests.support.playing import rolled_out
from tests.support.simulation import Simulation
from tiw_fsm.play.world import Game
from tiw_fsm.tinyworlds.clips import FrameData, to_model, to_pixels
from tiw_fsm.worlds.world import World

ACTIONS = [0, 3, 3, 1, 2, 0, 1, 2, 3]


@pytest.fixture(scope="module")
def loaded(passed_root: Path) -> World:
    return tiw_fsm.load("default", repo_root=passed_root)


@pytest.fixture(scope="module")
def data(passed_root: Path) -> FrameData:
    """The frames of its run."""
    return FrameData(tiw_fsm.open_run(repo_root=passed_root).settings.data, torch.device("cpu"))


@pytest.fixture
def world(loaded: World) -> World:
    """One that has not begun."""
    return altered(loaded)


def altered(world: World, **changes: Any) -> World:
    """The same world, inferring with other settings."""
    config = world.config.evolve(**changes)
    context = config.context_window == world.config.context_window
    return World(world.model, config, world.frame_shape[0], world.starts if context else None, keys=world.keys)


def played(world: World, actions: Any) -> np.ndarray:
    """Every frame that comes of ``actions``, one after the other: [..., T, H, W, 3]."""
    made = []
    for action in actions:
        world.step(action)
        made.append(world.frames)
    return np.concatenate(made, axis=-4)


@pytest.mark.parametrize(
    "changes", [{}, {"prediction_horizon": 2}, {"context_window": 3}, {"temperature": 1.0, "seed": 5}], ids=str
)
def test_a_world_is_the_rollout_of_its_actions_bit_for_bit(
    loaded: World, data: FrameData, changes: dict[str, Any]
) -> None:
    world = altered(loaded, **changes)
    game = Game(world.model, data, world.config)
    start = game.clip(int(game.starts[7]), world.context_window)
    shown = world.reset(to_pixels(start)[0])
    assert np.array_equal(shown, to_pixels(start)[0, -1])
    assert np.array_equal(played(world, ACTIONS), rolled_out(game, 7, ACTIONS))


def test_a_batch_is_the_gates_rollout_of_it_and_at_temperature_0_each_world_by_itself(loaded: World) -> None:
    actions = np.array([ACTIONS, ACTIONS[::-1], [3 - action for action in ACTIONS]])
    for temperature in (0.0, 1.0):
        world = altered(loaded, temperature=temperature)
        world.reset(world.starts[:3])
        together = played(world, actions.T)
        contexts = to_model(torch.from_numpy(world.starts[:3]))
        quantizer = world.model.actions.quantizer
        with torch.no_grad():
            inside = world.model.actions.encode(contexts)
        led = torch.cat([inside, quantizer.latents_from_indices(torch.from_numpy(actions))], dim=1)
        window = world.context_window
        config = world.config.evolve(generation_steps=len(ACTIONS))
        steps = [led[:, n : n + window] for n in range(len(ACTIONS))]
        assert np.array_equal(together, to_pixels(world.model.rollout(contexts, steps, config)))
    world = altered(loaded, temperature=0.0)
    world.reset(world.starts[:3])
    together = played(world, actions.T)
    for start, pressed, expected in zip(world.starts, actions, together, strict=False):
        world.reset(start)
        alone = played(world, pressed)
        assert np.abs(alone.astype(int) - expected).max() <= 1  # products of another size round otherwise


def test_the_frame_of_a_step_is_the_last_one_and_the_shapes_are_those_of_the_worlds(world: World) -> None:
    size = world.frame_shape
    assert (size, world.n_actions, world.context_window) == ((16, 16, 3), 4, 2)
    assert world.reset().shape == size
    assert world.frames.shape == (2, *size)
    frame = world.step(np.int64(1))
    assert (frame.shape, frame.dtype, world.frames.shape) == (size, np.uint8, (1, *size))
    assert world.reset(count=3).shape == (3, *size)
    assert world.step(2).shape == (3, *size)  # one for all
    two = altered(world, prediction_horizon=2)
    two.reset()
    frame = two.step(0)
    assert two.frames.shape == (2, *size)
    assert np.array_equal(frame, two.frames[-1])
    frame[:] = 0
    assert two.frames[-1].any()  # what was handed out is the caller's own


def test_the_seed_decides_where_it_starts_and_what_is_drawn(loaded: World) -> None:
    world = altered(loaded, temperature=1.0)

    def game(**how: Any) -> bytes:
        first = world.reset(**how)
        return first.tobytes() + played(world, ACTIONS).tobytes()

    assert game() == game() == game(seed=world.config.seed)
    assert len({game(seed=seed) for seed in range(6)}) == 6
    assert game(seed=3) == game(seed=3)
    assert len({game(frames=world.starts[0], seed=seed) for seed in range(3)}) == 3


def test_starts_are_held_out_frames_of_the_run(world: World, data: FrameData) -> None:
    window = world.context_window
    rows = data.clip_starts(window + 1, held_out=True)
    held_out = {clip.tobytes() for clip in data.clips(rows, window).numpy()}
    assert len(world.starts) > 1
    assert all(start.tobytes() in held_out for start in world.starts)


BAD_USE: dict[str, tuple[Callable[[World], object], str]] = {
    "step first": (lambda w: w.step(0), "has not begun: call reset"),
    "look first": (lambda w: w.frames, "has not begun: call reset"),
    "too large": (lambda w: (w.reset(), w.step(4)), "there is no action 4: they are 0 to 3"),
    "negative": (lambda w: (w.reset(), w.step(-1)), "there is no action -1: they are 0 to 3"),
    "one of them": (lambda w: (w.reset(count=2), w.step([0, 7])), "there is no action 7"),
    "no number": (lambda w: (w.reset(), w.step("left")), "whole number from 0 to 3, not 'left'"),
    "float": (lambda w: (w.reset(), w.step(1.0)), "whole number from 0 to 3, not 1.0"),
    "bool": (lambda w: (w.reset(), w.step(True)), "whole number from 0 to 3, not True"),
    "ragged": (lambda w: (w.reset(), w.step([[1], [1, 2]])), "an action: a list makes no array"),
    "with gradients": (lambda w: w.reset(torch.zeros(2, requires_grad=True)), "frames: a Tensor makes no array"),
    "huge": (lambda w: (w.reset(), w.step(10**30)), "whole number from 0 to 3, not an integer of too many digits"),
    "many": (lambda w: (w.reset(), w.step([1])), "shape [1]: 1 worlds want one action"),
    "too few": (lambda w: (w.reset(count=3), w.step([1, 2])), "shape [2]: 3 worlds want 3 actions, or one for all"),
    "float frames": (lambda w: w.reset(np.zeros((2, 16, 16, 3))), "uint8, from 0 to 255, and these are float64"),
    "short": (lambda w: w.reset(w.starts[0][:1]), "give [2, 16, 16, 3], the last 2 frames seen"),
    "other size": (lambda w: w.reset(np.zeros((2, 8, 16, 3), np.uint8)), "frames of shape [2, 8, 16, 3]"),
    "no worlds": (lambda w: w.reset(w.starts[:0]), "frames of shape [0, 2, 16, 16, 3]"),
    "both": (lambda w: w.reset(w.starts[0], count=1), "not both"),
    "count": (lambda w: w.reset(count=0), "count 0: give a whole number from 1 up"),
    "seed": (lambda w: w.reset(seed=-1), "seed -1: give a whole number from 0 up"),
}


@pytest.mark.parametrize("case", BAD_USE)
def test_bad_use_is_said_in_a_sentence_and_the_world_goes_on(world: World, case: str) -> None:
    use, said = BAD_USE[case]
    with pytest.raises(tiw_fsm.TiwFsmError) as refused:
        use(world)
    assert said in str(refused.value)
    world.reset()
    assert world.step(0).any()


@given(
    arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.bool_]),
        st.lists(st.sampled_from([0, 1, 2, 3, 16]), max_size=6).map(tuple),
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_array_it_is_given_no_other_error_comes_of_it(loaded: World, array: np.ndarray[Any, Any]) -> None:
    for use in (loaded.reset, lambda action: (loaded.reset(count=2), loaded.step(action))):
        with suppress(tiw_fsm.TiwFsmError):
            use(array)
    loaded.reset()
    assert loaded.step(0).shape == loaded.frame_shape


def test_a_device_that_there_is_not_is_refused(passed_root: Path) -> None:
    with pytest.raises(tiw_fsm.TiwFsmError, match="device 'tpu': there are auto, cpu and cuda"):
        tiw_fsm.load("default", repo_root=passed_root, device="tpu")


def test_where_the_frames_are_gone_a_world_still_steps_from_frames_that_are_given(
    passed_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(passed_root, tmp_path / "root")
    (root / "frames.h5").unlink()
    world = tiw_fsm.load("default", repo_root=root)
    with pytest.raises(tiw_fsm.TiwFsmError, match=r"no held-out frames to start from: .*frames\.h5"):
        world.reset()
    world.reset(np.zeros((2, 16, 16, 3), np.uint8))
    assert world.step(0).shape == (16, 16, 3)


def test_what_cannot_be_loaded_is_refused_with_what_to_do(simulation: Simulation) -> None:
    with pytest.raises(tiw_fsm.TiwFsmError, match="has not begun"):
        tiw_fsm.load("other", repo_root=simulation.root)
    simulation.run()
    with pytest.raises(tiw_fsm.TiwFsmError, match="was simulated and has no model"):
        tiw_fsm.load("default", repo_root=simulation.root)
