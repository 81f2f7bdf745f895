"""A child process is started, listened to and ended the same way, whoever it works for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.processes import children, process_state
from tests.support.waiting import wait_for
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.system import signals, starter
from tiw_fsm.system.child import Child, Spare
from tiw_fsm.values.death import Killer

WAITS = "import sys; sys.stdin.read()"
"""It hangs by its standard input, and says nothing."""
HEEDLESS = "import signal; signal.pause()"
"""It does not care about its standard input."""
ECHOES = "import os, sys\nfor line in sys.stdin.buffer: os.write(int(sys.argv[1]), line)"
STARTS_ONE_AND_DIES = """
import os
from tiw_fsm.system.child import Spare
print(Spare(environment=os.environ).process.pid, flush=True)
os._exit(0)
"""


def child(tmp_path: Path, code: str, *arguments: str, max_silence: float = 60, pass_fds: Sequence[int] = ()) -> Child:
    return Child(
        [sys.executable, "-c", code, *arguments],
        output=tmp_path / "output",
        max_silence=max_silence,
        environment=os.environ,
        pass_fds=pass_fds,
    )


def test_how_it_ended_and_what_it_said_last_are_known(tmp_path: Path) -> None:
    with child(tmp_path, "import sys; print('all'); print('is lost', file=sys.stderr); sys.exit(3)") as dying:
        assert dying.how_it_ended() == "ended with status 3"
        assert (dying.killed_by(), dying.ended_by_itself()) == (Killer.OWN, True)
        assert sorted(dying.last_words().split("\n")) == ["", "all", "is lost"]
        assert dying.last_words(3) == dying.last_words()[-3:]


def test_its_output_stands_behind_what_was_there_and_only_its_own_is_new(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("before\n")
    with child(tmp_path, "print('own')") as second:
        second.how_it_ended()
        assert (second.new_output(), second.new_output()) == (b"own\n", b"")
        assert second.last_words() == "own\n"
    assert (tmp_path / "output").read_text() == "before\nown\n"


def test_one_that_is_silent_for_too_long_hangs_and_ends_when_it_is_let_go_of(tmp_path: Path) -> None:
    with child(tmp_path, WAITS, max_silence=0.5) as silent:
        assert not silent.hangs()
        wait_for("it hangs", silent.hangs, 30)
        assert (silent.poll(), silent.how_it_ended()) == (None, "gave no sign of life for 0.5 seconds, and was ended")
    assert silent.poll() == 0


def test_what_it_says_on_a_pipe_is_a_sign_of_life_and_silence_there_is_none(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        with child(tmp_path, ECHOES, str(write_end), max_silence=30, pass_fds=[write_end]) as echo:
            os.close(write_end)
            echo.tell(b"hello\n")
            assert (echo.speaks(pipe), pipe.readline()) == (True, b"hello\n")
        assert (echo.speaks(pipe), pipe.readline()) == (True, b"")  # its end is heard, too
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as pipe, child(tmp_path, WAITS, max_silence=0.1) as silent:
        assert not silent.speaks(pipe)
        assert silent.how_it_ended() == "gave no sign of life for 0.1 seconds, and was ended"
    os.close(write_end)


def test_signals_that_ask_a_run_to_stop_never_reach_it(tmp_path: Path) -> None:
    tells = "import json, signal; print(json.dumps([int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])]))"
    with child(tmp_path, tells) as deaf:
        deaf.how_it_ended()
        assert set(signals.STOP) <= set(json.loads(deaf.last_words()))


def test_one_that_heeds_nothing_is_killed(tmp_path: Path) -> None:
    heedless = child(tmp_path, HEEDLESS)
    heedless.kill()
    assert heedless.poll() == -signal.SIGKILL


def test_one_that_somebody_kills_has_not_ended_by_itself(tmp_path: Path) -> None:
    with child(tmp_path, WAITS) as waiting:
        os.kill(waiting.pid, signal.SIGKILL)
        assert waiting.how_it_ended().startswith("was ended by SIGKILL, from outside")
        assert (waiting.killed_by(), waiting.ended_by_itself()) == (Killer.OUTSIDE, False)


@pytest.mark.parametrize("pause", ["child", "grandchild", "both"])
def test_time_in_which_it_was_stopped_is_no_silence(tmp_path: Path, pause: str) -> None:
    """Nor is time in which this process was: by SIGSTOP, or with the whole machine."""
    starts = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with child(tmp_path, *([starts, WAITS] if pause == "grandchild" else [WAITS]), max_silence=0.5) as quiet:
        wait_for("its child", lambda: pause != "grandchild" or children(quiet.pid), 30)
        stopped = children(quiet.pid)[0] if pause == "grandchild" else quiet.pid
        os.kill(stopped, signal.SIGSTOP)
        wait_for("it is stopped", lambda: process_state(stopped) == "T", 30)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not quiet.hangs()
            time.sleep(1.2 if pause == "both" else 0.02)
        os.kill(stopped, signal.SIGCONT)
        assert not quiet.hangs()
        wait_for("it hangs", quiet.hangs, 30)


@pytest.mark.parametrize(
    ("error", "what"),
    [(FileNotFoundError, "No such file"), (PermissionError, "Permission denied"), (OSError, "Exec format error")],
)
def test_a_command_that_cannot_be_executed_is_the_users_to_mend(tmp_path: Path, error: type, what: str) -> None:
    command = tmp_path / "command"
    if error is not FileNotFoundError:
        command.write_bytes(b"\0nothing to execute")
        command.chmod(0o755 if error is OSError else 0o644)
    with pytest.raises(UsageProblem, match=f"cannot be executed: {what}.*--python-exec"):
        Child([str(command)], output=tmp_path / "output", max_silence=60, environment=os.environ)


def test_one_that_has_ended_cannot_be_told_anything(tmp_path: Path) -> None:
    with child(tmp_path, "pass") as ended:
        ended.how_it_ended()
        with pytest.raises(BrokenPipeError):
            ended.tell(b"stop\n")


def test_a_link_in_the_place_of_its_output_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateDamaged, match="is a symbolic link"):
        child(tmp_path, "print('own')")
    assert not (tmp_path / "elsewhere").exists()


def spare(tmp_path: Path, *modules: str) -> Spare:
    return Spare(*modules, environment=os.environ | {"PYTHONPATH": str(tmp_path)})


def made_of(spare: Spare, program: Path, *arguments: str, output: Path) -> Child:
    command = starter.command(program, os.getpid(), *arguments)
    return Child(command, output=output, max_silence=60, environment=os.environ, pass_fds=[spare.pipe[1]], spare=spare)


def test_a_child_that_is_made_of_a_spare_has_imported_and_is_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("print('is lost')")
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(
        "import os, sys\nassert 'slow' in sys.modules\nprint(*sys.argv)\n"
        "os.write(int(sys.argv[2]), sys.stdin.buffer.readline())\nsys.exit(3)"
    )
    output.write_text("before\n")
    ready = spare(tmp_path, "slow", "there_is_no_such_module")
    with (
        os.fdopen(ready.pipe[0], "rb", buffering=0) as pipe,
        made_of(ready, program, str(ready.pipe[1]), output=output) as child,
    ):
        os.close(ready.pipe[1])
        child.tell(b"hello\n")
        assert (child.speaks(pipe), pipe.readline()) == (True, b"hello\n")
        assert (child.how_it_ended(), child.ended_by_itself()) == ("ended with status 3", True)
        said = f"{program} {os.getpid()} {ready.pipe[1]}\n"
        assert child.last_words() == said
    assert output.read_text() == f"before\n{said}"


def test_a_child_that_is_made_of_a_spare_that_has_ended_has_ended(tmp_path: Path) -> None:
    ready = spare(tmp_path)
    ready.process.kill()
    ready.process.wait()
    with made_of(ready, tmp_path / "program.py", output=tmp_path / "output") as child:
        assert child.how_it_ended().startswith("was ended by SIGKILL")
    for end in ready.pipe:
        os.close(end)


def test_a_spare_that_nobody_needs_ends(tmp_path: Path) -> None:
    ready = spare(tmp_path)
    assert ready.process.pid in children(os.getpid())
    ready.close()
    assert ready.process.pid not in children(os.getpid())
    orphan = subprocess.run(
        [sys.executable, "-c", STARTS_ONE_AND_DIES], capture_output=True, text=True, check=True, timeout=60
    )
    wait_for("it ends", lambda: process_state(int(orphan.stdout)) in (None, "Z"), 30)
