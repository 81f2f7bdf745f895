"""A checkpoint in a single file, as TinyWorlds saved it once and its hub may hold it: weights, and a config or none.

It is read without executing anything in it, and made a checkpoint of three files like any other. Those are the same
bytes whenever it is done, so that they have one digest.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tiw_fsm.errors import disk_errors
from tiw_fsm.stages import PACKED, Stage, step_of
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.storage.torch_files import StoredTensor, UnreadableFile, read
from tiw_fsm.storage.torch_writing import write_plain, write_tensors
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE

WEIGHTS = ("model", "model_state_dict", "state_dict")
"""Keys under which a file holds its weights; one that has none of them is taken for the weights themselves."""
WRAPPERS = re.compile(r"^(?:module\.)+|(?:^|(?<=\.))_orig_mod\.")
"""What names of tensors have in them of a model that was trained by several processes, or compiled."""
LARGEST_STEP = 10**12


def files_in(path: Path) -> list[Path]:
    """The single file that ``path`` is, or those that lie in it where it is a folder without checkpoints."""
    if path.is_file():
        return [path]
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else []
    except OSError:  # whoever looks for checkpoints there says so
        return []
    if any(child.name in checkpoints.FILES or (child.is_dir() and checkpoints.completed_of(child)) for child in inside):
        return []
    return [child for child in inside if child.suffix in PACKED and child.is_file()]


def is_wrapped(folder: Path) -> bool:
    """Whether the names of a checkpoint's tensors have in them what a single file's may have, and a model's have not.

    Raises:
        UnreadableFile: the model cannot be read.
    """
    return any(isinstance(name, str) and WRAPPERS.search(name) for name in read(folder / MODEL))


def unpack(file: Path, stage: Stage, folder: Path) -> Path:
    """Make a checkpoint of ``stage`` in ``folder`` of a single file's weights and plain config; of a file that is one
    of a checkpoint's three, that config and update are those beside it.

    Raises:
        UnreadableFile: it holds no weights, or cannot be read.
        DiskRefused: the disk did not take it.
    """
    content = read(file)
    if not isinstance(content, dict):
        raise UnreadableFile(f"{file} holds no dict, so it has no weights.")
    held: Any = next((content[key] for key in WEIGHTS if isinstance(content.get(key), dict)), content)
    weights = {WRAPPERS.sub("", name): value for name, value in held.items() if _is_weight(name, value)}
    if not weights:
        raise UnreadableFile(f"{file} holds no weights: no tensors by name, nor under {', '.join(WEIGHTS)}.")
    if problems := checkpoint_checks.tensor_problems(file, weights):
        raise UnreadableFile(problems[0])
    step = _step(content.get("step"), file)
    unpacked = folder / checkpoints.folder_name(stage, step + 1)
    with disk_errors("writing", unpacked):
        unpacked.mkdir(parents=True)
        write_tensors(unpacked / MODEL, {name: tensor.array() for name, tensor in weights.items()})
        begun = {"state": {}, "param_groups": [{"lr": 0.0, "params": list(range(len(weights)))}]}
        write_plain(unpacked / OPTIMIZER, begun)
        beside = {} if file.name != MODEL or "config" in content else _beside(file)
        config = beside or checkpoint_checks.plain_config(content.get("config"))
        write_plain(unpacked / STATE, {"config": config, "step": step, "scheduler_state_dict": None})
    return unpacked


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, StoredTensor)


def _beside(file: Path) -> dict[str, Any]:
    try:
        return checkpoint_checks.saved_config(file.parent)
    except UnreadableFile:
        return {}


def _step(said: object, file: Path) -> int:
    """The zero-based update that it was saved after, as it, its name or that of its folder says; else 0."""
    if isinstance(said, int) and 0 <= said < LARGEST_STEP:
        return said
    return step_of(file.stem) or (checkpoints.completed_of(file.parent) or 1) - 1
