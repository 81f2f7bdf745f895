"""One YAML file: read safely, with the line of every key, and so that every reader of YAML finds the same in it.

Plain values are read by the core rules of YAML 1.2. Many readers, TinyWorlds' own among them, follow YAML 1.1, in which
``010`` is 8 and ``1:30`` is 90: what the two versions read differently is refused, and so are a key given twice, tags,
merge keys and aliases. Only where 1.1 finds mere text in a number, as in 1e-4, it is the number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tiw_fsm.values.printable import excerpt, unfit

LARGEST_YAML = 1 << 16
"""Bytes; a config has some kilobytes."""
DEEPEST_YAML = 20
LONGEST_NUMBER = 40
"""Letters."""
MOST_TOLD = 20
"""Mistakes of one file that are told: whoever has more has made one of them many times."""

TEXT, NULL, BOOL, INT, FLOAT, TIME = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "null", "bool", "int", "float", "timestamp")
)
CORE = {
    NULL: re.compile(r"~|null|Null|NULL|"),
    BOOL: re.compile(r"true|True|TRUE|false|False|FALSE"),
    INT: re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+"),
    FLOAT: re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
"""What a plain value is to YAML 1.2: the first of these that it matches wholly, else text."""
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
VALUES: dict[str, Callable[[str], Any]] = {
    NULL: lambda text: None,
    BOOL: lambda text: text.lower() == "true",
    INT: lambda text: int(text, 0),
    FLOAT: lambda text: float(text.replace(".i", "i").replace(".I", "I").replace(".n", "n").replace(".N", "N")),
    TEXT: str,
}


class _Loader(yaml.SafeLoader):
    """SafeLoader without what makes few lines mean a lot, or something else to every reader."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if problem := self._refused(event):
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refused(self, event: Any) -> str | None:
        if isinstance(event, yaml.AliasEvent):
            return "an alias (*name); write the value itself"
        if event.tag not in (None, "!"):
            return f"a tag ({excerpt(event.tag)}); write the value itself, and text in quotes"
        return f"nested more than {DEEPEST_YAML} deep" if self.depth > DEEPEST_YAML else None


@dataclass
class Source:
    """What one file says, and where it says it."""

    label: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], str] = field(default_factory=dict)
    is_read: bool = True
    """Else it is not known what the file says."""

    @classmethod
    def read(cls, path: Path, problems: list[str]) -> Source:
        """Read a YAML mapping; what is wrong with the file itself is added to ``problems``."""
        source = cls(label=str(path), is_read=False)
        try:
            root = _root(path)
        except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            mark = getattr(exc, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            problems.append(f"{where}: not readable as YAML ({excerpt(str(getattr(exc, 'problem', exc)))}); correct it")
            return source
        if root is None or (isinstance(root, yaml.ScalarNode) and _tag(root) == NULL):
            source.is_read = True
            return source
        if not isinstance(root, yaml.MappingNode):
            problems.append(f"{path}:1: expected `key: value` lines; write some")
            return source
        if mistakes := sorted(_mistakes(root)):
            problems += told([f"{path}:{line}: {mistake}" for line, mistake in mistakes], str(path))
            return source
        lines = {keys: f"{path}:{line}" for keys, line in _key_lines(root)}
        return cls(str(path), _value(root), lines)

    def override(self, keys: list[str], value: Any, flag: str) -> None:
        """Let a typed flag win over what the file says."""
        target = self.data
        for key in keys[:-1]:
            nested = target.get(key)
            if not isinstance(nested, dict):
                nested = target[key] = {}
            target = nested
        target[keys[-1]] = value
        self.lines[tuple(keys)] = flag

    def where(self, location: tuple[int | str, ...]) -> str:
        """The file and line, or the flag, that gave the value at ``location``."""
        keys = tuple(str(part) for part in location)
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, self.label)


