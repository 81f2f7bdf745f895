"""``--set``: any key of a YAML file, typed in the place of what the file says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config.test_yaml import WRONG
from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.settings import settings_of
from tests.support.simulation import Simulation
from tiw_fsm.config import chosen
from tiw_fsm.config.files import ANYTHING, keys
from tiw_fsm.config.flags import as_typed
from tiw_fsm.config.settings import Settings
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode, RunChanged, UsageProblem
from tiw_fsm.stages import Stage


def with_set(root: Path, *words: str, **flags: Any) -> Settings:
    """The settings of a first start with these words behind ``--set``."""
    return settings_of(root, **chosen.merged({}, {**flags, "set": chosen.read(words)}))


def refused(root: Path, *words: str, **flags: Any) -> str:
    with pytest.raises(UsageProblem) as caught:
        with_set(root, *words, **flags)
    return str(caught.value)


# --- what it does -----------------------------------------------------------------------------------------------


def test_a_chosen_value_holds_as_if_its_file_said_so(root: Path) -> None:
    words = ["loop.chunks.dynamics=7", "loop.inference.beat=[mean_frame]", "inference.temperature=0.5"]
    words += ["training.learning_rate=1e-4", "dynamics.masking=next_frame"]
    found = with_set(root, *words, "loop.gates.dynamics.verdicts.continue.final.max=3")
    assert found.loop.chunks[Stage.DYNAMICS] == 7
    assert found.loop.inference.beat == ("mean_frame",)
    assert found.inference.temperature == 0.5
    assert {stage.learning_rate for stage in found.stages.values()} == {1e-4}
    assert found.stages[Stage.DYNAMICS].masking == "next_frame"
    bounds = found.loop.gates[Stage.DYNAMICS].verdicts["continue"]
    assert bounds["final"].max == 3
    assert len(bounds) > 1, "what else the gate asks for is left"


def test_what_is_chosen_for_a_stage_comes_before_what_training_says(root: Path) -> None:
    write_configs(root / "configs", {"training": {"n_updates": 50}})
    found = with_set(root, "dynamics.n_updates=9", "training.n_updates=40")
    assert [config.n_updates for config in found.stages.values()] == [40, 40, 9]


def test_what_is_chosen_for_training_holds_for_every_stage_whatever_their_files_say(root: Path) -> None:
    write_configs(root / "configs", {stage: {"embed_dim": 24} for stage in ("video_tokenizer", "dynamics")})
    found = with_set(root, "training.embed_dim=48")
    assert {config.embed_dim for config in found.stages.values()} == {48}
    assert [row for row in found.alignment if row[0] == "embed_dim"] == [
        ("embed_dim", "--set training.embed_dim=48", "48")
    ]


def test_a_stage_that_is_chosen_another_size_is_misaligned(root: Path) -> None:
    said = refused(root, "dynamics.embed_dim=48")
    assert "embed_dim is 24 here but 48 at --set dynamics.embed_dim=48; give all stages one value" in said


# --- mistakes ---------------------------------------------------------------------------------------------------

MISTAKES = {
    "dynamics.n_updates=x": r"--set dynamics\.n_updates=x: n_updates: .* valid integer, not 'x'",
    "loop.budgets.max_crashes=-1": r"--set loop\.budgets\.max_crashes=-1: .* greater than or equal to 0, not -1",
    "loop.seed=010": r"--set loop\.seed=010: 010 is not the same to every reader of YAML",
    "loop.seed=[1": r"--set loop\.seed=\[1: not readable as YAML",
    "loop.seed": r"--set loop\.seed: no KEY=VALUE",
    "=3": r"--set =3: there is no such key",
    "dynamics.embd_dim=3": r"there is no such key; the nearest: dynamics\.embed_dim",
    "n_updates=3": r"the nearest: training\.n_updates, video_tokenizer\.n_updates",
    "dynamics.fps=30": r"the nearest: training\.fps",
    "typo=": r"--set typo: there is no such key; it begins with one of training, video_tokenizer",
    "loop.budgets=3": r"no key with a value of its own; there is loop\.budgets\.max_train_retries",
    "loop.budgets={max_crashes: 1}": r"no key with a value of its own",
    "training.patch_size={a: 1}": r"a mapping; set its keys one by one",
    "training.distributed.=1": r"there is no such key",
    "dynamics.checkpoint=x": r"--set dynamics\.checkpoint=x: checkpoint names a checkpoint; leave it empty",
    "training.dataset=" + "x" * 2000: r"longer than 1000 letters; write it into the file",
    'training.dataset="\\0"': r"text with .* in it, which no path or command can have",
    "training.dataset='\\e[31m\udcff'": r"not readable as YAML",
}


@pytest.mark.parametrize("word", MISTAKES, ids=lambda word: word[:40])
def test_a_mistake_names_the_flag_and_what_to_do(root: Path, word: str) -> None:
    said = refused(root, word)
    assert re.search(MISTAKES[word], said), said
    assert said.replace("\n", "").isprintable()
    assert len(said) < 1000


def test_all_mistakes_are_told_at_once(root: Path) -> None:
    said = refused(root, "dynamics.n_updates=x", "loop.seed=-1")
    assert len(said.splitlines()) == 2
    assert "given twice" in refused(root, "loop.seed=1", "loop.seed=2")


@pytest.mark.parametrize("word", ["loop.on_finish=PASSWORD", "loop.on_finish=[PASSWORD", "loop.on_finish="])
def test_a_command_cannot_be_chosen_and_is_never_quoted(simulation: Simulation, tiw: Tiw, word: str) -> None:
    done = tiw(simulation.root, "run", "--engine", "simulated", "--set", word)
    assert done.returncode == ExitCode.USAGE
    assert "--set loop.on_finish: " in done.stderr
    assert "PASSWORD" not in done.stderr
    assert not (simulation.root / "state/default/state.json").exists()


@pytest.mark.parametrize("given", [["loop.seed=1"], {"loop.seed": object()}, {"loop.seed": float("nan")}, {7: 1}])
def test_what_python_gives_is_looked_at_too(simulation: Simulation, given: Any) -> None:
    with pytest.raises(UsageProblem, match="--set"):
        simulation.run(set=given)


PARTS = 12


@pytest.mark.parametrize("part", range(3))
def test_no_value_of_any_key_is_a_bug(root: Path, part: int) -> None:
    """It is taken, or refused in words that name the flag."""
    for number, key in enumerate(keys()):
        if number % 3 == part:
            key = key.replace(ANYTHING, "use_ddp")
            for value in WRONG[number // 3 % PARTS :: PARTS]:
                try:
                    with_set(root, f"{key}={value}")
                except UsageProblem as exc:
                    said = str(exc)
                    assert f"--set {key}" in said, (key, value, said)
                    assert said.replace("\n", "").isprintable()


# --- what is remembered -----------------------------------------------------------------------------------------


def test_what_was_chosen_is_remembered_key_by_key_and_can_be_taken_back(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=0, set={"loop.chunks.dynamics": 5, "loop.seed": 3})
    assert simulation.state.outcome == "failed"
    simulation.run(Script(mse=[0.01]), set={"loop.inference.max_mse": 0.04, "loop.budgets.max_crashes": 9})
    assert simulation.state.flags["set"] == {
        "loop.chunks.dynamics": 5,
        "loop.seed": 3,
        "loop.inference.max_mse": 0.04,
        "loop.budgets.max_crashes": 9,
    }
    assert simulation.state.loop.inference.max_mse == 0.04
    shown = tiw(simulation.root, "status").stdout
    assert "--set loop.chunks.dynamics=5 --set loop.seed=3 --set loop.inference.max_mse=0.04" in shown


def test_a_key_without_a_value_is_the_files_again(simulation: Simulation) -> None:
    write_configs(simulation.root / "configs", {"loop": {"budgets": {"max_inference_retries": 0}}})
    simulation.run(Script(mse=[0.5]), set={"loop.budgets.max_crashes": 9, "loop.inference.max_mse": 0.04})
    simulation.run(Script(mse=[0.5]), set={"loop.inference.max_mse": None}, max_inference_retries=1)
    assert simulation.state.flags["set"] == {"loop.budgets.max_crashes": 9}
    assert simulation.state.loop.inference.max_mse == 0.03
    simulation.run(Script(mse=[0.01]), set={"loop.budgets.max_crashes": None}, max_inference_retries=2)
    assert "set" not in simulation.state.flags


def test_what_decides_the_weights_is_refused_when_it_changes(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=0, set={"dynamics.learning_rate": 0.001})
    with pytest.raises(RunChanged, match=r"dynamics\.learning_rate: 0\.001 → 0\.003"):
        simulation.run(set={"dynamics.learning_rate": None}, max_inference_retries=1)


def test_of_a_key_with_a_flag_of_its_own_what_was_typed_last_holds(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=0, max_crashes=7, set={"loop.inference.max_mse": 0.02})
    changed = {"max_mse": 0.04, "set": {"loop.budgets.max_crashes": 8}}
    simulation.run(Script(mse=[0.5]), **changed)
    assert (simulation.state.loop.inference.max_mse, simulation.state.loop.budgets.max_crashes) == (0.04, 8)
    simulation.run(Script(mse=[0.01]), max_inference_retries=1)
    assert (simulation.state.loop.inference.max_mse, simulation.state.loop.budgets.max_crashes) == (0.04, 8)
    with pytest.raises(UsageProblem, match=r"--set loop\.seed=1: --seed says the same; give one of the two"):
        simulation.run(seed=1, set={"loop.seed": 1})


def test_taking_a_key_back_takes_back_the_flag_that_says_the_same(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.5]), max_inference_retries=0, max_mse=0.04, max_crashes=7)
    simulation.run(Script(mse=[0.5]), max_inference_retries=1, set={"loop.inference.max_mse": 0.02})
    simulation.run(Script(mse=[0.01]), max_inference_retries=2, set={"loop.inference.max_mse": None})
    assert simulation.state.loop.inference.max_mse == 0.03, "the file's"
    assert "max_mse" not in simulation.state.flags
    assert simulation.state.flags["max_crashes"] == 7
    with pytest.raises(UsageProblem, match="--max-mse says the same; give one of the two"):
        simulation.run(max_mse=0.05, set={"loop.inference.max_mse": None})


def test_a_dataset_below_the_working_root_is_remembered_as_seen_from_there(simulation: Simulation) -> None:
    simulation.run(set={"training.dataset": str(simulation.root / "frames.h5")})
    assert simulation.state.flags["set"]["training.dataset"] == "./frames.h5"


def test_check_takes_it_too(root: Path, tiw: Tiw) -> None:
    done = tiw(root, "check", "--set", "training.n_actions=5", "--json")
    assert done.returncode == ExitCode.USAGE
    assert "--set training.n_actions=5: n_actions" in json.loads(done.stdout)[0]["problems"][0]
    assert tiw(root, "check", "--set", "training.n_actions=8").returncode == ExitCode.PASSED


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab 1#"),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_what_is_typed_means_what_it_would_mean_in_the_file(tmp_path: Path, value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True, width=9**9).removesuffix("...\n").strip()
    assert chosen.read([f"loop.seed={text}"]) == {"loop.seed": yaml.safe_load(f"a: {text}")["a"]}


def test_flags_are_shown_as_they_would_be_typed() -> None:
    flags = {"max_mse": 0.02, "teacher_forced": False, "set": {"loop.inference.beat": ["a b"], "loop.seed": 1}}
    assert as_typed(flags) == (
        """--max-mse 0.02 --no-teacher-forced --set 'loop.inference.beat=["a b"]' --set loop.seed=1"""
    )
