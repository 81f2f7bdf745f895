"""Checkpoint folders on disk: their names, their manifests, how they come there and go.

A checkpoint is a folder ``<stage>_step_<N>`` with TinyWorlds' three files, N the zero-based index of the last
update done. Ours also hold a manifest with the files' hashes. Whether one can be used, ``checkpoint_checks.py`` says.
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
from pathlib import Path
from typing import Any

from tiw_fsm.errors import DiskRefused, StateDamaged, disk_errors, refusal
from tiw_fsm.storage.torch_archive import refuse_holes
from tiw_fsm.storage.torch_files import UnreadableFile
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE

MANIFEST = "manifest.json"
FILES = (MODEL, OPTIMIZER, STATE)
NAME = re.compile(r"(?P<stage>[^.].*)_step_(?P<last>[0-9]+)")  # the dot is for half-done folders
SCHEMA = 2
"""Of the manifest."""

TEMPORARY_PREFIX = ".tmp-"
DISCARDED_PREFIX = ".discarded-"

FileHashes = dict[str, dict[str, Any]]
"""Size and SHA-256 of the three files, by their names."""


def folder_name(stage: str, completed: int) -> str:
    """The name of ``stage``'s checkpoint after ``completed`` updates."""
    return f"{stage}_step_{completed - 1}"


def completed_of(path: Path) -> int | None:
    """How many updates the checkpoint at ``path`` has behind it, by its name; None if not named like one."""
    name = NAME.fullmatch(path.name)
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
    files = hash_files(folder)
    manifest = {"schema": SCHEMA, "stage": stage, "completed": completed, "owner": owner, "files": files}
    with disk_errors("writing", folder / MANIFEST):
        (folder / MANIFEST).write_bytes(manifest_bytes(manifest))
    for path in (*(folder / name for name in FILES), folder / MANIFEST, folder):
        with disk_errors("writing", path):
            durable.sync(path)
    return digest_of(files)


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """With a checksum of its own: whose checkpoint it is stands nowhere else."""
    content = {**manifest, "checksum": hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()}
    return json.dumps(content, indent=2).encode() + b"\n"


def digest(folder: Path) -> str:
    """The checkpoint's SHA-256, from the bytes now on disk: equal files have equal digests.

    Raises:
        UnreadableFile: one of the three files is missing or cannot be read.
    """
    return digest_of(hash_files(folder))


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
    for folder in folders(checkpoints_dir):
        if folder.name.startswith((TEMPORARY_PREFIX, DISCARDED_PREFIX)):
            left.append(durable.discard(folder))
        elif completed_of(folder) is not None and folder.resolve() not in kept:
            _remove_if_empty(folder)
            left.append(remove(folder) if owner_of(folder) == owner else None)
    return [sentence for sentence in left if sentence]


def folders(directory: Path, *, linked: bool = False) -> list[Path]:
    """The folders in ``directory``, which need not exist. Links are somebody else's: good to read, if ``linked``, and
    those to what is not there are among them then, to be told of.

    Raises:
        UnreadableFile, NotPermitted: it cannot be listed.
    """
    try:
        return [path for path in directory.iterdir() if (linked if path.is_symlink() else path.is_dir())]
    except FileNotFoundError:
        return []
    except PermissionError as exc:
        raise refusal("listing", directory, exc) from exc
    except OSError as exc:
        raise UnreadableFile(f"{directory} cannot be listed: {exc.strerror}.") from exc


def hash_files(folder: Path) -> FileHashes:
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


def digest_of(files: FileHashes) -> str:
    """A checkpoint's SHA-256, by those of its files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
