"""Checkpoint folders: their names, their bytes on disk, and whether they are ready to be used.

A checkpoint is a folder ``<stage>_step_<N>`` with TinyWorlds' three files, N the zero-based index of the last
update done. Ours also hold a manifest with the files' hashes. TinyWorlds' own are judged without one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tiw_fsm.errors import DiskRefused, StateDamaged, TiwFsmError, disk_errors, refusal
from tiw_fsm.storage.torch_archive import refuse_holes
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

MANIFEST = "manifest.json"
FILES = (MODEL, OPTIMIZER, STATE)

TEMPORARY_PREFIX = ".tmp-"
DISCARDED_PREFIX = ".discarded-"

_SCHEMA = 2
_REMEDY = (
    "Nothing was overwritten: run again to go on from an earlier checkpoint where there is one; else put the folder "
    "back from a backup, or begin anew with another --run."
)
_SMALLEST = 500  # bytes; below, a model or optimizer file cannot hold one of TinyWorlds' models
_DIFFERENCES_NAMED = 3
_MOST_EXPANDED = 1024
"""How many times more than the file itself one tensor may claim by repeating what is stored."""
_NAME = re.compile(r"(?P<stage>[^.].*)_step_(?P<last>[0-9]+)")  # the dot is for half-done folders

FileHashes = dict[str, dict[str, Any]]


def folder_name(stage: str, completed: int) -> str:
    """The name of ``stage``'s checkpoint after ``completed`` updates."""
    return f"{stage}_step_{completed - 1}"


def completed_of(path: Path) -> int | None:
    """How many updates the checkpoint at ``path`` has behind it, by its name; None if not named like one."""
    name = _NAME.fullmatch(path.name)
    return int(name["last"]) + 1 if name else None


def temporary_name(folder: Path, stage: str, completed: int) -> Path:
    """Where in ``folder`` a checkpoint is written until it is whole: a name never given before, so that what cannot be
    removed does not stand in its way."""
    return folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{folder_name(stage, completed)}"


def write_manifest(folder: Path, stage: str, completed: int, owner: str) -> str:
    """Hash the three files, write the manifest, bring all of it to the disk; return the checkpoint's digest.

    ``owner`` is the id of the run that made it: only that run may remove it. The digest does not depend on it.

    Raises:
        UnreadableFile: one of the three files is missing or cannot be read.
        DiskRefused: the disk did not take it.
    """
    files = _hash_files(folder)
    manifest = {"schema": _SCHEMA, "stage": stage, "completed": completed, "owner": owner, "files": files}
    with disk_errors("writing", folder / MANIFEST):
        (folder / MANIFEST).write_bytes(_manifest_bytes(manifest))
    for path in (*(folder / name for name in FILES), folder / MANIFEST, folder):
        with disk_errors("writing", path):
            durable.sync(path)
    return _digest_of(files)


def _manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """With a checksum of its own: whose checkpoint it is stands nowhere else."""
    content = {**manifest, "checksum": hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()}
    return json.dumps(content, indent=2).encode() + b"\n"


def digest(folder: Path) -> str:
    """The checkpoint's SHA-256, from the bytes now on disk: equal files have equal digests.

    Raises:
        UnreadableFile: one of the three files is missing or cannot be read.
    """
    return _digest_of(_hash_files(folder))


def owner_of(folder: Path) -> str | None:
    """Id of the run that made the checkpoint; None for TinyWorlds' own, or when the manifest cannot be read."""
    try:
        owner = json.loads(durable.read_small(folder / MANIFEST))["owner"]
    except (DiskRefused, StateDamaged, ValueError, LookupError, TypeError, RecursionError):
        return None
    return owner if isinstance(owner, str) else None


def publish(temporary: Path, final: Path, owner: str) -> None:
    """Give a finished checkpoint, which ``write_manifest`` brought to the disk, its name, durably and at once.

    A folder already at ``final`` is a leftover of this run that no state names, and is removed; one that somebody
    else made is set aside.

    Raises:
        DiskRefused: the disk did not take it.
    """
    _remove_if_empty(final)
    if final.is_symlink():
        durable.set_aside(final)
    elif owner_of(final) == owner:
        remove(final)
    elif final.exists():
        durable.set_aside(final)
    with disk_errors("Publishing", final):
        durable.move(temporary, final)


