"""Whether a checkpoint can be used: whole, unaltered, of the architecture wanted, and with nothing in it to execute.

Ours are held to their manifest and to what the state recorded; TinyWorlds' own are judged without one.
"""

from __future__ import annotations

import json
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tiw_fsm.errors import StateDamaged, TiwFsmError
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.checkpoints import FILES, MANIFEST, FileHashes
from tiw_fsm.storage.torch_files import (
    Record,
    StoredTensor,
    UnreadableFile,
    read,
    read_with_globals,
    shown_key,
    tensors,
)
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE
from tiw_fsm.values.frozen import CheckpointRef
from tiw_fsm.values.printable import excerpt, quoted

REMEDY = (
    "Nothing was overwritten: run again to go on from an earlier checkpoint where there is one; else put the folder "
    "back from a backup, or begin anew with another --run."
)
SMALLEST = 500
"""Bytes; below, a model or optimizer file cannot hold one of TinyWorlds' models."""
DIFFERENCES_NAMED = 3
MOST_EXPANDED = 1024
"""How many times more than the file itself one tensor may claim by repeating what is stored."""


def problems(folder: Path, *, expect: dict[str, tuple[int, ...]] | None = None, sha256: str | None = None) -> list[str]:
    """Why the checkpoint at ``folder`` cannot be used, a sentence each; none if it is ready.

    Args:
        expect: names and shapes the model's tensors must have.
        sha256: the digest that was recorded when it was written.

    Raises:
        NotPermitted: it may be in order, but this process may not read it.
    """
    _require_permission(folder)
    try:
        return _incomplete(folder) or [*_hash_problems(folder, sha256), *_content_problems(folder, expect)]
    except (TiwFsmError, OSError) as exc:
        return [f"{folder} cannot be read: {exc}"]


def altered(folder: Path, sha256: str) -> list[str]:
    """Why the checkpoint's bytes are not those recorded under ``sha256``, a sentence each; none if they are.

    Raises:
        NotPermitted: they may be, but this process may not read them.
    """
    _require_permission(folder)
    try:
        missing = [f"{folder / name} is missing." for name in FILES if not (folder / name).is_file()]
        return missing or _hash_problems(folder, sha256)
    except (TiwFsmError, OSError) as exc:
        return [f"{folder} cannot be read: {exc}"]


def _require_permission(folder: Path) -> None:
    for name in (*FILES, MANIFEST):
        durable.require_permission(folder / name)


def verified(ref: CheckpointRef) -> Path:
    """The folder of a checkpoint whose bytes are the ones the state names.

    Raises:
        StateDamaged: they are not.
    """
    if wrong := altered(Path(ref.path), ref.sha256):
        raise StateDamaged(f"{wrong[0]} {REMEDY}")
    return Path(ref.path)


def newest_valid(checkpoints_dir: Path, stage: str) -> tuple[Path | None, list[tuple[Path, list[str]]]]:
    """``stage``'s newest usable checkpoint, and the newer ones passed over with their problems.

    Newest is by update, never by modification time, which copying changes. ``checkpoints_dir`` may itself be
    a checkpoint, whatever its name.

    Raises:
        UnreadableFile: the directory is there but cannot be listed.
        NotPermitted: it, or a checkpoint in it, may not be read.
    """
    passed_over: list[tuple[Path, list[str]]] = []
    for folder in _candidates(checkpoints_dir, stage):
        found = problems(folder)
        if not found:
            return folder, passed_over
        passed_over.append((folder, found))
    return None, passed_over


def saved_config(folder: Path) -> dict[str, Any]:
    """The plain values of the config the checkpoint was trained with; other objects in it are left out.

    Raises:
        UnreadableFile: its state.pt cannot be read, or is not one of TinyWorlds'.
    """
    state = read(folder / STATE)
    if not isinstance(state, dict):
        raise UnreadableFile(f"{folder / STATE} holds no dict, so it tells no config.")
    return plain_config(state.get("config"))


def plain_config(config: Any) -> dict[str, Any]:
    """The plain values of a config as it was saved: a dict, or an object of which the state was."""
    if isinstance(config, Record):
        config = config.state
    plain = {key: _plain(value) for key, value in config.items()} if isinstance(config, dict) else {}
    return {
        shown_key(key): excerpt(value) if isinstance(value, str) else value
        for key, value in plain.items()
        if isinstance(value, str | int | float | None)
    }


def _plain(value: Any) -> Any:
    """An Enum member's value (it is saved as its class called with the value); anything else as it is."""
    if isinstance(value, Record) and value.args is not None and len(value.args) == 1:
        return value.args[0]
    return value


def _candidates(path: Path, stage: str) -> list[Path]:
    """Checkpoints to try, newest first."""
    name = checkpoints.NAME.fullmatch(path.name)
    if name or (path / MODEL).is_file():
        return [path] if name is None or name["stage"] == stage else []
    of_stage = [
        (int(name["last"]), folder)
        for folder in checkpoints.folders(path, linked=True)
        if (name := checkpoints.NAME.fullmatch(folder.name)) and name["stage"] == stage
    ]
    return [folder for _, folder in sorted(of_stage, reverse=True)]


