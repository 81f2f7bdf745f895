"""How the clips of one update are divided over the processes that train together. No torch.

An update has micro-batches, each drawn at once for all processes: which clips they have, and what is hidden in them, is
the same however many processes compute it. Only who takes which part, and in how many passes, follows the number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # `tiw-fsm status` shall not wait for pydantic
    from tiw_fsm.values.frozen import Tuning


MOST = 1 << 16
"""Numbers beyond which nobody is asked whether they divide, however large a config says that a batch or size is."""


class Pass(NamedTuple):
    """What one process computes at once.

    Attributes:
        micro: number of the micro-batch.
        clips: those of its clips that are this process's.
    """

    micro: int
    clips: slice


class Share(NamedTuple):
    """How the clips of an update are shared: ``processes`` have ``passes`` of ``each`` clips."""

    processes: int
    passes: int
    each: int

    @property
    def clips(self) -> int:
        """Of the update."""
        return self.processes * self.passes * self.each


def micro_batch(tuning: Tuning, processes: int) -> int:
    """Clips that are drawn at once, where the configuration is meant for ``processes``."""
    return processes * tuning.batch_size_per_gpu


def global_batch(tuning: Tuning, processes: int) -> int:
    """Clips of an update, whatever number of processes computes it."""
    return micro_batch(tuning, processes) * tuning.gradient_accumulation_steps


def counts(*batches: int) -> list[int]:
    """The numbers of processes, up to ``MOST``, that can share each of these global batches, in ascending order."""
    return divisors(math.gcd(*batches))


def divisors(whole: int) -> list[int]:
    """The numbers, up to ``MOST``, that divide ``whole``, in ascending order."""
    return [number for number in range(1, min(whole, MOST) + 1) if whole % number == 0]


def can_share(tuning: Tuning, processes: int, size: int) -> bool:
    """Whether ``size`` processes can compute the updates of a configuration that is meant for ``processes``."""
    return global_batch(tuning, processes) % size == 0


def share(tuning: Tuning, processes: int, size: int) -> Share:
    """How ``size`` processes share the updates of a configuration that is meant for ``processes``.

    All have as many passes, of as many clips, and never more clips at once than ``batch_size_per_gpu``.

    Raises:
        ValueError: the global batch cannot be divided by ``size``.
    """
    drawn, whole = micro_batch(tuning, processes), global_batch(tuning, processes)
    if not can_share(tuning, processes, size):
        raise ValueError(f"a global batch of {whole} clips cannot be divided over {size} processes")
    common = math.gcd(drawn, whole // size)
    each = next(n for n in range(min(tuning.batch_size_per_gpu, common), 0, -1) if common % n == 0)
    return Share(size, whole // (size * each), each)


def passes(tuning: Tuning, processes: int, rank: int, size: int) -> list[Pass]:
    """What process ``rank`` of ``size`` computes in an update of a configuration that is meant for ``processes``.

    With each pass they advance together through the update's clips, so that with ``size == processes`` a pass is a
    micro-batch.

    Raises:
        ValueError: as ``share``.
    """
    drawn, shared = micro_batch(tuning, processes), share(tuning, processes, size)
    firsts = [(turn * size + rank) * shared.each for turn in range(shared.passes)]
    return [Pass(first // drawn, slice(first % drawn, first % drawn + shared.each)) for first in firsts]
