"""``python -m tiw_fsm`` is ``tiw-fsm``: where the process begins."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # ``-m`` puts the working directory first, where a random.py would be taken for Python's

from tiw_fsm.system import needs

USAGE = 2
"""``ExitCode.USAGE``, which cannot be imported where what it needs is missing."""


def main() -> None:
    """Heed signals from the first instant of a run to the last; what happens between is the command line's."""
    _take_standard_descriptors()
    if lacking := needs.lacking():
        print(lacking, file=sys.stderr)
        sys.exit(USAGE)
    from tiw_fsm.errors import ExitCode
    from tiw_fsm.system import killer, signals

    runs = sys.argv[1:2] in (["run"], ["demo"])
    if runs:
        signals.exit_when_asked()
    try:
        if not killer.addresses_suffice():
            raise MemoryError("the address space is limited (ulimit -v)")
        if runs:
            from tiw_fsm.engines.native import starting

            starting.get_ready()
        from tiw_fsm import cli
    except (ImportError, MemoryError) as exc:
        if not killer.is_shortage(exc):
            raise
        print(f"memory does not suffice to begin: {exc}; {killer.REMEDY}, and run again.", file=sys.stderr)
        sys.exit(ExitCode.DISK)
    try:
        cli.main()
    finally:
        signals.hold_back()  # Python resets handlers before it ends: a late one would hide how the run ended


def _take_standard_descriptors() -> None:
    """Have those that the caller closed lead nowhere: else what is opened next would get their numbers, and pass for
    standard input or output in every process that is started."""
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(lowest, True)
    os.close(lowest)


if __name__ == "__main__":
    main()
