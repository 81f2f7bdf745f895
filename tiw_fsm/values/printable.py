"""Text from outside, made fit to be shown: nothing in it is obeyed by a terminal, and none of it hides the rest."""

from __future__ import annotations

LONGEST = 200
"""Letters of a value that a sentence quotes."""


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` with what no eye can see, or a terminal would obey, written as Python escapes it.

    These are control characters, marks that change the direction of writing, and bytes of a path that are no text.

    Args:
        lines: leave the ends of lines as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else ascii(c)[1:-1] for c in text)


def unfit(text: str) -> str | None:
    """The first letter of ``text`` that no path, name or command of a run can have; None if there is none.

    That is NUL, or what stands for a byte of a path that is not UTF-8.
    """
    return next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)


def excerpt(text: str) -> str:
    """The beginning of ``text``, printable."""
    return printable(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def quoted(value: object) -> str:
    """A value as an error message names it: as Python writes it, but at no length."""
    match value:
        case str():
            return excerpt(repr(value[: LONGEST + 1]))
        case None | bool() | float():
            return repr(value)
        case int():
            return str(value) if value.bit_length() <= 64 else "an integer of too many digits"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"