def _incomplete(folder: Path) -> list[str]:
    missing = [f"{folder / name} is missing." for name in FILES if not (folder / name).is_file()]
    if missing:
        return missing
    sizes = {name: (folder / name).stat().st_size for name in (MODEL, OPTIMIZER)}
    return [
        f"{folder / name} has only {size:,} bytes: it was not written to the end."
        for name, size in sizes.items()
        if size < SMALLEST
    ]


def _hash_problems(folder: Path, sha256: str | None) -> list[str]:
    """Where the three files are not those the manifest lists, or not those recorded under ``sha256``."""
    listed, found = _listed(folder / MANIFEST)
    if found or (listed is None and sha256 is None):
        return found
    if listed is not None:
        resized = [name for name in FILES if (folder / name).stat().st_size != listed[name]["bytes"]]
        files = checkpoints.hash_files(folder) if not resized else {}  # one that has grown absurdly need not be read
        if altered := resized or [name for name in FILES if files[name] != listed[name]]:
            what = f"was altered or damaged: its hash or size is not the one {MANIFEST} lists."
            return [f"{folder / name} {what}" for name in altered]
    else:
        files = checkpoints.hash_files(folder)
    now = checkpoints.digest_of(files)
    if sha256 not in (None, now):
        return [f"{folder} is not what was recorded: its SHA-256 is {now}, recorded was {sha256}."]
    return []


def _listed(path: Path) -> tuple[FileHashes | None, list[str]]:
    """What a manifest lists, None if there is none; and what is wrong with it."""
    if not os.path.lexists(path):
        return None, []
    try:
        content = durable.read_small(Path(os.path.realpath(path)))  # a hub's cache is a folder of links
        manifest = json.loads(content)
        schema, completed = manifest["schema"], manifest["completed"]
        files = {name: {key: manifest["files"][name][key] for key in ("sha256", "bytes")} for name in FILES}
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, [f"{path} is damaged: it is not a manifest."]
    if schema != checkpoints.SCHEMA:
        return None, [
            f"{path} has schema {quoted(schema)}, this version reads {checkpoints.SCHEMA}: "
            "use the version that wrote it."
        ]
    manifest.pop("checksum", None)
    if content != checkpoints.manifest_bytes(manifest):
        return None, [f"{path} was altered or damaged: its checksum does not match its content."]
    if checkpoints.completed_of(path.parent) not in (None, completed):
        return None, [f"{path} says {quoted(completed)} updates are done, which its folder's name contradicts."]
    return files, []


def _content_problems(folder: Path, expect: dict[str, tuple[int, ...]] | None) -> list[str]:
    found = []
    for name in FILES:
        try:
            found += _file_problems(folder / name, expect if name == MODEL else None)
        except UnreadableFile as exc:
            found.append(str(exc))
    return found


def _file_problems(path: Path, expect: dict[str, tuple[int, ...]] | None) -> list[str]:
    """What is wrong inside one file.

    Raises:
        UnreadableFile: it cannot be read.
    """
    content, named = read_with_globals(path)
    if named and path.name != STATE:  # TinyWorlds' state.pt always names its config classes
        return [f"{path} refers to code that loading it could run ({_first_few(named)}): do not use it."]
    if not isinstance(content, dict) or not content:
        return [f"{path} holds nothing to load."]
    if found := tensor_problems(path, content):
        return found
    return [] if expect is None else _architecture_problems(path, content, expect)


def tensor_problems(path: Path, content: Any) -> list[str]:
    """Why the tensors within ``content``, which ``path`` holds, cannot be used.

    Raises:
        UnreadableFile: they cannot be read.
    """
    most = MOST_EXPANDED * path.stat().st_size
    for name, tensor in tensors(content):
        if tensor.claims > most:
            return [f"{path} claims far more numbers than it holds, first in {name}: no checkpoint does."]
        if not tensor.is_finite():
            return [f"{path} has values that are NaN or infinite, first in {name}."]
    return []


def _first_few(names: list[str]) -> str:
    more = len(names) - DIFFERENCES_NAMED
    return ", ".join(names[:DIFFERENCES_NAMED]) + (f" and {more} more" if more > 0 else "")


def _architecture_problems(path: Path, model: dict[Any, Any], expect: dict[str, tuple[int, ...]]) -> list[str]:
    shapes = {name: value.shape for name, value in model.items() if isinstance(value, StoredTensor)}
    lacking = [f"{name} is missing" for name in expect if name not in shapes]
    reshaped = [
        f"{name} is {shapes[name]} where {shape} is expected"
        for name, shape in expect.items()
        if name in shapes and shapes[name] != tuple(shape)
    ]
    unknown = [f"{shown_key(name)} is not expected" for name in shapes if name not in expect]
    if not (reshaped or lacking or unknown):
        return []
    named = [one for each in zip_longest(reshaped, lacking, unknown) for one in each if one]
    counts = f"{len(reshaped)} tensors differ in shape, {len(lacking)} are missing, {len(unknown)} unknown"
    return [f"{path} is of another architecture: {counts} ({'; '.join(named[:DIFFERENCES_NAMED])})."]
