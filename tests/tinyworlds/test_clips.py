"""Clips: within one episode, on one side of the split, as they are in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.configs import numbered_frames, write_frames
from tiw_fsm.tinyworlds import episodes
from tiw_fsm.tinyworlds.clips import FrameData, draw_batch, generator, to_model, to_unit
from tiw_fsm.tinyworlds.config import DataSource

CPU = torch.device("cpu")


def opened(path: Path, *, skip: int = 0, stride: int = 1, preload_ratio: float | None = None) -> FrameData:
    return FrameData(DataSource(path=str(path), skip=skip, stride=stride, preload_ratio=preload_ratio), CPU)


def rows_of(data: FrameData, *, held_out: bool, length: int) -> torch.Tensor:
    """File rows of every clip, [clips, length], read off the pixels."""
    return data.clips(data.clip_starts(length, held_out=held_out), length)[..., 0, 0, 0].long()


layouts = st.lists(st.integers(1, 15), min_size=1, max_size=25)
"""Lengths of episodes."""


@given(layouts, st.integers(0, 20), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_clips_lie_within_one_episode_of_their_side_and_none_is_missed(
    lengths: list[int], skip: int, length: int, stride: int, for_evaluation: bool
) -> None:
    episode = np.repeat(np.arange(len(lengths)), lengths)
    numbers, held_out = episodes.split_rows(len(episode), episode, skip)
    found = episodes.clip_starts(
        numbers, held_out, length=length, stride=stride, preload_ratio=None, for_evaluation=for_evaluation
    )
    expected = [
        first
        for first in range(skip, len(episode) - (length - 1) * stride)
        if episode[first] == episode[first + (length - 1) * stride] and (episode[first] % 10 == 9) == for_evaluation
    ]
    assert found.tolist() == expected


@given(st.none() | layouts, st.integers(0, 20), st.none() | st.floats(0.05, 1))
def test_training_and_evaluation_share_no_row(lengths: list[int] | None, skip: int, ratio: float | None) -> None:
    episode = None if lengths is None else np.repeat(np.arange(len(lengths)), lengths)
    rows = 120 if episode is None else len(episode)
    numbers, held_out = episodes.split_rows(rows, episode, skip)
    seen = []
    for side in (False, True):
        starts = episodes.clip_starts(numbers, held_out, length=3, stride=2, preload_ratio=ratio, for_evaluation=side)
        seen.append({int(row) for first in starts for row in range(first, first + 5)})
    assert not seen[0] & seen[1]


def test_every_tenth_episode_in_order_of_appearance_is_held_out_whatever_its_id(tmp_path: Path) -> None:
    ids = [7 * n % 23 for n in range(23)]
    data = opened(numbered_frames(tmp_path / "f.h5", 69, np.repeat(ids, 3).tolist()))
    assert rows_of(data, held_out=True, length=3).tolist() == [[27, 28, 29], [57, 58, 59]]
    assert len(rows_of(data, held_out=False, length=3)) == 21


def test_without_episodes_the_last_tenth_of_the_rows_is_held_out(tmp_path: Path) -> None:
    data = opened(numbered_frames(tmp_path / "f.h5", 120), skip=20)
    assert rows_of(data, held_out=True, length=1).flatten().tolist() == list(range(110, 120))
    assert rows_of(data, held_out=False, length=1).flatten().tolist() == list(range(20, 110))


def test_preload_ratio_keeps_the_first_rows_for_training_and_all_held_out_ones(tmp_path: Path) -> None:
    path = numbered_frames(tmp_path / "f.h5", 200, np.repeat(range(20), 10).tolist())
    data = opened(path, preload_ratio=0.25)
    assert rows_of(data, held_out=False, length=2).max() == 49
    assert rows_of(data, held_out=True, length=10)[:, 0].tolist() == [90, 190]
    assert len(data.frames) == 50 + 20, "rows that nobody asks for take no memory"
    assert torch.equal(data.mean_training_frame(), torch.full((3, 8, 8), 24.5 / 255))


def test_a_clip_is_every_stride_th_row(tmp_path: Path) -> None:
    data = opened(numbered_frames(tmp_path / "f.h5", 40), skip=3, stride=4)
    assert rows_of(data, held_out=False, length=3)[0].tolist() == [3, 7, 11]


def test_rows_are_the_same_in_whatever_pieces_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiw_fsm.tinyworlds.used_rows.BLOCK", 7 * 8 * 8 * 3)
    data = opened(numbered_frames(tmp_path / "f.h5", 200), skip=5, preload_ratio=0.2)
    assert rows_of(data, held_out=False, length=1).flatten().tolist() == list(range(5, 40))
    assert rows_of(data, held_out=True, length=1).flatten().tolist() == list(range(180, 200))


def test_held_out_clips_are_distinct_spread_and_the_same_for_a_seed(tmp_path: Path) -> None:
    write_frames(tmp_path / "f.h5", episodes=40, length=24)
    data = opened(tmp_path / "f.h5")
    chosen = data.held_out_clips(5, 8, seed=0)
    assert chosen.tolist() == data.held_out_clips(5, 8, seed=0).tolist()
    assert chosen.tolist() != data.held_out_clips(5, 8, seed=1).tolist()
    assert len(set(chosen.tolist())) == 8
    assert sorted(set((chosen // 24).tolist())) == [9, 19, 29, 39], "every held-out episode is asked"
    everything = data.clip_starts(5, held_out=True)
    assert data.held_out_clips(5, 1000, seed=0).tolist() == everything.tolist(), "fewer where there are fewer"


def test_a_batch_is_a_pure_function_of_its_key(tmp_path: Path) -> None:
    def batch(*key: int | str) -> list[int]:
        drawn: list[int] = draw_batch(1000, 16, generator(*key)).tolist()
        return drawn

    first = batch(0, "dynamics", 7, 0)
    torch.manual_seed(123)
    assert batch(0, "dynamics", 7, 0) == first
    assert set(first) <= set(range(1000))
    for other in [(1, "dynamics", 7, 0), (0, "video", 7, 0), (0, "dynamics", 8, 0), (0, "dynamics", 7, 1)]:
        assert batch(*other) != first
    assert batch(1, 11) != batch(11, 1) != batch(1, 1, 1)


def test_pixels_survive_the_way_into_the_model_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 1, 16, 16, 3)
    inside = to_model(pixels)
    assert inside.shape == (1, 1, 3, 16, 16)
    assert [float(inside.min()), float(inside.max())] == [-1, 1]
    assert torch.equal((to_unit(inside) * 255).round().byte().permute(0, 1, 3, 4, 2), pixels)
    assert to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]
