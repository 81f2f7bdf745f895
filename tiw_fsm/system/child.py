"""A child process under supervision: started so that no signal meant for the run reaches it, listened to, ended.

Its standard input is the thread it hangs by: the child ends itself when that ends, because it was let go of or because
the process that had started it is gone, however that died.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable, signals

LAST_WORDS = 2000
"""Bytes of the output that are shown of a child that died, the last ones."""


class Child:
    """A process started by this one, from its start to its end.

    Args:
        output: file that its standard output and error are appended to.
        max_silence: seconds without a sign of life after which it hangs.
        pass_fds: descriptors that it inherits beside the standard ones.

    Raises:
        DiskRefused: ``output`` cannot be opened, or the operating system cannot start the command.
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
    ) -> None:
        durable.require_plain(output)
        with disk_errors("opening", output), open(output, "ab") as sink:
            begins = sink.tell()
            # Ctrl-C and Slurm signal every process; this one decides what they mean.
            with signals.held_back():
                self._process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=pass_fds,
                )
            self._output = open(output, "rb")  # noqa: SIM115 - for as long as it lives
            self._output.seek(begins)
        self._max_silence = max_silence
        self._last_sign = time.monotonic()
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
        self._hung = not select.select([pipe], [], [], self._max_silence)[0]
        return not self._hung

    def new_output(self) -> bytes:
        """What it has written to its output since this was last asked. Raises OSError."""
        if new := self._output.read():
            self._last_sign = time.monotonic()
        return new

    def hangs(self) -> bool:
        """Whether its output has been silent for too long."""
        self._hung = time.monotonic() - self._last_sign > self._max_silence
        return self._hung

    def last_words(self, count: int = LAST_WORDS) -> str:
        """The last ``count`` bytes of its output. Raises OSError."""
        descriptor = self._output.fileno()
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, count, max(0, size - count)).decode(errors="replace")

    # --- its end ------------------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def let_go(self) -> None:
        """End its standard input, at which it ends itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Let go of it, and wait until it has ended."""
        self.let_go()
        self._process.wait()
        self._output.close()

    def how_it_ended(self) -> str:
        """What became of it, to follow its name. Waits for its end, unless it hung."""
        if self._hung:
            return f"gave no sign of life for {self._max_silence} seconds, and was ended"
        return f"ended with status {self._process.wait()}"
