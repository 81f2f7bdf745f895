"""Markdown: tables, lists and values as people read them.

Whatever comes into a report is text, in which nothing is Markdown or HTML: a path or an error may hold anything. Only
what is made here, or by those who say that it is, is ``Markdown``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tiw_fsm.reporting.wording import shown
from tiw_fsm.values.printable import printable

Lines = list[str]


class Markdown(str):
    """Text that is Markdown."""

    __slots__ = ()


SPECIAL = re.compile(
    r"[\\`*<|~$]"  # emphasis, code, HTML, cells, struck out, formulas
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; within a word it is none
    r"|\](?=[(\[:])"  # links
    r"|&(?=#?\w+;)"  # letters by their names
)
"""What would be more than text within a line."""
BRACKET = re.compile(r"(?<!\\)[\[\]]")


def escaped(value: Any) -> Markdown:
    """A value for people on one line, as Markdown that shows just that."""
    if isinstance(value, Markdown):
        return value
    if isinstance(value, bool):
        return Markdown(shown(value))
    text = printable(" ".join(shown(value).splitlines()))
    return Markdown(SPECIAL.sub(lambda found: "\\" + found[0], text))


def link(label: str, target: str) -> Markdown:
    """A link whose ``target`` is quoted as in a URL."""
    return Markdown(f"[{BRACKET.sub(lambda found: chr(92) + found[0], escaped(label))}]({target})")


def code(text: str) -> Markdown:
    """A name or number as it stands in a file."""
    plain = text.isprintable() and not set(text) & {"`", "|"}
    return Markdown(f"`{text}`") if plain else escaped(text)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> Lines:
    """A Markdown table with an empty line after it; one sentence when it would be empty."""
    body = [_row(row) for row in rows]
    if not body:
        return ["None.", ""]
    return [_row(headers), "|" + " --- |" * len(headers), *body, ""]


def _row(values: Sequence[Any]) -> str:
    return "| " + " | ".join(map(escaped, values)) + " |"


def bullets(items: Mapping[str, Any]) -> Lines:
    return [*(f"- {name}: {escaped(value)}" for name, value in items.items() if value is not None), ""]
