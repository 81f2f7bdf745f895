"""Write what ``torch.save`` would, without torch: the same values give the same bytes."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.storage.stored_tensors import DTYPES, STORAGES
from tiw_fsm.storage.torch_archive import UnreadableFile

KINDS = {np.dtype(DTYPES[name]): kind for kind, name in STORAGES.items() if name != "bfloat16"}
"""The class of storage for numbers of a type; numpy has no bfloat16, and reads it as float32."""

# The instructions of pickle's protocol 2 that a dict of tensors takes; ``torch.save`` writes the same.
PROTOCOL, STOP, EMPTY_DICT, MARK, SET_ITEMS = b"\x80\x02", b".", b"}", b"(", b"u"
TUPLE, EMPTY_TUPLE, CALL, PERSISTENT, FALSE = b"t", b")", b"R", b"Q", b"\x89"


def write_plain(path: Path, content: Mapping[str, Any]) -> None:
    """Save plain values: no objects, no tensors.

    Raises:
        OSError: the operating system refused.
    """
    _write(path, pickle.dumps(dict(content), protocol=2), [])


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Save tensors by name, as a ``state_dict`` is saved.

    Raises:
        UnreadableFile: one is of a type of numbers that torch has no storage for.
        OSError: the operating system refused.
    """
    if unknown := [name for name, array in tensors.items() if array.dtype.newbyteorder("=") not in KINDS]:
        raise UnreadableFile(f"{unknown[0]} is of a type of numbers that no model has.")
    items = (_text(name) + _tensor(str(key), array) for key, (name, array) in enumerate(tensors.items()))
    content = PROTOCOL + EMPTY_DICT + MARK + b"".join(items) + SET_ITEMS + STOP
    _write(path, content, (array.astype(array.dtype.newbyteorder("<")).tobytes() for array in tensors.values()))


def _write(path: Path, pickled: bytes, blocks: Iterable[bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}"), content)  # of no date

        add("data.pkl", pickled)
        add("byteorder", b"little")
        for key, block in enumerate(blocks):
            add(f"data/{key}", block)
        add("version", b"3\n")


def _tensor(key: str, array: NDArray[Any]) -> bytes:
    strides = [int(np.prod(array.shape[axis + 1 :], dtype=int)) for axis in range(array.ndim)]
    kind = _name("torch", KINDS[array.dtype.newbyteorder("=")].removeprefix("torch."))
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _number(array.size)) + PERSISTENT
    shape = _tuple(*map(_number, array.shape))
    hooks = _name("collections", "OrderedDict") + EMPTY_TUPLE + CALL
    rebuilt = _tuple(storage, _number(0), shape, _tuple(*map(_number, strides)), FALSE, hooks)
    return _name("torch._utils", "_rebuild_tensor_v2") + rebuilt + CALL


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _number(number: int) -> bytes:
    return pickle.dumps(int(number), protocol=2)[len(PROTOCOL) : -len(STOP)]


def _tuple(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
