"""A folder that is there whole or not at all, whatever the one before left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiw_fsm.errors import DiskRefused
from tiw_fsm.system.whole_folder import made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_takes_its_name_in_the_end_and_the_place_of_what_bore_it(tmp_path: Path) -> None:
    final = tmp_path / "deep/down/world"
    for content in ("first", "second"):
        with made(final) as new:
            (new / content).write_text(content)
            assert not (final / content).exists()
        assert names(final) == [content]
    assert names(final.parent) == ["world"]


def test_what_ends_badly_changes_nothing(tmp_path: Path) -> None:
    final = tmp_path / "world"
    with pytest.raises(DiskRefused), made(final) as new:
        (new / "missing/file").write_text("")
    assert names(tmp_path) == []
    with made(final) as new:
        (new / "whole").touch()
    with pytest.raises(DiskRefused), made(final) as new:
        (new / "missing/file").touch()
    assert (names(tmp_path), names(final)) == (["world"], ["whole"])


def test_what_was_killed_between_the_two_names_comes_back(tmp_path: Path) -> None:
    """As a process leaves it that is killed when the old folder has lost the name, and the new one has not got it."""
    old, final = tmp_path / ".world.old", tmp_path / "world"
    old.mkdir()
    (old / "kept").touch()
    (tmp_path / ".world.new").mkdir()
    with pytest.raises(KeyboardInterrupt), made(final):
        raise KeyboardInterrupt
    assert (names(tmp_path), names(final)) == (["world"], ["kept"])
