"""The checkpoint that a path stands for, whoever asks: ``run`` to start from it, ``check`` to look at it."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.run.workshop import workshop
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks, packed
from tiw_fsm.storage.torch_files import UnreadableFile
from tiw_fsm.tinyworlds.checkpoint_files import MODEL


class Found(NamedTuple):
    """What was found at a path.

    Attributes:
        folder: the checkpoint to use; None if there is none. That of a single file is a temporary folder.
        shown: what people know it by: the folder, or the single file.
        passed_over: what cannot be used, with its problems.
    """

    folder: Path | None
    shown: Path
    passed_over: list[tuple[Path, list[str]]]

    def told(self, problem: str) -> str:
        """A problem of ``folder``, as one of what people know: each of its files is made of the single one."""
        if self.folder in (None, self.shown):
            return problem if problem.startswith(str(self.shown)) else f"{self.shown}: {problem}"
        return re.sub(rf"{re.escape(str(self.folder))}(/[\w.]+)?", lambda name: str(self.shown), problem)


def find(path: Path, stage: Stage, holding: ExitStack) -> Found:
    """The newest valid checkpoint of ``stage`` at ``path``: a folder, a folder of them, a run root, or a single file.
    One that a compiled or distributed model was saved to is taken as its single file is.

    Args:
        holding: for how long a temporary folder is there.

    Raises:
        UnreadableFile, NotPermitted: the folder cannot be listed.
        DiskRefused: a single file cannot be unpacked.
    """
    if path.exists() and not (path.is_dir() or path.is_file()):
        return Found(None, path, [(path, ["it is neither a folder nor a file"])])
    for own in (path / stage / "checkpoints", path / "checkpoints"):  # of a run root or an export, and of its stage
        if os.path.isdir(own):
            path = own
            break
    files = packed.files_in(path)
    if not files:
        newest, passed_over = checkpoint_checks.newest_valid(path, stage)
        if newest is None or not packed.is_wrapped(newest):
            return Found(newest, newest or path, passed_over)
        files = [newest / MODEL]
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        return Found(None, path, [(path, [f"{len(files)} files are there ({names}), so name one of them"])])
    (file,) = files
    try:
        folder = packed.unpack(file, stage, holding.enter_context(workshop()))
    except UnreadableFile as exc:
        return Found(None, file, [(file, [str(exc)])])
    found = Found(folder, file, [])
    problems = [found.told(problem) for problem in checkpoint_checks.problems(folder)]
    return Found(None, file, [(file, problems)]) if problems else found