def value(text: str, mistakes: list[str]) -> Any:
    """What ``text`` is as the value of a key; None if it is empty, or wrong: what is wrong is added to ``mistakes``."""
    try:
        root: yaml.Node | None = _Loader(text).get_single_node()
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as exc:
        mistakes.append(f"not readable as YAML ({excerpt(str(getattr(exc, 'problem', exc)))}); correct it")
        return None
    if root is None:
        return None
    if wrong := [mistake for _, mistake in sorted(_mistakes(root))]:
        mistakes += wrong[:MOST_TOLD]
        return None
    return _value(root)


def told(mistakes: list[str], label: str) -> list[str]:
    """The first mistakes of the file ``label``, and how many there are beside them."""
    more = len(mistakes) - MOST_TOLD
    return mistakes if more <= 0 else [*mistakes[:MOST_TOLD], f"{label}: and {more} more; correct these first"]


def _root(path: Path) -> yaml.Node | None:
    with open(path, encoding="utf-8") as file:
        text = file.read(LARGEST_YAML + 1)
    if len(text) > LARGEST_YAML:
        raise ValueError(f"more than {LARGEST_YAML} letters")
    root: yaml.Node | None = _Loader(text).get_single_node()
    return root


# --- what a file must not say -----------------------------------------------------------------------------------


def _mistakes(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and sentence of everything below ``node`` that another reader may take for something else."""
    if isinstance(node, yaml.ScalarNode):
        if mistake := _mistake(node):
            yield node.start_mark.line + 1, mistake
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mistakes(value)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or _tag(key) != TEXT or _mistake(key):
                yield line, "a key that is no plain word; correct it"
            elif key.value in first:
                yield line, f"{excerpt(key.value)} again, first at line {first[key.value]}; remove one of them"
            else:
                first[key.value] = line
            yield from _mistakes(value)


def _mistake(node: yaml.ScalarNode) -> str | None:
    text, tag = node.value, _tag(node)
    if tag == TEXT and (letter := unfit(text)):
        return f"text with {letter!a} in it, which no path or command can have; remove it"
    if node.style is None and (why := _ambiguous(text, tag)):
        return f"{excerpt(text)} is not the same to every reader of YAML: {why}"
    if tag in (INT, FLOAT) and len(text) > LONGEST_NUMBER:
        return f"a number of {len(text)} letters; no setting is so large, or so exact"
    if tag == FLOAT and not math.isfinite(VALUES[FLOAT](text)):
        return f"{text} is no finite number; write one"
    return None


def _ambiguous(text: str, tag: str) -> str | None:
    """How YAML 1.1 reads otherwise what is ``tag`` to 1.2, and what to write; None if they agree."""
    older = _older_tag(text)
    if LEADING_ZERO.fullmatch(text):
        return "some count a number with a leading 0 in eights; leave the 0 away, or write text in quotes"
    if older == tag or (older == TEXT and tag in (INT, FLOAT)):
        return None
    if older in (INT, FLOAT) and ":" in text:
        return "some count numbers with colons in sixties; write the number itself, or text in quotes"
    return {
        INT: "some take it for a number; write its digits alone, or text in quotes",
        FLOAT: "some take it for a number; write its digits alone, or text in quotes",
        BOOL: "some take it for a word; write true or false, or a word in quotes",
        TIME: "some take it for a date; write it in quotes",
    }.get(older, "it has a meaning of its own; write it in quotes")


def _older_tag(text: str) -> str:
    """What a plain value is to YAML 1.1."""
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    candidates = [*resolvers.get(text[:1], []), *resolvers.get(None, [])]
    return next((tag for tag, pattern in candidates if pattern.match(text)), TEXT)


# --- what it says -----------------------------------------------------------------------------------------------


def _tag(node: yaml.ScalarNode) -> str:
    if node.style is not None:  # quoted, or a block of text
        return TEXT
    return next((tag for tag, pattern in CORE.items() if pattern.fullmatch(node.value)), TEXT)


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _value(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_value(value) for value in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return VALUES[_tag(node)](node.value)


def _key_lines(node: yaml.Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*prefix, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _key_lines(value, keys)
