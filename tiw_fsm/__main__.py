"""``python -m tiw_fsm`` is ``tiw-fsm``: where the process begins."""

from __future__ import annotations

import sys

from tiw_fsm.system import signals


def main() -> None:
    """Heed signals from the first instant of a run to the last; what happens between is the command line's."""
    if sys.argv[1:2] == ["run"]:
        signals.exit_when_asked()
    from tiw_fsm import cli

    try:
        cli.main()
    finally:
        signals.hold_back()  # Python resets handlers before it ends: a late one would hide how the run ended


if __name__ == "__main__":
    main()
