"""How what was computed once more differs from what was recorded: by how much, and where first. Executes nothing."""

from __future__ import annotations

import filecmp
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.storage import torch_files
from tiw_fsm.storage.torch_files import StoredTensor

Equal = Literal["bitwise", "tolerance", "no"]
TOLERANCE = 0.02
"""Relative difference that another device may make within the updates between two checkpoints."""
_MISSING = object()


class Difference(NamedTuple):
    """Two values that are not the same."""

    where: str
    """The first place where they differ."""
    absolute: float
    """The largest difference of two numbers."""
    relative: float
    """‖a − b‖ / ‖a‖ over all numbers of one name, where that is largest; infinite where there is none to measure."""

    def words(self) -> str:
        """For a sentence."""
        if math.isinf(self.relative):
            return f"first in {self.where}, which is another or missing"
        return f"first in {self.where}; largest difference {self.absolute:.3g}, relative {self.relative:.2g}"


def equality(found: list[Difference], *, elsewhere: bool) -> Equal:
    """What the differences come to: on the same hardware there must be none, ``elsewhere`` they must be small."""
    if not found:
        return "bitwise"
    return "tolerance" if elsewhere and max(each.relative for each in found) <= TOLERANCE else "no"


def of_files(expected: Path, found: Path) -> Difference | None:
    """How two of torch's files differ; None if their bytes do not.

    Raises:
        UnreadableFile: one of them is not one of torch's.
    """
    if filecmp.cmp(expected, found, shallow=False):
        return None
    name = expected.stem
    values = of_values(torch_files.read(expected), torch_files.read(found), name)
    return values or Difference(f"{name}: the same values in other bytes", 0.0, 0.0)


def of_values(expected: Any, found: Any, name: str = "") -> Difference | None:
    """How two trees of dicts, lists, tensors and plain values differ; None if they do not in a single bit."""
    first, absolute, relative = "", 0.0, 0.0
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for where, a, b in _leaves(name, expected, found):
        x, y = _numbers(a), _numbers(b)
        measurable = x is not None and y is not None and x.shape == y.shape
        if x is None or y is None or not measurable:
            if type(a) is type(b) and a == b:
                continue
            first, relative = first or where, math.inf
            continue
        if not _same_bits(x, y):
            first = first or where
        with np.errstate(all="ignore"):
            gap = np.nan_to_num(np.abs(x.astype("f8") - y.astype("f8")), nan=math.inf if not _same_bits(x, y) else 0.0)
            absolute = max(absolute, float(gap.max(initial=0.0)))
            of_name = where.rstrip("0123456789.").rpartition(".")[2]
            gaps, sizes = sums[of_name]
            sums[of_name] = gaps + float((gap**2).sum()), sizes + float(np.nan_to_num(x.astype("f8") ** 2).sum())
    if not first:
        return None
    shares = (math.sqrt(gaps / sizes) if sizes else math.inf for gaps, sizes in sums.values() if gaps)
    return Difference(first, absolute, max([relative, *shares]))


def _leaves(where: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each place of the two trees, with what stands there in either."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _leaves(f"{where}.{key}" if where else str(key), a.get(key, _MISSING), b.get(key, _MISSING))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _leaves(f"{where}.{n}", x, y)
    else:
        yield where, a, b


def _numbers(value: Any) -> NDArray[Any] | None:
    if isinstance(value, StoredTensor):
        return value.array()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return np.asarray(value, "f8")
    return None


def _same_bits(x: NDArray[Any], y: NDArray[Any]) -> bool:
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()
