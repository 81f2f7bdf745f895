"""Read what ``torch.save`` wrote, without torch and without executing anything in it.

Such a file is a zip: one pickle that describes objects, and one record of raw bytes per tensor storage.
Python's own unpickler calls whatever a pickle names, so here a small machine walks the pickle's instructions
instead, and knows no way to import or call: it rebuilds plain values and tensors, and turns every other
object into an inert `Record`.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.errors import ExitCode, TiwFsmError

_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LARGEST_PICKLE = 8 * 2**20  # a state_dict's is some hundred bytes per tensor
_DEEPEST = 32  # an optimizer's tensors lie three deep
_LONGEST_NAME = 200  # letters shown of one key
_SCALARS = (str, int, float, bytes, type(None))

# What damaged bytes make zipfile, pickletools and the machine raise; none of it is an error of this program.
_DAMAGE = (
    OSError, EOFError, zipfile.BadZipFile, struct.error, ValueError, LookupError, TypeError, AttributeError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip

# dtype: how numpy reads its bytes (bfloat16 and float8 are decoded from the bare bits).
_DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "float8_e5m2": "u1",
    "float8_e4m3fn": "u1", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint64": "u8",
    "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "?", "complex128": "c16", "complex64": "c8",
}  # fmt: skip

# The class a storage is saved under, where that class tells the dtype.
_STORAGES = {
    "torch.DoubleStorage": "float64", "torch.FloatStorage": "float32", "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16", "torch.LongStorage": "int64", "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16", "torch.CharStorage": "int8", "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool", "torch.ComplexDoubleStorage": "complex128",
    "torch.ComplexFloatStorage": "complex64",
}  # fmt: skip


class UnreadableFile(TiwFsmError):
    """A file that cannot be read as what it should be; the message names it and says why."""

    exit_code = ExitCode.USAGE


@dataclass(eq=False)
class Record:
    """An object or function the file names, kept as a description.

    Attributes:
        args: what it would have been called with; None where it is only referred to.
        state: what its attributes would have been set from.
        items: what would have been appended, or set as (key, value) pairs.
    """

    module: str
    name: str
    # Not shown: a hostile file can nest these so that showing them takes for ever.
    args: tuple[Any, ...] | None = field(default=None, repr=False)
    state: Any = field(default=None, repr=False)
    items: list[Any] = field(default_factory=list, repr=False)

    @property
    def qualified(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose elements stay in the file until asked for. Strides and offset count elements."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    offset: int
    _storage: _Storage = field(repr=False)

    def array(self) -> NDArray[Any]:
        """The elements, read-only. bfloat16 and float8 come as the next wider float that numpy has.

        Raises:
            UnreadableFile: the storage's checksum is wrong, or memory does not suffice.
        """
        elements = self._storage.elements(self.dtype)
        strides = tuple(stride * elements.itemsize for stride in self.strides)
        with _damage_as(self._storage.archive.path, "holds a tensor of impossible shape"):
            view = np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides, writeable=False)
            return _decode(view, self.dtype)

    def is_finite(self) -> bool:
        """Whether the storage it views has no NaN and nothing infinite. Reads, and so checks, integer tensors too.

        Raises:
            UnreadableFile: as `array`.
        """
        return 0 in self.shape or self._storage.is_finite(self.dtype)


def read(path: Path) -> Any:
    """The object saved in ``path``, its tensors as `StoredTensor`, its foreign objects as `Record`.

    Raises:
        UnreadableFile: no file, not one of torch.save's, damaged, or implausibly large.
    """
    return _Machine(_Archive(path)).run()


def read_with_globals(path: Path) -> tuple[Any, list[str]]:
    """What `read` returns, and the names of the classes and functions in ``path`` beyond what tensors need.

    A model or optimizer file names none. One that names, say, ``posix.system`` may run it when torch loads it.

    Raises:
        UnreadableFile: as `read`.
    """
    machine = _Machine(_Archive(path))
    content = machine.run()
    return content, [_shown(name) for name in dict.fromkeys(machine.named) if name not in _HARMLESS]


def tensors(value: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor within nested dicts, lists and tuples, with its dotted name; each container only once.

    Raises:
        UnreadableFile: they are nested deeper than any checkpoint's.
    """
    pending, seen = [("", 0, value)], set()
    while pending:
        name, depth, node = pending.pop()
        if depth > _DEEPEST:
            raise UnreadableFile(f"values are nested more than {_DEEPEST} deep, which no checkpoint's are.")
        if isinstance(node, StoredTensor):
            yield name, node
        if id(node) in seen or not isinstance(node, dict | list | tuple):
            continue
        seen.add(id(node))
        children = node.items() if isinstance(node, dict) else enumerate(node)
        dot = "." if name else ""
        pending += reversed([(f"{name}{dot}{_shown(key)}", depth + 1, child) for key, child in children])