def keep(source: Path, folder: Path) -> Path:
    """A checkpoint of one's own in ``folder``, with the files of that at ``source``, which its owner may remove.

    Files are linked where tiw-fsm made them, since it never writes into a file again, and else copied.

    Raises:
        UnreadableFile: ``source`` went meanwhile.
        DiskRefused: the disk did not take it.
    """
    final = folder / source.name
    temporary = final.with_name(TEMPORARY_PREFIX + final.name)
    durable.make_folder(folder)
    may_link = owner_of(source) is not None
    with disk_errors("Keeping a copy of", source):
        durable.clear(temporary)
        temporary.mkdir()
        try:
            for name in (*FILES, *([MANIFEST] if (source / MANIFEST).exists() else [])):
                _link_or_copy(source / name, temporary / name, may_link=may_link)
        except FileNotFoundError as exc:
            raise UnreadableFile(f"{exc.filename} is gone.") from exc
        for path in (*temporary.iterdir(), temporary):
            durable.sync(path)
        durable.clear(final)
        durable.move(temporary, final)
    return final


def _link_or_copy(source: Path, target: Path, *, may_link: bool) -> None:
    if may_link:
        with suppress(OSError):  # another file system, or one without links
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)


def remove(folder: Path) -> str | None:
    """Remove a checkpoint so that half of it can never pass for a whole one. One already gone is fine.

    Returns what is left of it and cannot be removed yet, in a sentence.

    Raises:
        DiskRefused: the disk did not let it go.
    """
    if not folder.exists():
        return None
    discarded = folder.with_name(DISCARDED_PREFIX + folder.name)
    if os.path.lexists(discarded):  # an earlier removal was interrupted
        durable.discard(discarded)
    if os.path.lexists(discarded):
        discarded = durable.free_name(discarded)
    with disk_errors("Removing", folder):
        try:
            folder.rename(discarded)
            durable.sync(folder.parent)  # else a power cut may bring back the name, with half of what it named
        except OSError as exc:
            if exc.errno == errno.EXDEV:
                return _remove_in_place(folder)
            if exc.errno not in durable.NOT_YET:
                raise
            return durable.not_yet(folder, exc)
    return durable.discard(discarded)


def _remove_if_empty(folder: Path) -> None:
    """What a kill leaves of a removal in place, or of a copy."""
    with suppress(OSError):
        folder.rmdir()


def _remove_in_place(folder: Path) -> str | None:
    """As ``remove``, where folders cannot be renamed: without its model no checkpoint passes for a whole one, and the
    manifest, which says whose it is, goes last."""
    for name in (MODEL, OPTIMIZER, STATE):
        (folder / name).unlink(missing_ok=True)
        durable.sync(folder)
    return durable.discard(folder)


def set_aside_own(folder: Path, within: Path, owner: str) -> None:
    """Set aside a damaged checkpoint that ``owner`` keeps in the folder ``within``; leave one made by another alone.

    Raises:
        DiskRefused: the disk did not let it be renamed.
    """
    if folder.parent.resolve() == within.resolve() and folder.exists() and owner_of(folder) in (owner, None):
        durable.set_aside(folder)


def sweep(checkpoints_dir: Path, keep: set[Path], owner: str) -> list[str]:
    """Remove ``owner``'s checkpoints not in ``keep`` and all half-written or half-removed ones; touch nothing else.

    Returns what cannot be removed yet, a sentence each.

    Raises:
        DiskRefused: the disk fails.
    """
    kept = {path.resolve() for path in keep}
    left = []
    for folder in _folders(checkpoints_dir):
        if folder.name.startswith((TEMPORARY_PREFIX, DISCARDED_PREFIX)):
            left.append(durable.discard(folder))
        elif completed_of(folder) is not None and folder.resolve() not in kept:
            _remove_if_empty(folder)
            left.append(remove(folder) if owner_of(folder) == owner else None)
    return [sentence for sentence in left if sentence]


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
        raise StateDamaged(f"{wrong[0]} {_REMEDY}")
    return Path(ref.path)


