"""Tensors as they are stored: views of blocks of elements in a ``torch.save`` archive, read when asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.storage.torch_archive import Archive, damage_as

# dtype: how numpy reads its bytes (bfloat16 and float8 are decoded from the bare bits).
DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "float8_e5m2": "u1",
    "float8_e4m3fn": "u1", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint64": "u8",
    "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "?", "complex128": "c16", "complex64": "c8",
}  # fmt: skip

# The class a storage is saved under, where that class tells the dtype.
STORAGES = {
    "torch.DoubleStorage": "float64", "torch.FloatStorage": "float32", "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16", "torch.LongStorage": "int64", "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16", "torch.CharStorage": "int8", "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool", "torch.ComplexDoubleStorage": "complex128",
    "torch.ComplexFloatStorage": "complex64",
}  # fmt: skip

_MOST_DIMENSIONS = 64  # torch's own limit


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose elements stay in the file until asked for. Strides and offset count elements."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    offset: int
    _storage: Storage = field(repr=False)

    def array(self) -> NDArray[Any]:
        """The elements, read-only. bfloat16 and float8 come as the next wider float that numpy has.

        Raises:
            UnreadableFile: the storage's checksum is wrong, or memory does not suffice.
        """
        elements = self._storage.elements(self.dtype)
        strides = tuple(stride * elements.itemsize for stride in self.strides)
        with damage_as(self._storage.archive.path, "holds a tensor of impossible shape"):
            view = np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides, writeable=False)
            return _decode(view, self.dtype)

    @property
    def claims(self) -> int:
        """Bytes that its elements would take, one beside the other."""
        return math.prod(self.shape) * width(self.dtype)

    def is_finite(self) -> bool:
        """Whether the storage it views has no NaN and nothing infinite. Reads, and so checks, integer tensors too.

        Raises:
            UnreadableFile: as `array`.
        """
        return 0 in self.shape or self._storage.is_finite(self.dtype)


@dataclass(frozen=True)
class Storage:
    """A block of elements in the archive that tensors are views of."""

    archive: Archive
    record: str
    kind: str
    length: int  # in elements; for an untyped storage in bytes

    def elements(self, dtype: str) -> NDArray[Any]:
        return np.frombuffer(self.archive.read(self.record), self._layout(dtype))

    def is_finite(self, dtype: str) -> bool:
        """Whether it has no NaN and nothing infinite, looked at only once however many tensors view it."""
        known = self.archive.finite
        if self.record not in known:
            with damage_as(self.archive.path, "holds a tensor of impossible size"):
                layout, finite = self._layout(dtype), True
                for block in self.archive.blocks(self.record):  # to the end, for their checksum
                    finite = finite and bool(np.isfinite(_decode(np.frombuffer(block, layout), dtype)).all())
                known[self.record] = finite
        return known[self.record]

    def _layout(self, dtype: str) -> np.dtype[Any]:
        return np.dtype(DTYPES[dtype]).newbyteorder(self.archive.byte_order)  # type: ignore[arg-type]


def width(dtype: str) -> int:
    """Bytes per element.

    Raises:
        ValueError: the dtype is unknown here.
    """
    if dtype not in DTYPES:
        raise ValueError(f"it holds a tensor of type {dtype}, which this tool cannot read")
    return np.dtype(DTYPES[dtype]).itemsize


def view_of(storage: Storage, offset: int, shape: Any, strides: Any, dtype: str, length: int) -> StoredTensor:
    """A tensor that lies wholly within its storage of ``length`` elements.

    Raises:
        ValueError, TypeError: its numbers are impossible, or its dtype unknown here.
    """
    if not all(isinstance(numbers, tuple | list) and len(numbers) <= _MOST_DIMENSIONS for numbers in (shape, strides)):
        raise ValueError(f"a tensor's shape or strides are no list, or one of more than {_MOST_DIMENSIONS}")
    shape, strides = tuple(shape), tuple(strides)
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise ValueError("a tensor's shape, strides or offset is not a whole number")
    if storage.archive.types.setdefault(storage.record, dtype) != dtype:
        raise ValueError("a tensor views as one type of numbers what another views as a second")
    sizes = list(zip(shape, strides, strict=True))
    stored = storage.archive.size(storage.record) // width(dtype)
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
