"""A child process under supervision: started so that no signal meant for the run reaches it, listened to, ended.

Its standard input is the thread it hangs by: the child ends itself when that ends, because it was let go of or because
the process that had started it is gone, however that died.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tiw_fsm.errors import EngineCrashed, UsageProblem, disk_errors
from tiw_fsm.system import durable, killer, signals, starter
from tiw_fsm.system.silence import Silence
from tiw_fsm.values.death import Killer

JUDGED_WORDS = 8000
"""Bytes of its output that are looked at for why it died, the last ones."""
LAST_WORDS = 2000
"""Bytes of the output that are shown of a child that died, the last ones."""
BY = {
    Killer.MEMORY: " for want of memory",
    Killer.OWN: "",
    Killer.OUTSIDE: ", from outside: not by the kernel's memory killer, and by no error of its own",
    Killer.UNKNOWN: "; by whom, this machine does not tell",
}
"""Who it was, to follow how it ended."""


class Spare:
    """A process that is started before anybody knows what for, and imports meanwhile: a ``Child`` may be made of it.

    Args:
        modules: what it imports. What it says meanwhile is lost: nobody has asked it for anything.

    Attributes:
        pipe: both ends of a pipe; it has inherited the second.

    Raises:
        UsageProblem, EngineCrashed: as ``Child``.
        OSError: this process has no descriptor left.
    """

    def __init__(self, *modules: str, environment: Mapping[str, str]) -> None:
        self.pipe = os.pipe()
        try:
            self.process = _started(
                starter.without_program(os.getpid(), *modules),
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[self.pipe[1]],
            )
        except BaseException:
            self._close_pipe()
            raise

    def become(self, command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
        """Have it run what ``command`` would start."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which whoever asks it for something finds out
            os.write(self.process.stdin.fileno(), starter.order(command, output))
        return self.process

    def close(self) -> None:
        """End it; nothing became of it."""
        self.process.kill()
        self.process.communicate()
        self._close_pipe()

    def _close_pipe(self) -> None:
        for end in self.pipe:
            os.close(end)


class Child:
    """A process started by this one, from its start to its end.

    Args:
        output: file that its standard output and error are appended to.
        max_silence: seconds without a sign of life after which it hangs.
        pass_fds: descriptors that it inherits beside the standard ones.
        spare: what ``command`` is given to, instead of to a new process.

    Raises:
        UsageProblem: the command cannot be executed.
        EngineCrashed: the operating system has no room for a process now.
        DiskRefused: ``output`` cannot be opened.
        StateDamaged: no plain file stands in the place of ``output``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: Path,
        max_silence: float,
        environment: Mapping[str, str],
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        spare: Spare | None = None,
    ) -> None:
        durable.require_plain(output)
        with disk_errors("opening", output), open(output, "ab") as sink:
            self._begins = sink.tell()
            self._output = open(output, "rb")  # noqa: SIM115 - for as long as it lives
            self._output.seek(self._begins)
            if spare is not None:
                self._process = spare.become(command, output)
            else:
                self._process = _started(
                    command,
                    cwd=cwd,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=pass_fds,
                )
        self._max_silence = max_silence
        self._silence = Silence(self._process.pid, max_silence)
        self._memory = killer.MemoryKills(self._process.pid)
        self._hung = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- saying and hearing -------------------------------------------------------------------------------------

    def tell(self, line: bytes) -> None:
        """Write to its standard input, at once: safe in a signal handler. Raises BrokenPipeError: it has ended."""
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), line)

    def speaks(self, pipe: IO[bytes]) -> bool:
        """Wait until it says something on an unbuffered ``pipe``, or ends; False if it hangs."""
        self._silence.broken()
        while not select.select([pipe], [], [], self._silence.pause)[0]:
            if self.hangs():
                return False
        return True

    def new_output(self) -> bytes:
        """What it has written to its output since this was last asked. Raises OSError."""
        if new := self._output.read():
            self._silence.broken()
        return new

    def hangs(self) -> bool:
        """Whether it has been silent for too long, in time in which it was not stopped."""
        self._hung = self._silence.too_long()
        return self._hung

    def last_words(self, count: int = LAST_WORDS) -> str:
        """The last ``count`` bytes of its output. Raises OSError."""
        return self._tail(count)

    @property
    def pid(self) -> int:
        return self._process.pid

    # --- its end ------------------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def let_go(self) -> None:
        """End its standard input, at which it ends itself, stopped or not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.wake()

    def wake(self) -> None:
        """Have it go on if it was stopped: it is asked for something that a stopped process cannot do."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Have it end at once: safe in a signal handler."""
        self._process.kill()

    def kill(self) -> None:
        """End it at once, and wait until it has ended."""
        self.end()
        self.close()

    def close(self) -> None:
        """Let go of it, and wait until it has ended."""
        self.let_go()
        self._process.wait()
        self._output.close()

    def killed_by(self) -> Killer:
        """What ended it before its work was done. Waits for its end, unless it hung."""
        if self._hung:
            return Killer.OWN
        return killer.judge(self._process.wait(), self._tail(JUDGED_WORDS), self._memory.seen())

    def ended_by_itself(self) -> bool:
        """Whether it ended with whatever status, and not by a signal. Waits for its end, unless it hung."""
        return not self._hung and killer.signal_of(self._process.wait()) is None

    def how_it_ended(self) -> str:
        """What became of it, to follow its name. Waits for its end, unless it hung."""
        if self._hung:
            return f"gave no sign of life for {self._max_silence} seconds, and was ended"
        status = self._process.wait()
        number = killer.signal_of(status)
        ended = f"was ended by {number.name}" if number else f"ended with status {status}"
        return ended + BY[self.killed_by()] if status else ended

    def _tail(self, count: int) -> str:
        """The last ``count`` bytes of the output file, none of them of another that wrote to it before."""
        descriptor = self._output.fileno()
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, count, max(self._begins, size - count)).decode(errors="replace")


def _started(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    try:
        with signals.held_back():  # Ctrl-C and Slurm signal every process; this one decides what they mean
            return subprocess.Popen(command, **how)
    except OSError as exc:
        if exc.errno in killer.NO_ROOM:
            by = Killer.MEMORY if killer.is_shortage(exc) else Killer.UNKNOWN
            raise EngineCrashed(f"{command[0]} could not be started: {exc.strerror}", killed_by=by) from exc
        raise UsageProblem(
            f"{command[0]} cannot be executed: {exc.strerror or exc}; mend that, or name another with --python-exec"
        ) from exc
