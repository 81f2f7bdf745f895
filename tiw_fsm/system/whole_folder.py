"""A folder that is there whole or not at all: made beside its place, brought to the disk, and then given its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable, locking

PATIENCE = 60.0
"""Seconds that another process in the same folder is waited for."""


@contextmanager
def made(final: Path) -> Iterator[Path]:
    """A new folder that takes the name ``final`` when the block ends; if it does not end well, nothing is changed.

    What bears the name is replaced. Several that make something in one folder do so one after the other, so that what
    a process left that was killed can be told from what one is at.

    Raises:
        DiskRefused: the operating system refused.
        RunHeld: another process works in the folder above.
    """
    parent, new, old = final.parent, final.with_name(f".{final.name}.new"), final.with_name(f".{final.name}.old")
    durable.make_folder(parent)
    with disk_errors("making", final):
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            held = f"another process works in {parent}: try again when it is done, or give a place elsewhere"
            locking.take_alone(descriptor, parent, held, PATIENCE)
            if os.path.lexists(old) and not os.path.lexists(final):
                old.rename(final)  # killed between the two names below
            for leftover in (new, old):
                durable.clear(leftover)
            new.mkdir()
            try:
                yield new
                _sync_all(new)
                if os.path.lexists(final):
                    final.rename(old)
                new.rename(final)
                durable.sync(parent)
            finally:
                with suppress(OSError):
                    durable.clear(new)
                    if not os.path.lexists(final) and os.path.lexists(old):
                        old.rename(final)
                    durable.clear(old)
        finally:
            os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            durable.sync(Path(parent, name))
        durable.sync(Path(parent))
