"""Frames that are read while other work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.configs import write_frames
from tiw_fsm.data import content
from tiw_fsm.errors import Interrupted, UsageProblem
from tiw_fsm.run.ahead import FrameReading
from tiw_fsm.tinyworlds.config import DataSource


def frames(path: Path) -> DataSource:
    write_frames(path)
    return DataSource(path=str(path), skip=0, stride=1)


def test_what_is_read_ahead_is_what_is_read_otherwise(tmp_path: Path) -> None:
    source, told = frames(tmp_path / "frames.h5"), []
    found = FrameReading(source).digests(lambda done, total, loss: told.append((done, total)), lambda: False)
    assert found == content.digests(source)
    assert all(done <= total for done, total in told)


def test_a_file_that_cannot_be_read_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    source = frames(tmp_path / "frames.h5")
    Path(source.path).write_bytes(b"no frames")
    reading = FrameReading(source)
    with pytest.raises(UsageProblem, match=r"frames\.h5"):
        reading.digests(lambda done, total, loss: None, lambda: False)


def test_nothing_is_read_on_once_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked, looks = content.digests, threading.Event(), []

    def late(source: DataSource, *told: Callable[..., None]) -> content.Digests:
        asked.wait()
        return read(source, *told)

    def show(done: int, total: int, loss: None) -> None:
        looks.append(done)
        if len(looks) == 2:  # the first look was followed by the word to stop
            asked.set()

    monkeypatch.setattr(content, "digests", late)
    with pytest.raises(Interrupted, match="while the frames were read"):
        FrameReading(frames(tmp_path / "frames.h5")).digests(show, lambda: True)
