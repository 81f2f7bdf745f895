"""``tiw-fsm join``: a further machine of a run, which takes part in its training until the run has ended.

It starts the launcher of this machine's ranks, and starts it again after every death: the run's one controller, on the
first machine, decides what follows. It changes nothing of the run.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from tiw_fsm.engines.native import child as child_program
from tiw_fsm.engines.native import starting
from tiw_fsm.engines.native.engine import STOP
from tiw_fsm.engines.native.settings import REFUSED, Launch, NativeSettings
from tiw_fsm.errors import Interrupted, UsageProblem
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.system import signals, starter

AGAIN = 1.0
"""Seconds between two tries to reach the first machine."""
LOOKS = 0.1
"""Seconds between two looks at the ranks' launcher."""


class Joiner(NamedTuple):
    """What takes part, and in what.

    Attributes:
        endpoint: HOST:PORT of the first machine.
        per_node: processes here; None stands for as many as there are GPUs.
        patience: seconds without an answer after which it gives up.
        has_ended: whether the run has, as far as its folder shows.
    """

    endpoint: str
    paths: StatePaths
    per_node: int | None
    device: str
    python_exec: str
    patience: float
    has_ended: Callable[[], bool]


def join(joiner: Joiner) -> None:
    """Take part until the run has ended.

    Raises:
        UsageProblem: it cannot be done like this.
        Interrupted: asked to stop, which the run was told; or it was interrupted, or nobody answered.
    """
    with signals.asked_to_stop(lambda: None) as stopping:
        until = time.monotonic() + joiner.patience
        while not joiner.has_ended():
            if stopping():
                raise Interrupted("asked to stop before this machine took part")
            ranks = _Launcher(joiner)
            status = ranks.ended(stopping)
            if joiner.has_ended():
                return
            if status == REFUSED:
                raise UsageProblem(f"{joiner.endpoint}: this machine cannot join; see above")
            if status == 0 or stopping():
                raise Interrupted("the run was interrupted; all progress is saved. The same command joins it again.")
            if ranks.joined:
                until = time.monotonic() + joiner.patience
            if time.monotonic() > until:
                raise Interrupted(
                    f"{joiner.endpoint}: nobody answered for {joiner.patience:g} s; start tiw-fsm run there, then this "
                    "again"
                )
            time.sleep(AGAIN)


class _Launcher:
    """The launcher of this machine's ranks, as a process."""

    def __init__(self, joiner: Joiner) -> None:
        asked = NativeSettings(per_node=joiner.per_node, endpoint=joiner.endpoint, at_its_word=bool(joiner.per_node))
        launch = Launch(
            processes=asked,
            counts=None,
            device=joiner.device,
            name=joiner.paths.folder.name,
            leads=False,
            max_silence=1,
        )
        self.joined = False
        """All machines were there."""
        self._pipe, write_end = os.pipe()
        told = [str(write_end), str(joiner.paths.child_result), launch.model_dump_json()]
        with signals.held_back():
            self._process = subprocess.Popen(
                starter.command(child_program.__file__, os.getpid(), *told, python=joiner.python_exec),
                stdin=subprocess.PIPE,
                stdout=sys.stderr,
                env=starting.environment(),
                pass_fds=[write_end],
            )
        os.close(write_end)

    def _tell_the_run(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended
            os.write(self._process.stdin.fileno(), STOP)

    def ended(self, stopping: Callable[[], bool]) -> int:
        """Wait for its end; its exit status. Asked to stop, the run is told; where machines are still waited for, it
        ends at once."""
        told = False
        try:
            while self._process.poll() is None:
                if stopping() and not told:
                    told = True
                    (self._tell_the_run if self.joined else self._process.kill)()
                if select.select([self._pipe], [], [], LOOKS)[0]:
                    said = os.read(self._pipe, 1 << 16)
                    self.joined = self.joined or b"joined" in said
                    if not said:
                        time.sleep(LOOKS)  # its last moments
            return self._process.wait()
        finally:
            assert self._process.stdin is not None
            self._process.stdin.close()
            os.close(self._pipe)
