"""How many processes are started for what is asked, and for the GPUs there are."""

from __future__ import annotations

import pytest

from tiw_fsm.engines.native.settings import Launch, NativeSettings
from tiw_fsm.errors import UsageProblem

TYPED = NativeSettings(per_node=4, by_flag=True, at_its_word=True)
TYPED_EARLIER = NativeSettings(per_node=4, by_flag=True, at_its_word=False)
FROM_YAML = NativeSettings(per_node=4, at_its_word=False)
AUTO = NativeSettings(per_node=None, at_its_word=False)


def number(asked: NativeSettings, gpus: int, counts: list[int] | None = None) -> int:
    return Launch(processes=asked, counts=counts, device="auto", name="run", max_silence=1).number(gpus)


@pytest.mark.parametrize(
    ("asked", "gpus", "started"),
    [
        (TYPED, 0, 4),
        (TYPED, 2, 4),
        (TYPED_EARLIER, 0, 4),
        (TYPED_EARLIER, 2, 2),
        (TYPED_EARLIER, 8, 4),
        (FROM_YAML, 0, 1),
        (FROM_YAML, 2, 2),
        (FROM_YAML, 8, 4),
        (AUTO, 0, 1),
        (AUTO, 8, 8),
    ],
)
def test_a_typed_number_holds_and_any_other_is_limited_to_the_gpus(
    asked: NativeSettings, gpus: int, started: int
) -> None:
    assert number(asked, gpus) == started


@pytest.mark.parametrize(("asked", "gpus", "started"), [(AUTO, 8, 6), (AUTO, 5, 3), (FROM_YAML, 4, 3)])
def test_of_the_gpus_there_are_as_many_are_used_as_can_share_the_global_batch(
    asked: NativeSettings, gpus: int, started: int
) -> None:
    assert number(asked, gpus, [1, 2, 3, 6]) == started


def test_a_typed_number_that_cannot_share_the_global_batch_is_refused_with_those_that_can() -> None:
    with pytest.raises(UsageProblem, match=r"4 processes cannot share .* can: 1, 2, 3, 6\."):
        number(TYPED, 0, [1, 2, 3, 6])


def test_the_number_that_counts_is_that_of_all_machines() -> None:
    two = AUTO.evolve(nodes=2)
    assert number(two, 4, [1, 2, 3, 6]) == 3
    with pytest.raises(UsageProblem, match="2 processes on each of 2 machines cannot"):
        number(TYPED.evolve(nodes=2, per_node=2), 0, [1, 2, 3, 6])
