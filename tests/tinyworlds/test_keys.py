"""Recorded keys: which there are, what leads from one frame to the next, and how well actions agree with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tiw_fsm.tinyworlds.keys import UNKNOWN, RecordedKeys, agreement, together


def recorded(*actions: int, stride: int = 1, training: Tensor | None = None) -> RecordedKeys:
    values = torch.tensor(actions)
    return RecordedKeys(values, torch.ones(len(actions), dtype=torch.bool) if training is None else training, stride)


def test_gaps_between_the_numbers_of_keys_mean_nothing() -> None:
    keys = recorded(7, 2, 40, 2)
    assert keys.values == [2, 7, 40]
    assert keys.between.tolist() == [1, 0, 2, 0]


def test_a_negative_key_is_unknown_and_no_key() -> None:
    keys = recorded(3, -1, 5, -7)
    assert keys.values == [3, 5]
    assert keys.between.tolist() == [0, UNKNOWN, 1, UNKNOWN]


def test_over_a_stride_a_key_is_known_where_it_was_held_all_the_while() -> None:
    keys = recorded(1, 1, 2, 2, 2, 1, stride=2)
    assert keys.between.tolist() == [0, UNKNOWN, 1, 1, UNKNOWN, UNKNOWN], "the last row leads to no row two ahead"
    clip = keys.clip(torch.tensor([0]), length=3)
    assert clip.tolist() == [[0, 1]], "rows 0 and 1, then rows 2 and 3"


def test_keys_that_training_never_sees_are_none() -> None:
    keys = recorded(1, 2, 9, training=torch.tensor([True, True, False]))
    assert keys.values == [1, 2]
    assert keys.between.tolist() == [0, 1, UNKNOWN]


def test_each_key_has_an_action_of_its_own_in_the_keys_order() -> None:
    assert recorded(4, 9, 1).codes(4).tolist() == [0, 1, 2]


def test_of_more_keys_than_actions_the_ones_pressed_most_have_one() -> None:
    assert recorded(1, 5, 5, 8, 8, 8, 3).codes(2).tolist() == [UNKNOWN, UNKNOWN, 0, 1]


@pytest.mark.parametrize("actions", [(3, 3, 3), (-1, -1), (3, -1, 3)])
def test_a_constant_key_is_no_hint(actions: tuple[int, ...]) -> None:
    assert set(recorded(*actions).codes(4).tolist()) <= {UNKNOWN}


@given(st.lists(st.integers(-2, 5), min_size=1, max_size=40), st.integers(1, 5), st.sampled_from([2, 4, 8]))
def test_what_is_known_of_a_step_was_pressed_at_each_of_its_rows(actions: list[int], stride: int, n: int) -> None:
    keys = recorded(*actions, stride=stride)
    for row, place in enumerate(keys.between.tolist()):
        rows = set(actions[row : row + stride])
        whole = row + stride <= len(actions)
        assert (place != UNKNOWN) == (whole and len(rows) == 1 and min(rows) >= 0)
        assert place == UNKNOWN or keys.values[place] in rows
    given_codes = [code for code in keys.codes(n).tolist() if code != UNKNOWN]
    assert sorted(given_codes) == list(range(len(given_codes)))
    assert len(given_codes) <= n


# --- agreement --------------------------------------------------------------------------------------------------


def test_actions_that_tell_the_key_agree_wholly_whatever_their_numbers() -> None:
    keys = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    assert agreement(3 - keys, keys) == pytest.approx(1.0)


def test_actions_that_know_nothing_of_the_key_do_not_agree() -> None:
    assert agreement(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])) == pytest.approx(0.0)
    assert agreement(torch.zeros(4, dtype=torch.long), torch.tensor([0, 1, 2, 3])) == 0.0


def test_agreement_is_mutual_information_over_the_mean_of_the_entropies() -> None:
    """Two actions for four equally frequent keys: 1 bit of 2 and of 1, so 1 / 1.5."""
    keys = torch.tensor([0, 1, 2, 3])
    assert agreement(keys // 2, keys) == pytest.approx(1 / 1.5)


@pytest.mark.parametrize("keys", [[2, 2, 2], [-1, -1, -1], [4, -1, 4]])
def test_where_fewer_than_two_keys_are_known_there_is_no_agreement_to_speak_of(keys: list[int]) -> None:
    assert agreement(torch.tensor([0, 1, 1]), torch.tensor(keys)) is None


def test_unknown_keys_are_left_out_of_the_table() -> None:
    table = together(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [-1, 1]]))
    assert table.tolist() == [[1, 0], [0, 2]]
