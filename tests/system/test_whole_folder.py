"""A folder that is there whole or not at all, whatever the one before left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tiw_fsm.errors import DiskRefused, RunHeld
from tiw_fsm.system import whole_folder
from tiw_fsm.system.whole_folder import made

MAKES = """
import sys
from pathlib import Path
from tiw_fsm.system.whole_folder import made
with made(Path(sys.argv[1])) as new:
    (new / "theirs").touch()
    print("at it", flush=True)
    sys.stdin.readline()
"""


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


def test_another_process_is_waited_for_and_in_the_end_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "world"
    process = subprocess.Popen(
        [sys.executable, "-c", MAKES, str(final)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "at it\n"
        with monkeypatch.context() as impatient:
            impatient.setattr(whole_folder, "PATIENCE", 0)
            with pytest.raises(RunHeld, match=f"another process works in {tmp_path}"), made(final):
                pass
        assert names(tmp_path) == [".world.new"], "what the other one makes was left alone"
        process.stdin.write("\n")
        process.stdin.flush()
        with made(final) as new:
            assert names(final) == ["theirs"]
            (new / "ours").touch()
    finally:
        process.kill()
        process.communicate()
    assert (names(tmp_path), names(final)) == (["world"], ["ours"])
