"""``python -m tiw_fsm`` is ``tiw-fsm``: where the process begins."""

from __future__ import annotations

import sys

from tiw_fsm import signals


def main() -> None:
    """Heed signals from the first instant of a run, then leave it to the command line."""
    if sys.argv[1:2] == ["run"]:
        signals.exit_when_asked()
    from tiw_fsm import cli

    cli.main()


if __name__ == "__main__":
    main()
