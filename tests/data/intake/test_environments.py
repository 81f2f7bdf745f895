"""Environments as sources: played by held random keys, the same for the same seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.intake.sources import make
from tests.support.processes import Tiw
from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options
from tiw_fsm.errors import ExitCode, UsageProblem

GRID = "MiniGrid-Empty-5x5-v0"
OWN = '''
import os, sys, gymnasium, numpy as np

class Blocks(gymnasium.Env):
    """A square that an action moves; ten steps an episode."""
    metadata = {"render_modes": []}
    observation_space = gymnasium.spaces.Dict(
        camera=gymnasium.spaces.Box(0, 255, (16, 24, 3), np.uint8), map=gymnasium.spaces.Box(0, 9, (3, 3), np.uint8)
    )
    action_space = gymnasium.spaces.Discrete(3, start=-1)

    def __init__(self, fails=False, blind=False):
        self.fails, self.blind = fails, blind
        Blocks.opened += 1
        if blind:
            self.observation_space = gymnasium.spaces.Dict(map=self.observation_space["map"])

    opened = 0

    def close(self):
        Blocks.opened -= 1

    def look(self):
        shown = np.zeros((16, 24, 3), np.uint8)
        shown[4:8, self.x % 20 : self.x % 20 + 4] = 255
        return {"map": np.zeros((3, 3), np.uint8)} | ({} if self.blind else {"camera": shown})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(20)), 0
        return self.look(), {}

    def step(self, action):
        if self.fails:
            raise RuntimeError("the game is over")
        self.x, self.t = self.x + int(action), self.t + 1
        return self.look(), 0.0, self.t == 10, False, {}

class Bright(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return observation | {"camera": observation["camera"] // 2 + 100}

class Loud(Blocks):
    def step(self, action):
        print("a step")
        os.system("echo a step of a program of mine")
        return super().step(action)

class Leaving(Blocks):
    def step(self, action):
        sys.exit(5)

class Two(Blocks):
    """Two cameras."""
    def look(self):
        return super().look() | {"behind": np.full((16, 24, 3), 7, np.uint8)}

class Drawn(Two):
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def render(self):
        return np.full((16, 24, 3), 200, np.uint8)

class Floats(Blocks):
    def look(self):
        return {"camera": np.zeros((16, 24, 3), np.float32)}

class DrawnInFloats(Drawn):
    def look(self):
        return {"map": np.zeros((3, 3), np.uint8)}

    def render(self):
        return np.zeros((16, 24, 3), np.float32)

for of in (Loud, Leaving, Two, Drawn, Floats, DrawnInFloats):
    gymnasium.register(of.__name__ + "-v0", of)
gymnasium.register("Blocks-v0", Blocks)
gymnasium.register("Failing-v0", Blocks, kwargs={"fails": True})
gymnasium.register("Blind-v0", Blocks, kwargs={"blind": True})
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with environments of one's own in the working directory."""
    (tmp_path / "my_blocks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_blocks", raising=False)
    return "my_blocks"


def test_an_environment_is_recorded_with_its_actions_and_episodes(tmp_path: Path) -> None:
    held = make(tmp_path / "o.h5", GRID, frames=400, seed=3)
    assert held.names == ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
    assert held.actions is not None
    assert held.episode is not None
    assert set(held.actions) <= set(range(-1, 7))
    assert len(set(held.actions)) >= 7
    still = (held.frames[1:] == held.frames[:-1]).all((1, 2, 3))
    turns = np.isin(held.actions[:-1], (0, 1)) & (held.episode[1:] == held.episode[:-1])
    assert not still[turns].any(), "a turn is to be seen in the next row"
    runs = np.diff(np.flatnonzero(np.diff(held.actions)))
    assert runs.max() >= 3, "keys are held"


def test_the_same_seed_plays_the_same(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / f"{name}.h5", GRID, frames=60, seed=seed)
    first, again, other = ((tmp_path / f"{name}.h5").read_bytes() for name in "abc")
    assert first == again != other


def test_observations_that_are_pictures_are_taken_and_wrappers_are_put_on(tmp_path: Path, own: str) -> None:
    held = make(tmp_path / "o.h5", f"{own}:Blocks-v0", frames=110, fit="stretch")
    assert held.lengths == [11] * 10
    assert held.actions is not None
    assert set(held.actions) == {-1, 0, 1, 2}
    assert (held.actions[10::11] == -1).all(), "the last row of an episode leads nowhere"
    assert set(np.unique(held.frames)) >= {0, 255}
    bright = make(tmp_path / "p.h5", f"{own}:Blocks-v0", frames=110, fit="stretch", wrappers=(f"{own}:Bright",))
    assert bright.frames.min() == 100
    short = make(tmp_path / "q.h5", f"{own}:Blocks-v0", frames=60, episode_length=5, key="camera")
    assert short.lengths == [5] * 12
    assert sys.modules[own].Blocks.opened == 0, "each was closed"


