"""What is said of an inference attempt, and what is advised, of worlds of every kind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reporting.worlds import HintedEngine, aged
from tests.support.configs import write_configs
from tests.support.simulation import Simulation
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.causes import Cause
from tiw_fsm.reporting.advice import WORDS, next_steps, verdict_line
from tiw_fsm.reporting.figures import rounded
from tiw_fsm.values.plain import JsonObject

TRIVIAL = {"copy_last": 0.02, "mean_frame": 0.02, "blurred_last": 0.02}
"""Baselines that an MSE of 0.029 does not beat."""


def last(simulation: Simulation) -> JsonObject:
    return simulation.state.inference.attempts[-1].model_dump(mode="json")


WORLDS: dict[str, tuple[Script, str, str]] = {
    "deaf": (
        Script(delta_psnr=[0.1]),
        "the dynamics hardly obey: random actions do about as well (training dynamics longer may mend it); "
        "not met: delta_psnr_above_min",
        "train dynamics longer",
    ),
    "frozen": (
        Script(motion=[0.05]),
        "the dynamics hardly move (training dynamics longer may mend it); not met: motion_above_min",
        "train dynamics longer",
    ),
    "collapsed": (
        Script(mse=[0.025], unique_actions=[1]),
        "all inferred actions are one code, or nearly so (training latent_actions longer does not mend it); "
        "the dynamics fall short of what the gate asks (which may come of it); not met: skill_above_min",
        "`film_init_std: 0.3`",
    ),
    "entangled": (
        Script(delta_psnr=[0.2], key_agreement=[0.05]),
        "the latent actions do not follow the recorded keys (training latent_actions longer does not mend it); "
        "the dynamics hardly obey: random actions do about as well (which may come of it); "
        "not met: delta_psnr_above_min",
        "set `key_hint_weight` in latent_actions.yaml",
    ),
    "trivial": (
        Script(mse=[0.029], baselines=TRIVIAL),
        "the dynamics fall short of what the gate asks (training dynamics longer may mend it); "
        "not met: skill_above_min, beats_copy_last",
        "train dynamics longer",
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_that_is_none_fails_and_its_fault_and_remedy_are_told(simulation: Simulation, world: str) -> None:
    script, told, remedy = WORLDS[world]
    assert simulation.run(script, max_inference_retries=0) == ExitCode.NOT_PASSED
    assert told in verdict_line(last(simulation))
    assert remedy in next_steps(simulation.state)[0]


def test_a_stage_that_was_never_held_to_a_threshold_is_named(simulation: Simulation) -> None:
    gates = {"dynamics": {"from_update": 10_000}, "video_tokenizer": {"from_update": 0}}
    write_configs(simulation.root / "configs", {"loop": {"gates": gates}})
    simulation.run(Script(mse=[0.5]), max_inference_retries=0)
    target = simulation.state.stages["dynamics"].target
    (told,) = [step for step in next_steps(simulation.state) if "no threshold was ever held" in step]
    assert f"dynamics (they hold from update 10000 on, of {target})" in told
    assert "video_tokenizer" not in told


def test_every_cause_has_words() -> None:
    assert WORDS.keys() == {*Cause}


def test_more_retunes_are_not_advised_for_what_they_cannot_mend(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.025], unique_actions=[1]), max_inference_retries=0)
    assert "more retunes of this one will not mend it" in next_steps(simulation.state)[-1]
    assert not any("--max-inference-retries" in step for step in next_steps(simulation.state))


def test_actions_that_were_told_the_keys_need_something_else_than_the_keys(simulation: Simulation) -> None:
    simulation.run_with(HintedEngine(Script(delta_psnr=[0.1], unique_actions=[1])), max_inference_retries=0)
    assert "another `seed`" in next_steps(simulation.state)[0]
    assert "key_hint_weight" not in next_steps(simulation.state)[0]


def test_the_verdict_has_every_figure_with_its_interval_and_what_the_world_was_told(simulation: Simulation) -> None:
    assert simulation.run_with(HintedEngine(Script(mse=[0.0066], delta_psnr=[6.25]))) == ExitCode.PASSED
    assert verdict_line(last(simulation)) == (
        "inference gate, attempt 1: PASSED, MSE 0.0066 (max 0.03; copy_last 0.0300; mean_frame 0.0400; "
        "blurred_last 0.0200), skill +0.67 [+0.67, +0.67], ΔPSNR 6.2 dB [6.2, 6.2], motion 1.00, actions 4 of 4, "
        "keys 0.98, unseen 0 %; it may know this world by heart; trained with recorded keys as a hint"
    )


def test_a_world_of_which_control_and_motion_were_not_measured_says_so(simulation: Simulation) -> None:
    assert simulation.run(Script(delta_psnr=[None], motion=[None])) == ExitCode.PASSED
    assert verdict_line(last(simulation)).endswith("not judged: control, motion")


GATES: dict[str, tuple[float, dict[str, Any], bool, str]] = {
    "a world": (0.01, {}, False, "unseen 50 %"),
    "plain": (0.01, {"allow_trivial": True}, False, "; passed the plain gate"),
    "plain and trivial": (
        *(0.029, {"allow_trivial": True}, False),
        "; passed the plain gate; no better than copying, averaging or blurring",
    ),
    "an older version's": (0.01, {}, True, "; passed the gate of MSE and baselines"),
}


@pytest.mark.parametrize("gate", GATES)
def test_a_pass_says_under_which_gate(simulation: Simulation, gate: str) -> None:
    mse, flags, old, told = GATES[gate]
    assert simulation.run(Script(mse=[mse]), **flags) == ExitCode.PASSED
    assert verdict_line(aged(last(simulation)) if old else last(simulation)).endswith(told)


def test_a_pass_of_the_plain_gate_is_followed_by_advice(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.01], unique_actions=[1]), allow_trivial=True)
    collapsed, passed = next_steps(simulation.state)
    assert collapsed.startswith("all inferred actions are one code")
    assert passed.startswith("it passed the plain gate, which asks neither that it obeys nor that it moves")


@pytest.mark.parametrize(
    ("value", "decimals", "said"),
    [
        (0.667, 2, "0.67"),
        (0.0042, 2, "0.004"),
        (6.25, 1, "6.2"),
        (0.46, 1, "0.46"),
        (None, 1, "–"),
        (-0.04, 2, "-0.040"),
    ],
)
def test_a_figure_near_zero_has_a_decimal_more(value: float | None, decimals: int, said: str) -> None:
    assert rounded(value, decimals) == said
