"""Markdown: tables, lists and values as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tiw_fsm.reporting.wording import shown

Lines = list[str]


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> Lines:
    """A Markdown table with an empty line after it; one sentence when it would be empty."""
    body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    if not body:
        return ["None.", ""]
    return ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers), *body, ""]


def _cell(value: Any) -> str:
    return shown(value).replace("|", "\\|").replace("\n", " ")


def bullets(items: Mapping[str, Any]) -> Lines:
    return [*(f"- {name}: {shown(value)}" for name, value in items.items() if value is not None), ""]
