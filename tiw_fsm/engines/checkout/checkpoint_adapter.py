"""Checkpoints as a checkout's scripts can take them: copies in which nothing but what must differ differs.

A script that restores its optimizer and schedule would thereby restore the learning rate that a retune has lowered,
and count its updates from wherever the checkpoint's own run began. The copy carries the asked rate and our count.
Nothing is executed to make it: state.pt is written anew from plain values, a rate is changed in the bytes of its file.
"""

from __future__ import annotations

import io
import os
import pickletools
import shutil
import struct
import time
import zipfile
from pathlib import Path

from tiw_fsm.errors import disk_errors
from tiw_fsm.storage import checkpoint_checks
from tiw_fsm.storage.torch_files import read
from tiw_fsm.storage.torch_writing import write_plain
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds import checkpoint_files

STRINGS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"BINGET", "LONG_BINGET"}


def resumable(source: Path, target: Path, *, step: int, rate: float, optimizer: bool, schedule: bool) -> None:
    """Copy the checkpoint at ``source`` to ``target`` for a script that goes on from the step it finds there.

    Args:
        step: the zero-based index of the last update done, as the script shall count; -1 for none.
        rate: the peak learning rate to go on with.
        optimizer: hand over the optimizer's state.
        schedule: hand over the schedule's state, at ``step``; else it begins anew.

    Raises:
        UnreadableFile: ``source`` is no readable checkpoint.
        DiskRefused: the disk did not take the copy.
    """
    state = read(source / checkpoint_files.STATE)
    before = state.get("scheduler_state_dict") if isinstance(state, dict) else None
    old_rates = before.get("base_lrs") if isinstance(before, dict) else None
    if isinstance(old_rates, list) and old_rates and isinstance(before, dict):
        scheduler = {**before, "base_lrs": [rate] * len(old_rates), "last_epoch": step + 1, "_step_count": step + 2}
        scheduler["_last_lr"] = [rate] * len(old_rates)
    else:
        scheduler, old_rates = None, None
    content = {
        "scheduler_state_dict": scheduler if schedule else None,
        "config": checkpoint_checks.saved_config(source),
        "step": step,
        "timestamp": time.strftime("%Y_%m_%d_%H_%M_%S"),
    }
    with disk_errors("writing", target):
        durable.clear(target)
        target.mkdir(parents=True)
        _share(source / checkpoint_files.MODEL, target / checkpoint_files.MODEL)
        if optimizer:
            factor = rate / old_rates[0] if old_rates and old_rates[0] else 1.0
            _with_rates(source / checkpoint_files.OPTIMIZER, target / checkpoint_files.OPTIMIZER, factor)
        write_plain(target / checkpoint_files.STATE, content)


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _with_rates(source: Path, target: Path, factor: float) -> None:
    """Copy an optimizer's file, its parameter groups' ``lr`` multiplied by ``factor``."""
    if factor == 1.0:
        _share(source, target)
        return
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as after:
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename.endswith("/data.pkl"):
                content = scaled(content, "lr", factor)
            after.writestr(entry.filename, content)


def scaled(data: bytes, key: str, factor: float) -> bytes:
    """A pickle with every float that stands under the dict key ``key`` multiplied by ``factor``.

    A float is eight bytes behind its instruction, so it is changed where it stands; nothing is loaded.
    """
    result = io.BytesIO(data)
    memo: dict[int, str | None] = {}
    word: str | None = None
    """The string that the last instruction put on the stack."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in STRINGS:
            word = str(argument)
        elif opcode.name in PUTS:
            memo[len(memo) if argument is None else argument] = word
        elif opcode.name in GETS:
            word = memo.get(int(str(argument)))
        else:
            if isinstance(argument, float) and word == key and position is not None:
                result.seek(position + 1)
                result.write(struct.pack(">d", argument * factor))
            word = None
    return result.getvalue()
