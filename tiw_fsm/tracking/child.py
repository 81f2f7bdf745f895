"""The process that feeds one tracker: ``child.py PARENT_PID STATE_FOLDER TRACKER``, as ``system/starter.py`` starts it.

It follows the run's files and asks nothing of the run. A line on its standard input says that nothing more will be
committed; it ends at once when its parent does, however that dies.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from tiw_fsm.storage.store import Store
from tiw_fsm.tracking.feeding import Status, feed

NICENESS = 10


def main(folder: Path, tracker: str) -> None:
    over = False

    def wait(seconds: float) -> bool:
        nonlocal over
        if not over and select.select([0], [], [], seconds)[0]:
            over = True
            if not os.read(0, 64):
                os._exit(0)  # the controller is gone
        return over

    def look(status: Status) -> None:
        if status.reason:
            traceback.print_exc()

    feed(Store(folder), tracker, wait, look)


if __name__ == "__main__":
    with suppress(OSError):
        os.nice(NICENESS)  # the run's own work comes first
    main(Path(sys.argv[2]), sys.argv[3])
