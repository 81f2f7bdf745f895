"""The file of one inference attempt with every figure, whose SHA-256 the state knows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.storage import places
from tiw_fsm.storage.paths import LARGEST_RESULT
from tiw_fsm.system import durable
from tiw_fsm.values.frozen import FileRef


def write(path: Path, result: InferenceResult, root: Path) -> FileRef:
    """Keep a result, durably, its paths below the working ``root`` relative to it.

    Raises:
        DiskRefused: the disk did not take it.
    """
    told = json.loads(result.model_dump_json(exclude={"frames"}, exclude_unset=True))
    content = json.dumps(places.portable(told, root), indent=1).encode()
    durable.replace(path, content)
    return FileRef(path=str(path), sha256=hashlib.sha256(content).hexdigest())


def read(path: Path, sha256: str | None, root: Path) -> InferenceResult:
    """A result as it was written, its paths absolute.

    Raises:
        ValueError: it is gone, or its hash is not ``sha256``, if that is known.
        DiskRefused: it cannot be read.
        StateDamaged: no plain file stands in its place.
    """
    content = durable.read_small(path, LARGEST_RESULT)
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise ValueError("its hash is another")
    return InferenceResult.model_validate_json(json.dumps(places.absolute(json.loads(content), root)))