def newest_valid(checkpoints_dir: Path, stage: str) -> tuple[Path | None, list[tuple[Path, list[str]]]]:
    """``stage``'s newest usable checkpoint, and the newer ones passed over with their problems.

    Newest is by update, never by modification time, which copying changes. ``checkpoints_dir`` may itself be
    a checkpoint, whatever its name.

    Raises:
        UnreadableFile: the directory is there but cannot be listed.
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
    name = _NAME.fullmatch(path.name)
    if name or (path / MODEL).is_file():
        return [path] if name is None or name["stage"] == stage else []
    of_stage = [
        (int(name["last"]), folder)
        for folder in _folders(path, linked=True)
        if (name := _NAME.fullmatch(folder.name)) and name["stage"] == stage
    ]
    return [folder for _, folder in sorted(of_stage, reverse=True)]


def _folders(directory: Path, *, linked: bool = False) -> list[Path]:
    """The folders in ``directory``, which need not exist. Links are somebody else's: good to read, if ``linked``, and
    those to what is not there are among them then, to be told of."""
    try:
        return [path for path in directory.iterdir() if (linked if path.is_symlink() else path.is_dir())]
    except FileNotFoundError:
        return []
    except PermissionError as exc:
        raise refusal("listing", directory, exc) from exc
    except OSError as exc:
        raise UnreadableFile(f"{directory} cannot be listed: {exc.strerror}.") from exc


def _incomplete(folder: Path) -> list[str]:
    missing = [f"{folder / name} is missing." for name in FILES if not (folder / name).is_file()]
    if missing:
        return missing
    sizes = {name: (folder / name).stat().st_size for name in (MODEL, OPTIMIZER)}
    return [
        f"{folder / name} has only {size:,} bytes: it was not written to the end."
        for name, size in sizes.items()
        if size < _SMALLEST
    ]


def _hash_problems(folder: Path, sha256: str | None) -> list[str]:
    """Where the three files are not those the manifest lists, or not those recorded under ``sha256``."""
    listed, found = _listed(folder / MANIFEST)
    if found or (listed is None and sha256 is None):
        return found
    if listed is not None:
        resized = [name for name in FILES if (folder / name).stat().st_size != listed[name]["bytes"]]
        files = _hash_files(folder) if not resized else {}  # one that has grown absurdly need not be read
        if altered := resized or [name for name in FILES if files[name] != listed[name]]:
            what = f"was altered or damaged: its hash or size is not the one {MANIFEST} lists."
            return [f"{folder / name} {what}" for name in altered]
    else:
        files = _hash_files(folder)
    now = _digest_of(files)
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
    if schema != _SCHEMA:
        return None, [
            f"{path} has schema {quoted(schema)}, this version reads {_SCHEMA}: use the version that wrote it."
        ]
    manifest.pop("checksum", None)
    if content != _manifest_bytes(manifest):
        return None, [f"{path} was altered or damaged: its checksum does not match its content."]
    if completed_of(path.parent) not in (None, completed):
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
    most = _MOST_EXPANDED * path.stat().st_size
    for name, tensor in tensors(content):
        if tensor.claims > most:
            return [f"{path} claims far more numbers than it holds, first in {name}: no checkpoint does."]
        if not tensor.is_finite():
            return [f"{path} has values that are NaN or infinite, first in {name}."]
    return []


def _first_few(names: list[str]) -> str:
    more = len(names) - _DIFFERENCES_NAMED
    return ", ".join(names[:_DIFFERENCES_NAMED]) + (f" and {more} more" if more > 0 else "")


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
    return [f"{path} is of another architecture: {counts} ({'; '.join(named[:_DIFFERENCES_NAMED])})."]


def _hash_files(folder: Path) -> FileHashes:
    """Size and SHA-256 of the three files.

    Raises:
        UnreadableFile: one is missing or cannot be read.
    """
    return {name: _hash_file(folder / name) for name in FILES}


def _hash_file(path: Path) -> dict[str, Any]:
    refuse_holes(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return {"sha256": sha256, "bytes": file.tell()}
    except OSError as exc:
        raise UnreadableFile(f"{path} cannot be read: {exc.strerror or exc}.") from exc


def _digest_of(files: FileHashes) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
