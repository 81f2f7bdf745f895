"""How an update's clips are divided over processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiw_fsm.tinyworlds import division
from tiw_fsm.values.frozen import Tuning

tunings = st.builds(
    Tuning,
    learning_rate=st.just(0.1),
    gradient_accumulation_steps=st.integers(1, 6),
    batch_size_per_gpu=st.integers(1, 12),
    log_interval=st.just(1),
)


@given(tunings, st.integers(1, 6), st.data())
def test_every_clip_of_an_update_is_computed_once_by_equal_processes(
    tuning: Tuning, processes: int, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from(division.counts(division.global_batch(tuning, processes))))
    all_ = [division.passes(tuning, processes, rank, size) for rank in range(size)]
    clips = [(micro, clip) for turns in all_ for micro, share in turns for clip in range(share.start, share.stop)]
    drawn = division.micro_batch(tuning, processes)
    assert sorted(clips) == [
        (micro, clip) for micro in range(tuning.gradient_accumulation_steps) for clip in range(drawn)
    ]
    sizes = {share.stop - share.start for turns in all_ for _, share in turns}
    assert len(sizes) == 1
    assert sizes.pop() <= tuning.batch_size_per_gpu
    assert len({len(turns) for turns in all_}) == 1


@given(tunings, st.integers(1, 6))
def test_the_processes_it_is_meant_for_compute_a_micro_batch_in_each_pass(tuning: Tuning, processes: int) -> None:
    for rank in range(processes):
        turns = division.passes(tuning, processes, rank, processes)
        assert [micro for micro, _ in turns] == list(range(tuning.gradient_accumulation_steps))


@given(tunings, st.integers(1, 6), st.integers(1, 100))
def test_a_number_that_does_not_divide_the_global_batch_is_refused(tuning: Tuning, processes: int, size: int) -> None:
    if size in division.counts(division.global_batch(tuning, processes)):
        assert division.can_share(tuning, processes, size)
    else:
        assert not division.can_share(tuning, processes, size)
        with pytest.raises(ValueError, match="cannot be divided"):
            division.passes(tuning, processes, 0, size)


def test_a_batch_of_any_size_is_divided_at_once() -> None:
    tuning = Tuning(learning_rate=0.1, gradient_accumulation_steps=10**9, batch_size_per_gpu=10**9, log_interval=1)
    assert division.counts(division.global_batch(tuning, 4))[:5] == [1, 2, 4, 5, 8]
    assert division.share(tuning, 4, 2) == (2, 2 * 10**9, 10**9)


def test_numbers_that_can_share_several_global_batches_are_their_common_divisors() -> None:
    assert division.counts(16, 24) == [1, 2, 4, 8]
