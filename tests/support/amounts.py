"""How much the torture bench tries, and what it tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

FIGURES: Counter[str] = Counter()


Amount = Callable[[int, float], int]


def whole_too(*values: Any, id: str | None = None) -> Any:
    """Values of a test's parameters that the short form leaves out."""
    return pytest.param(*values, id=id, marks=pytest.mark.whole)
