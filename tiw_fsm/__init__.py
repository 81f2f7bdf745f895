"""tiw_fsm: a resumable state machine that trains a TinyWorlds world model until it passes its inference gate."""

__version__ = "0.1.0"
