"""Why a world model failed: which figures show which cause, and in which order causes are mended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiw_fsm.fsm.causes import BLURRED, COLLAPSED, ENTANGLED, FAULTS, Cause, causes, out_of_reach
from tiw_fsm.stages import Stage


def failed(**changes: Any) -> dict[str, Any]:
    """An attempt that failed for no reason yet: every figure is good."""
    conditions = {
        "mse_within_max": True,
        "skill_above_min": True,
        "delta_psnr_above_min": True,
        "motion_above_min": True,
        "beats_copy_last": True,
        **changes.pop("conditions", {}),
    }
    good = {
        "passed": False,
        "max_mse": 0.03,
        "baselines": {"copy_last": 0.02},
        "tokenizer_mse": 0.001,
        "tokenizer_motion": 0.9,
        "unique_actions": 4,
        "action_entropy": 1.0,
        "key_agreement": 0.9,
    }
    return {**good, **changes, "conditions": conditions}


TABLE: list[tuple[dict[str, Any], Cause | None]] = [
    ({}, None),
    ({"tokenizer_mse": 0.025}, Cause.TOKENIZER_TOO_COARSE),
    ({"tokenizer_mse": 0.02}, None),
    ({"tokenizer_motion": BLURRED - 0.01}, Cause.TOKENIZER_BLURS_MOTION),
    ({"tokenizer_motion": BLURRED}, None),
    ({"tokenizer_motion": None}, None),
    ({"unique_actions": 1}, Cause.ACTIONS_COLLAPSED),
    ({"action_entropy": COLLAPSED - 0.01}, Cause.ACTIONS_COLLAPSED),
    ({"unique_actions": None, "action_entropy": None}, None),
    ({"key_agreement": ENTANGLED - 0.01}, Cause.ACTIONS_ENTANGLED),
    ({"key_agreement": None}, None),
    ({"conditions": {"delta_psnr_above_min": False}}, Cause.DYNAMICS_DEAF),
    ({"conditions": {"motion_above_min": False}}, Cause.DYNAMICS_FROZEN),
    ({"conditions": {"skill_above_min": False}}, Cause.DYNAMICS_SHORT),
    ({"conditions": {"mse_within_max": False}}, Cause.DYNAMICS_SHORT),
    ({"conditions": {"beats_copy_last_first_step": False}}, Cause.DYNAMICS_SHORT),
    ({"conditions": {"new_picture": False}}, None),
]


@pytest.mark.parametrize(("changes", "cause"), TABLE)
def test_a_cause_is_told_by_its_own_figure(changes: dict[str, Any], cause: Cause | None) -> None:
    assert causes(failed(**changes)) == ([] if cause is None else [cause])


@pytest.mark.parametrize(("changes", "cause"), TABLE)
def test_an_attempt_that_passed_has_no_fault(changes: dict[str, Any], cause: Cause | None) -> None:
    assert causes(failed(**changes, passed=True)) == []


def test_an_attempt_of_an_older_version_can_be_explained() -> None:
    newer = ("tokenizer_motion", "key_agreement")
    old = {key: value for key, value in failed(unique_actions=1).items() if key not in newer}
    assert causes(old) == [Cause.ACTIONS_COLLAPSED]


@given(st.lists(st.sampled_from(TABLE), max_size=6))
def test_causes_come_in_the_order_of_the_stages(picked: list[tuple[dict[str, Any], Cause | None]]) -> None:
    """However many there are at once, none hides another, and what is mended first comes first."""
    changes: dict[str, Any] = {}
    for change, _ in picked:
        changes |= {**change, "conditions": changes.get("conditions", {}) | change.get("conditions", {})}
    found = causes(failed(**changes))
    assert found == [cause for cause in Cause if cause in found]
    stages = [list(Stage).index(FAULTS[cause].stage) for cause in found]
    assert stages == sorted(stages)
    assert set(found) >= {cause for change, cause in picked if cause and "conditions" in change}


def test_every_cause_has_its_fault_and_only_actions_are_not_mended_by_training_longer() -> None:
    assert FAULTS.keys() == {*Cause}
    assert {fault.stage for fault in FAULTS.values() if not fault.longer_helps} == {Stage.LATENT}


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0.001, 1), st.booleans())
def test_what_is_out_of_reach_is_the_least_of_what_is_asked(
    floor: float, largest: float, baseline: float, asked: bool
) -> None:
    attempt = failed(tokenizer_mse=floor, max_mse=largest, baselines={"copy_last": baseline})
    if not asked:
        del attempt["conditions"]["beats_copy_last"]
    least = min(largest, baseline) if asked else largest
    name = "copy_last" if asked and baseline < largest else "the maximum"
    assert out_of_reach(attempt) == ((name, least) if floor > least else None)
