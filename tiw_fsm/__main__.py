"""``python -m tiw_fsm`` is ``tiw-fsm``."""

from tiw_fsm.cli import main

if __name__ == "__main__":
    main()
