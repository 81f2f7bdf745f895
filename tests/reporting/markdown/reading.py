"""A run's Markdown reports, read."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.simulation import Simulation

KINDS = ("train-to-inference-report", "train-to-inference-retrospective", "auto-training-loop-report")


def report(simulation: Simulation, kind: str) -> str:
    (path,) = (Path(p) for p in simulation.state.reports if Path(p).name.startswith(kind))
    return path.read_text()


def section(text: str, title: str) -> str:
    """The text under a heading, up to the next heading of its level or above."""
    level, _, rest = re.split(rf"^(#+) ({re.escape(title)})[^\n]*\n", text, maxsplit=1, flags=re.M)[1:]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.M)[0]


def rows(text: str) -> list[dict[str, str]]:
    """The first table in ``text``, as dictionaries by column."""
    (table, *_) = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    lines = table.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
