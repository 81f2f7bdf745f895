"""What the native engine needs beside the settings of all engines: the processes it trains in."""

from __future__ import annotations

from tiw_fsm.config.flags import PORT
from tiw_fsm.errors import UsageProblem
from tiw_fsm.values.frozen import FrozenModel, Positive

REFUSED = 2
"""Exit status of a launcher for which trying again is no use."""


def endpoint(typed: str) -> str:
    """HOST:PORT as it was typed; without a port, with the usual one.

    Raises:
        ValueError: it is none.
    """
    host, colon, number = typed.rpartition(":")
    if not colon:
        host, number = typed, str(PORT)
    if not host or not (number.isascii() and number.isdecimal() and 0 < int(number) < 1 << 16):
        raise ValueError(f"{typed}: give HOST:PORT, at which the other machines reach the first one")
    return f"{host}:{number}"


class NativeSettings(FrozenModel):
    """What only the native engine needs."""

    nodes: Positive = 1
    per_node: Positive | None = 1
    """Processes on each; None stands for as many as there are GPUs."""
    by_flag: bool = False
    """The number was typed, at this or an earlier start: it holds where there are no GPUs, too."""
    at_its_word: bool = True
    """It holds on any device, since it was typed at this start or is what is always there."""
    sharded: bool = False
    """FSDP instead of DDP."""
    endpoint: str | None = None
    """HOST:PORT at which the first machine listens for the others."""

    @property
    def meant_for(self) -> int | None:
        """Processes that the batch sizes are meant for; None where that is how many there will be."""
        return self.nodes * self.per_node if self.per_node else None


class Launch(FrozenModel):
    """What the processes of one machine are started with."""

    processes: NativeSettings
    counts: list[int] | None
    """Numbers of processes, on all machines, that can share the global batches; None: any can."""
    device: str
    name: str
    """Of the run."""
    leads: bool = True
    """The controller is on this machine; else it joins the one at the endpoint, and is told there how many there are
    and for how long one may be silent."""
    max_silence: int
    """Seconds without a sign of life after which another process is given up."""

    def number(self, gpus: int) -> int:
        """Processes to start on this machine, which has so many GPUs that may be used.

        Raises:
            UsageProblem: the number that was asked for cannot share the global batches.
        """
        asked = self.processes
        wanted = asked.per_node or max(gpus, 1)
        held_to = asked.at_its_word or (asked.by_flag and not gpus)
        most = wanted if held_to else min(wanted, max(gpus, 1))
        fits = [n for n in range(1, most + 1) if self.counts is None or n * asked.nodes in self.counts]
        if not fits or (asked.at_its_word and asked.per_node and fits[-1] != wanted):
            nodes = f" on each of {asked.nodes} machines" if asked.nodes > 1 else ""
            raise UsageProblem(
                f"{most} processes{nodes} cannot share the clips of an update evenly; these numbers, of all of them, "
                f"can: {', '.join(map(str, self.counts or ()))}. Give one of them with --nproc-per-node"
            )
        return fits[-1]