def _shown(key: object) -> str:
    """A key for people, without what a terminal would obey."""
    text = str(key)[:_LONGEST_NAME]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def _damage_as(path: Path, reason: str) -> Iterator[None]:
    """Translate what damaged bytes make libraries raise into UnreadableFile with a plain ``reason``."""
    try:
        yield
    except _DAMAGE as exc:
        detail = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UnreadableFile(f"{path} {reason} ({detail or type(exc).__name__}).") from exc


class _Archive:
    """The zip that torch.save wrote, held open as long as a tensor of it may be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finite: dict[tuple[str, str], bool] = {}
        with _damage_as(path, "cannot be read"), path.open("rb") as file:
            if file.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC:
                raise UnreadableFile(f"{path} has torch's format from before 1.6: save it anew with torch.")
        with _damage_as(path, "is no complete zip archive: it was cut short, or torch.save did not write it"):
            self._zip = zipfile.ZipFile(path)
        self._refuse_tricks()
        names = self._zip.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnreadableFile(f"{path} is a zip archive without the data.pkl that torch.save writes.")
        self._root = pickles[0].removesuffix("/data.pkl")
        order = self.read("byteorder") if f"{self._root}/byteorder" in names else b"little"
        self.byte_order = ">" if order == b"big" else "<"

    def _refuse_tricks(self) -> None:
        names = [name.lower() for name in self._zip.namelist()]
        if len(set(names)) < len(names):  # torch and zipfile might each take another one
            raise UnreadableFile(f"{self.path} holds two records of one name, which torch.save never writes.")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in self._zip.infolist()):  # no zip bombs
            raise UnreadableFile(f"{self.path} is compressed, which torch.save never does: save it anew.")

    def size(self, record: str) -> int:
        return self._zip.getinfo(f"{self._root}/{record}").file_size

    def read(self, record: str) -> bytes:
        """The bytes of ``record``, whose checksum zipfile has compared.

        Raises:
            UnreadableFile: missing, cut short or altered.
        """
        with _damage_as(self.path, f"is damaged at its record {record}"):
            return self._zip.read(f"{self._root}/{record}")


@dataclass(frozen=True)
class _Storage:
    """A block of elements in the archive that tensors are views of."""

    archive: _Archive
    record: str
    kind: str
    length: int  # in elements; for an untyped storage in bytes

    def elements(self, dtype: str) -> NDArray[Any]:
        layout = np.dtype(_DTYPES[dtype]).newbyteorder(self.archive.byte_order)  # type: ignore[arg-type]
        return np.frombuffer(self.archive.read(self.record), layout)

    def is_finite(self, dtype: str) -> bool:
        """Whether it has no NaN and nothing infinite, looked at only once however many tensors view it."""
        known = self.archive.finite
        if (self.record, dtype) not in known:
            with _damage_as(self.archive.path, "holds a tensor of impossible size"):
                known[self.record, dtype] = bool(np.isfinite(_decode(self.elements(dtype), dtype)).all())
        return known[self.record, dtype]


class _Machine:
    """Walks the instructions of a pickle, protocols 2 to 5 as far as torch.save uses them.

    Attributes:
        named: every class and function the pickle named so far.
    """

    def __init__(self, archive: _Archive) -> None:
        self.named: list[str] = []
        self._archive = archive
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object the pickle describes.

        Raises:
            UnreadableFile: the pickle is malformed, or larger than any checkpoint's.
        """
        path = self._archive.path
        if self._archive.size("data.pkl") > _LARGEST_PICKLE:
            raise UnreadableFile(f"{path} has a data.pkl too large for a checkpoint's.")
        data = self._archive.read("data.pkl")
        with _damage_as(path, "has a malformed data.pkl"):
            for opcode, argument, _ in pickletools.genops(data):
                self._do(opcode.name, argument)
            return self._stack.pop()

    def _do(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        match instruction:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE"
                | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
            ):  # fmt: skip
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._fold(len(stack) - int(instruction[-1]))
            case "TUPLE":
                self._fold(self._marks.pop())
            case "MARK":
                self._marks.append(len(stack))
            case "APPEND":
                self._extend(len(stack) - 1)
            case "APPENDS":
                self._extend(self._marks.pop())
            case "SETITEM":
                self._set_items(len(stack) - 2)
            case "SETITEMS":
                self._set_items(self._marks.pop())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                self._name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                self._name(*self._take(len(stack) - 2))
            case "REDUCE" | "NEWOBJ":
                self._call(*self._take(len(stack) - 2))
            case "BUILD":
                self._build(stack.pop())
            case "BINPERSID":
                stack.append(self._storage(*stack.pop()))
            case _:
                raise ValueError(f"its instruction {instruction} is none that torch.save writes")

    def _take(self, start: int) -> list[Any]:
        """Everything on the stack from ``start`` on."""
        if start < 0:
            raise IndexError("an instruction finds too few operands")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _fold(self, start: int) -> None:
        self._stack.append(tuple(self._take(start)))

    def _extend(self, start: int) -> None:
        items, target = self._take(start), self._stack[-1]
        if isinstance(target, Record):
            target.items += items
        elif isinstance(target, list):
            target += items
        else:
            raise TypeError(f"items are appended to a {type(target).__name__}")

    def _set_items(self, start: int) -> None:
        flat, target = self._take(start), self._stack[-1]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, Record):
            target.items += pairs
        elif isinstance(target, dict) and all(_is_key(key) for key, _ in pairs):
            target.update(pairs)
        else:
            raise TypeError(f"items are set in a {type(target).__name__}, or under a key that is not plain")

    def _name(self, module: str, name: str) -> None:
        reference = Record(module, name)
        self.named.append(reference.qualified)
        self._stack.append(reference)

    def _call(self, function: Any, arguments: Any) -> None:
        """Rebuild what this module knows; describe everything else."""
        if not isinstance(function, Record) or not isinstance(arguments, tuple):
            raise TypeError("something that is no function is called")
        if rebuild := _REBUILD.get(function.qualified):
            self._stack.append(rebuild(*arguments))
        else:
            self._stack.append(Record(function.module, function.name, arguments))

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        # The only attribute of a state_dict is `_metadata`, which nobody here needs.
        elif not isinstance(target, dict):
            raise TypeError(f"attributes are set on a {type(target).__name__}")

    def _storage(self, tag: Any, kind: Any, key: Any, _location: Any, length: Any) -> _Storage:
        if tag != "storage" or not isinstance(kind, Record) or not isinstance(key, str):
            raise TypeError("a storage is described otherwise than torch.save does")
        return _Storage(self._archive, f"data/{key}", kind.qualified, length)


