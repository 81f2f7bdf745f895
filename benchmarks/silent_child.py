"""The native engine's child, with its arguments, but that processes which train together exchange no gradients.

It is as if DDP's ``no_sync`` held in every pass. What it is faster by is what the exchange takes, the time in which the
processes wait for one another included.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch.nn import parallel

from tiw_fsm.engines.native import child


class Silent(parallel.DistributedDataParallel):
    """It never finds that gradients are to be exchanged."""

    require_backward_grad_sync = property(lambda self: False, lambda self, value: None)


if __name__ == "__main__":
    child.die_with_parent(int(sys.argv[1]))
    parallel.DistributedDataParallel = Silent  # type: ignore[misc]
    if len(sys.argv) > 4:
        from tiw_fsm.engines.native.launcher import launch

        launch(Path(__file__), Path(sys.argv[3]), sys.argv[4])
    child.serve(int(sys.argv[2]), Path(sys.argv[3]))
