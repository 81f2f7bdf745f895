"""The native engine's child in a deliberately broken variant: the one that BROKEN_CHILD in the environment names.

It is started in the place of ``engines/native/child.py``, with its arguments, as the only process, as the launcher of
several, or as one of these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiw_fsm.values.frozen import Tuning


def ranks_stop_apart() -> None:
    """Each rank stops when it is asked itself."""
    from tiw_fsm.tinyworlds.process_group import Replicated

    Replicated.ask = lambda self, asked: asked  # type: ignore[method-assign]


def rank_reads_its_own() -> None:
    """All ranks but the first go on from the first checkpoint that lies beside the one that they are told."""
    from tiw_fsm.tinyworlds.training import Trainer

    load = Trainer.load

    def own(self: Trainer, folder: Path, *, weights_only: bool) -> None:
        beside = min(folder.parent.glob("*_step_*"), key=lambda path: int(path.name.rpartition("_")[2]))
        load(self, beside if self.peers.rank else folder, weights_only=weights_only)

    Trainer.load = own  # type: ignore[method-assign]


def rank_fails(error: Callable[[], Exception]) -> Callable[[], None]:
    """The last rank meets an error in every update that has more than two clips in a pass."""

    def variant() -> None:
        from tiw_fsm.tinyworlds.training import Trainer

        accumulate = Trainer._accumulate

        def failing(self: Trainer, update: int, tuning: Tuning, passes: Any) -> Any:
            if self.peers.rank == self.peers.size - 1 and tuning.batch_size_per_gpu > 2:
                raise error()
            return accumulate(self, update, tuning, passes)

        Trainer._accumulate = failing  # type: ignore[method-assign]

    return variant


def out_of_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


VARIANTS: dict[str, Callable[[], None]] = {
    "ranks_stop_apart": ranks_stop_apart,
    "rank_reads_its_own": rank_reads_its_own,
    "rank_fails": rank_fails(lambda: ArithmeticError("this rank cannot count")),
    "rank_out_of_memory": rank_fails(out_of_memory),
}


def main() -> None:
    from tiw_fsm.engines.native import child

    if len(sys.argv) > 4:
        from tiw_fsm.engines.native.launcher import launch

        launch(Path(__file__), Path(sys.argv[3]), sys.argv[4])
    serve, variant = child.serve, VARIANTS[os.environ["BROKEN_CHILD"]]
    from tiw_fsm.engines import code

    record = code.import_recorded

    def then_broken() -> str:
        digest = record()
        variant()
        return digest

    code.import_recorded = then_broken
    serve(int(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    main()
