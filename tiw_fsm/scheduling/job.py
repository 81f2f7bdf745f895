"""What a snippet starts, and the calls in it that are the same wherever a shell makes them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.errors import UsageProblem

VOLUME = "tiw-fsm"
"""What a volume with the working root is called unless it is said."""


class Machines(NamedTuple):
    """What the run shall have to itself; None is what nobody asked for."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    accelerator: str | None = None
    image: str | None = None
    volume: str | None = None

    @property
    def number(self) -> int:
        return self.nodes or 1

    @property
    def many(self) -> bool:
        return self.number > 1

    @property
    def processes(self) -> list[str]:
        """How many processes train on each: one per GPU, one where there is none."""
        return ["--nproc-per-node", str(self.gpus_per_node or 1)] if self.many or self.gpus_per_node else []


class Job(NamedTuple):
    """What a snippet starts.

    Attributes:
        program: the words that call this installation's ``tiw-fsm``, the first an absolute path.
        repo_root: absolute.
        run: name of the run: a plain word, as the command line demands.
        state_dir: absolute; the folder that has the run's state folder in it.
        machines: where.
    """

    program: Sequence[str]
    repo_root: Path
    run: str
    state_dir: Path
    machines: Machines = Machines()

    @property
    def name(self) -> str:
        """What the scheduler knows it by."""
        return f"tiw-fsm-{self.run}"

    @property
    def state(self) -> str:
        """The run's state folder; relative to the working root where that is shorter to read."""
        folder = self.state_dir / self.run
        return str(folder.relative_to(self.repo_root) if self._usual_place else folder)

    @property
    def words(self) -> list[str]:
        """The call, to be made in the working root, by which ``--repo-root`` is right as it is."""
        return [*self.program, "run", *self._flags]

    @property
    def run_call(self) -> str:
        """The call in a shell; with many machines, in one whose ``$endpoint`` is an address of this one."""
        machines = self.machines
        return shlex.join(self.words) + (
            f' --nnodes {machines.number} --rdzv-endpoint "$endpoint"' if machines.many else ""
        )

    @property
    def join_call(self) -> str:
        """What each further machine calls in the same working root, in a shell whose ``$endpoint`` is the first's."""
        return f'{shlex.join([*self.program, "join"])} "$endpoint" {shlex.join(self._flags)}'

    def inside(self, root: Path, program: str) -> Job:
        """The same in a container that has the working root at ``root``, and a ``program`` of its own.

        Raises:
            UsageProblem: the state would not be there.
        """
        if not self.state_dir.is_relative_to(self.repo_root):
            raise UsageProblem(
                f"--state-dir {self.state_dir}: the machines have the working root alone; use a folder under it"
            )
        return self._replace(
            program=[program], repo_root=root, state_dir=root / self.state_dir.relative_to(self.repo_root)
        )

    def on_each(self, *, rank: str, endpoint: str, join: str) -> str:
        """Shell that all machines are given: the one whose ``rank`` is 0 has the run, the others ``join``."""
        if not self.machines.many:
            return f"exec {self.run_call}"
        return f'endpoint={endpoint}\nif [ "{rank}" = 0 ]; then\n    exec {self.run_call}\nfi\n{join}'

    @property
    def _flags(self) -> list[str]:
        elsewhere = [] if self._usual_place else ["--state-dir", str(self.state_dir)]
        return ["--run", self.run, *elsewhere, *self.machines.processes]

    @property
    def _usual_place(self) -> bool:
        return self.state_dir == self.repo_root / "state"


def this_program() -> list[str]:
    """The words that call this installation's ``tiw-fsm`` from anywhere."""
    script = Path(sys.argv[0]).absolute()
    return [str(script)] if script.name == "tiw-fsm" else [sys.executable, "-m", "tiw_fsm"]
