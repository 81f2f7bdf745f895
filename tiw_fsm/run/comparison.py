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
from tiw_fsm.storage.torch_files import StoredTensor, UnreadableFile

Equal = Literal["bitwise", "tolerance", "no"]
TOLERANCES = {
    "metrics": 0.1,
    "model_state_dict": 0.1,
    "optim_state_dict": 1.0,
    "state": 0.0,
    "result": 0.1,
    "verdict": 0.1,
}
"""Relative difference that another device may make. Measured on a tokenizer whose weights were disturbed by 1e-7: after
150 updates 2e-7 in the losses and 1e-6 in the weights; after 350, a code having flipped, 0.01, 0.07, and 0.7 in the
optimizer's momenta. How large it is is said each time."""
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
    small = all(each.relative <= TOLERANCES[each.where.partition(".")[0]] for each in found)
    return "tolerance" if elsewhere and small else "no"


def of_files(expected: Path, found: Path) -> Difference | None:
    """How two of torch's files differ; None if their bytes do not."""
    if filecmp.cmp(expected, found, shallow=False):
        return None
    name = expected.stem
    try:
        values = of_values(torch_files.read(expected), torch_files.read(found), name)
    except UnreadableFile:  # another engine's
        return Difference(f"{name}.pt", math.nan, math.inf)
    return values or Difference(f"{name}.pt, whose values are the same in other bytes", 0.0, 0.0)


def of_values(expected: Any, found: Any, name: str) -> Difference | None:
    """How two trees of dicts, lists, tensors and plain values differ; None if they do not in a single bit.

    Args:
        name: of the trees; one of those in ``TOLERANCES``.
    """
    first, absolute, incomparable = "", 0.0, False
    squares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    """Of the differences and of the values, by name."""
    for where, a, b in _leaves(name, expected, found):
        x, y = _numbers(a), _numbers(b)
        if x is None or y is None or x.shape != y.shape:
            if type(a) is not type(b) or a != b:
                first, incomparable = first or where, True
            continue
        same = x.dtype == y.dtype and x.tobytes() == y.tobytes()
        first = first or ("" if same else where)
        with np.errstate(all="ignore"):
            gap = np.zeros(1) if same else np.nan_to_num(np.abs(x.astype("f8") - y.astype("f8")), nan=math.inf)
            of_name = squares[where.rstrip("0123456789.").rpartition(".")[2]]
            of_name[0] += float((gap**2).sum())
            of_name[1] += float(np.nan_to_num(x.astype("f8") ** 2).sum())
        absolute = max(absolute, float(gap.max(initial=0.0)))
    if not first:
        return None
    shares = [math.sqrt(gaps / values) if values else math.inf for gaps, values in squares.values() if gaps]
    return Difference(first, absolute, math.inf if incomparable else max(shares, default=0.0))


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
