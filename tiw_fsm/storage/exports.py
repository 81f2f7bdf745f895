"""The folder that ``tiw-fsm export`` makes: what is in it, and whether it is what was made. Never imports torch.

``SHA256SUMS`` lists every other file, as ``sha256sum -c`` reads it. It finds damage and what is missing. It is no
signature: who alters a file and the list with it is not found out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from tiw_fsm.errors import UsageProblem, disk_errors
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.stages import Stage
from tiw_fsm.storage.checkpoints import folder_name
from tiw_fsm.tinyworlds.config import InferenceConfig, StageConfig
from tiw_fsm.values.frozen import FrozenModel
from tiw_fsm.values.printable import excerpt

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
STARTS = "starts.safetensors"
CARD = "README.md"
PICTURE = "rollouts.png"
MOVING = "rollouts_moving.png"
SUMS = "SHA256SUMS"
NEEDED = (CONFIG, WEIGHTS, STARTS)
"""Without which no world can be loaded."""
FORMAT = 1
"""Grows when an older version could not read it any more."""
LARGEST_TEXT = 1 << 24
"""Bytes of ``CONFIG`` or ``SUMS``."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_REMEDY = "export it again, or fetch the folder anew"


class ExportedCheckpoint(FrozenModel):
    """One of TinyWorlds' checkpoints in the export."""

    updates: int
    sha256: str
    """Digest that the run's state named it by."""


class Provenance(FrozenModel):
    """Where the models come from."""

    run_id: str
    finished: str
    """When the run's state was last committed."""
    dataset: str
    """Name of the frames file."""
    data: str
    """SHA-256 of it."""
    content: str | None
    """Digest of the rows in use, decoded."""
    config_sha256: str | None
    """Of the run's effective configuration."""
    code: str
    """Digest of the code that trained it."""
    torch: str
    device: str
    processes: int
    exact: bool
    """All of it was computed on one kind of machine, so that it can be computed again bit for bit."""
    checkpoints: dict[Stage, ExportedCheckpoint]


class ExportConfig(FrozenModel):
    """The content of ``config.json``: all that a rollout needs beside the weights, and where they come from."""

    format: int = FORMAT
    version: str
    """Of tiw_fsm."""
    run: str
    passed: bool
    """The inference gate has passed these models."""
    verdict: str
    """What it said, in a sentence."""
    frame_size: int
    n_actions: int
    keys: dict[str, int]
    """The latent action that goes with each recorded key."""
    stages: dict[Stage, StageConfig]
    inference: InferenceConfig
    attempt: Attempt | None
    """The last inference attempt, with its figures and conditions."""
    provenance: Provenance


def checkpoint(stage: Stage, updates: int) -> str:
    """Where a stage's checkpoint lies in an export: in TinyWorlds' own place, as in a run root."""
    return f"{stage}/checkpoints/{folder_name(stage, updates)}"


def is_export(folder: Path) -> bool:
    """Whether ``folder`` is, or was, an export: it has the list of sums, or both of what only an export has."""
    return os.path.isfile(folder / SUMS) or all(os.path.isfile(folder / name) for name in (CONFIG, WEIGHTS))


def write_sums(folder: Path) -> dict[str, str]:
    """List all files of ``folder`` in ``SUMS``; returns the SHA-256 of each by its name, as seen from the folder.

    Raises:
        OSError: the operating system refused.
    """
    found = {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()}
    sums = dict(sorted(found.items()))
    (folder / SUMS).write_text("".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
    return sums


def problems(folder: Path) -> dict[str, str]:
    """Why the files of an export are not those that were made: the name of each, and what is wrong with it."""
    try:
        listed = _listed(folder)
    except UsageProblem as exc:
        return {SUMS: str(exc)}
    found = {name: f"{SUMS} does not list it; {_REMEDY}" for name in NEEDED if name not in listed}
    for name, sha256 in listed.items():
        if not os.path.isfile(folder / name):
            found[name] = f"it is missing; {_REMEDY}"
        elif _sha256(folder / name) != sha256:
            found[name] = f"it was altered or damaged: its SHA-256 is not the one {SUMS} lists; {_REMEDY}"
    if not found:
        try:
            read_config(folder)
        except UsageProblem as exc:
            found[CONFIG] = str(exc)
    return found


def read_config(folder: Path) -> ExportConfig:
    """What an export says of itself.

    Raises:
        UsageProblem: it cannot be read, or a newer version wrote it.
    """
    text = _text(folder / CONFIG)
    newer = _format(text)
    if isinstance(newer, int) and newer > FORMAT:
        told = excerpt(str(newer))
        raise UsageProblem(f"it is of format {told}, this version reads {FORMAT}: use the version that wrote it")
    try:
        return ExportConfig.model_validate_json(text)
    except ValidationError as exc:
        where = ".".join(map(str, exc.errors()[0]["loc"])) or "the whole"
        raise UsageProblem(f"it is no configuration of an export: {where} is not as it should be; {_REMEDY}") from exc


def _format(text: str) -> object:
    """That which a configuration says it has; None if it is none."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told.get("format") if isinstance(told, dict) else None


def count(folder: Path) -> int:
    """How many files an export lists.

    Raises:
        UsageProblem: its list cannot be read.
    """
    return len(_listed(folder))


def _listed(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name.

    Raises:
        UsageProblem: the list is missing or damaged.
    """
    listed = {}
    for line in _text(folder / SUMS).splitlines():
        found = _LINE.fullmatch(line)
        if found is None or not _lies_within(found[2]):
            raise UsageProblem(f"it is damaged: not every line is a hash and the name of a file; {_REMEDY}")
        listed[found[2]] = found[1]
    return listed


def _lies_within(name: str) -> bool:
    path = PurePosixPath(name)
    plain = name.isprintable() and path.as_posix() == name != "."
    return plain and not path.is_absolute() and ".." not in path.parts


def _text(path: Path) -> str:
    if not os.path.isfile(path):
        raise UsageProblem(f"it is missing; {_REMEDY}")
    with disk_errors("reading", path), open(path, "rb") as file:
        content = file.read(LARGEST_TEXT + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise UsageProblem(f"it is damaged: it is no text; {_REMEDY}") from exc
    if len(content) > LARGEST_TEXT or "\0" in text:
        raise UsageProblem(f"it is damaged: it is no text of at most {LARGEST_TEXT >> 20} MB; {_REMEDY}")
    return text


def _sha256(path: Path) -> str:
    with disk_errors("reading", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