def test_an_environment_may_go_to_another_folder(tmp_path: Path, own: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    with (tmp_path / "my_blocks.py").open("a") as module:
        module.write("import os; os.chdir('elsewhere')\n")
    path = list(sys.path)
    assert make(tmp_path / "o.h5", f"{own}:Blocks-v0", frames=60).frames.any()
    assert sys.path == path


def refused(tmp_path: Path, name: str, **options: Any) -> str:
    output = tmp_path / "out" / "o.h5"
    with pytest.raises(UsageProblem) as caught:
        make(output, name, frames=60, **options)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Nowhere-v0", {}, "doesn't exist"),
        ("MiniGrid-Nowhere-v0", {}, "doesn't exist"),
        ("CartPole-v99", {}, "v99"),
        ("ALE/Pong-v5", {}, "needs the package ale_py"),
        ("no_module:Thing-v0", {}, "needs the package no_module"),
        ("my_blocks:Blind-v0", {}, "shows no picture"),
        ("my_blocks:Failing-v0", {}, "the environment failed (RuntimeError: the game is over)"),
        ("my_blocks:Leaving-v0", {}, "the environment failed (SystemExit: 5)"),
        ("my_blocks:Two-v0", {}, "has several observations that are pictures (camera, behind); name one with --key"),
        ("my_blocks:Two-v0", {"key": "map"}, "'map' that is a picture; there are camera, behind"),
        ("my_blocks:Floats-v0", {}, "shows pictures of float32 numbers"),
        ("my_blocks:Floats-v0", {"key": "camera"}, "shows pictures of float32 numbers"),
        ("my_blocks:DrawnInFloats-v0", {}, "shows pictures of float32 numbers"),
        ("my_blocks:Blocks-v0", {"key": "map"}, "has no observation 'map' that is a picture"),
        ("my_blocks:Blocks-v0", {"wrappers": ("my_blocks:Dark",)}, "--wrapper my_blocks:Dark: there is no such class"),
        ("my_blocks:Blocks-v0", {"wrappers": ("no_module:Dark",)}, "needs the package no_module"),
        ("my_blocks:Blocks-v0", {"fps": 5.0}, "has no times"),
    ],
    ids=str,
)
def test_an_environment_that_cannot_be_used_is_refused(
    tmp_path: Path, own: str, name: str, options: dict[str, Any], said: str
) -> None:
    assert said in refused(tmp_path, name, **options)
    assert "my_blocks" not in sys.modules or sys.modules["my_blocks"].Blocks.opened == 0, "it was closed"


def test_what_renders_though_several_observations_are_pictures_says_so(tmp_path: Path, own: str) -> None:
    made = making.make(tmp_path / "o.h5", [f"{own}:Drawn-v0"], Options(size=16, frames=60))
    assert any("several observations that are pictures (camera, behind), so what it renders" in n for n in made.notes)
    assert make(tmp_path / "p.h5", f"{own}:Drawn-v0", frames=60, key="behind").frames.max() == 7


def test_what_an_environment_prints_is_not_what_the_command_prints(tmp_path: Path, tiw: Tiw, own: str) -> None:
    done = tiw(tmp_path, "frames", f"{own}:Loud-v0", "--frames", "60", "-o", "o.h5", "--json")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert json.loads(done.stdout)["rows"] == 60
    assert done.stderr.count("a step\n") >= 50
    assert "a step of a program of mine" in done.stderr


def test_without_gymnasium_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert "pip install 'tiw_fsm[gym]'" in refused(tmp_path, "CartPole-v1")


def test_an_environment_given_to_record_is_answered_with_the_command_that_records_it(tmp_path: Path, tiw: Tiw) -> None:
    done = tiw(tmp_path, "record", "--game", GRID)
    assert done.returncode == ExitCode.USAGE
    command = done.stderr.partition("`tiw-fsm ")[2].partition("`")[0]
    assert command == f"frames {GRID} -o data/{GRID}.h5"
    assert tiw(tmp_path, *command.split(), "--frames", "60").returncode == ExitCode.PASSED
    assert (tmp_path / f"data/{GRID}.h5").exists()