def _is_key(key: Any) -> bool:
    """Whether ``key`` is safe to hash: a tuple nested into itself often enough would take for ever."""
    return isinstance(key, (*_SCALARS, Record)) or (
        isinstance(key, tuple) and all(isinstance(part, _SCALARS) for part in key)
    )


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _requires_grad: Any, _hooks: Any, *_metadata: Any
) -> StoredTensor:
    dtype = _STORAGES.get(storage.kind, storage.kind)
    return _tensor(storage, offset, shape, strides, dtype, storage.length)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _requires_grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    return _tensor(storage, offset, shape, strides, dtype.name, storage.length // _width(dtype.name))


def _rebuild_parameter(data: Any, _requires_grad: Any, _hooks: Any) -> Any:
    return data


def _rebuild_ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


_REBUILD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _rebuild_ordered_dict,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}

_HARMLESS = {
    *_REBUILD,
    *_STORAGES,
    *(f"torch.{dtype}" for dtype in _DTYPES),
    "torch.storage.UntypedStorage",
    "torch.Size",
    "torch.device",
}


def _width(dtype: str) -> int:
    """Bytes per element.

    Raises:
        ValueError: the dtype is unknown here.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"it holds a tensor of type {dtype}, which this tool cannot read")
    return np.dtype(_DTYPES[dtype]).itemsize


def _tensor(storage: _Storage, offset: int, shape: Any, strides: Any, dtype: str, length: int) -> StoredTensor:
    """A tensor that lies wholly within its storage of ``length`` elements.

    Raises:
        ValueError, TypeError: its numbers are impossible, or its dtype unknown here.
    """
    shape, strides = tuple(shape), tuple(strides)
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise ValueError("a tensor's shape, strides or offset is not a whole number")
    sizes = list(zip(shape, strides, strict=True))
    stored = storage.archive.size(storage.record) // _width(dtype)
    end = offset + 1 + sum((size - 1) * stride for size, stride in sizes)
    # Only expanded dimensions (stride 0) may repeat what is stored; else a small file could fill the memory.
    distinct = math.prod(size for size, stride in sizes if stride or not size)
    if stored != length or offset > stored or (distinct and max(end, distinct) > stored):
        raise ValueError("a tensor's storage is incomplete, or the tensor reaches beyond it")
    return StoredTensor(shape, dtype, strides, offset, storage)


def _decode(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    match dtype:
        case "bfloat16":  # the upper half of a float32
            return np.asarray(bits.astype("u4") << 16).view("f4")
        case "float8_e5m2":  # the upper half of a float16
            return np.asarray(bits.astype("u2") << 8).view("f2")
        case "float8_e4m3fn":
            return np.asarray(_E4M3FN[bits])
    return bits


def _e4m3fn_values() -> NDArray[np.float32]:
    """Every float8_e4m3fn: a sign bit, four of exponent (bias 7), three of mantissa; NaN but no infinity."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    magnitude[bits & 127 == 127] = np.nan
    return np.where(bits & 128, -magnitude, magnitude).astype(np.float32)


_E4M3FN = _e4m3fn_values()
