"""How much the torture bench tries, and what it tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

FIGURES: Counter[str] = Counter()


Amount = Callable[[int, float], int]
