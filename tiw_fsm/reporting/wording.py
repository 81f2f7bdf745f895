"""What several commands say to people in the same words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from itertools import zip_longest

from tiw_fsm.values.printable import printable


def duration(seconds: float) -> str:
    """A length of time, to two figures."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((n for n, (value, _) in enumerate(parts) if value), len(parts) - 1)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2] if value or unit == "s")


def seconds_between(before: str, after: str) -> float:
    """From one moment to another, both in ISO 8601."""
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()


OTHERS = 10
"""Other runs that are named, in the place of one that there is not."""


def not_begun(run: str, others: Sequence[str] = ()) -> str:
    """What there is to say of a run that has no state yet, and what to do; which ``others`` there are."""
    more = ", …" if len(others) > OTHERS else ""
    hint = f" Runs that have begun: {printable(', '.join(others[:OTHERS]))}{more}." if others else ""
    return f"The run has not begun: `tiw-fsm run --run {run}` begins it.{hint}"


def passed_over(damage: Sequence[str]) -> str | None:
    """What there is to say of a state that is told as it was before its newest generation was damaged."""
    return f"{' '.join(damage)} This is the generation before, from which `tiw-fsm run` goes on." if damage else None


def near(path: str | None) -> str | None:
    """``path`` as seen from the working directory, if it lies below."""
    return path and path.removeprefix(f"{os.getcwd()}{os.sep}")


def shown(value: object) -> str:
    """A value for people: six digits are enough to find it in its file."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "—" if value is None else str(value)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, their cells below each other; a row's last cell may be of any length."""
    widths = [max(map(len, column)) for column in zip_longest(*(row[:-1] for row in rows), fillvalue="")]
    return ["  ".join([*map(str.ljust, row[:-1], widths), *row[-1:]]).rstrip() for row in rows]


def change(before: object, after: object) -> str:
    """A value that became another."""
    return f"{shown(before)} → {shown(after)}"
