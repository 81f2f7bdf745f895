"""One YAML file: read safely, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LARGEST_YAML = 1 << 18
"""Bytes; a config has some kilobytes."""
DEEPEST_YAML = 20


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number, as YAML 1.2 and OmegaConf do; with no way for few lines to mean a lot."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*name); write the value itself", problem_mark=mark)
        if self.depth > DEEPEST_YAML:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST_YAML} deep", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Source:
    """What one file says, and where it says it."""

    label: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, problems: list[str]) -> Source:
        """Read a YAML mapping; what is wrong with the file itself is added to ``problems``."""
        source = cls(label=str(path))
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(LARGEST_YAML + 1)
            if len(text) > LARGEST_YAML:
                raise ValueError(f"more than {LARGEST_YAML} letters")
            loader = _Loader(text)
            root = loader.get_single_node()
            data = (loader.construct_document(root) if root else None) or {}
        except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as exc:
            mark = getattr(exc, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            problems.append(f"{where}: not readable as YAML ({getattr(exc, 'problem', exc)}); correct it")
            return source
        if not isinstance(data, dict):
            problems.append(f"{path}:1: expected `key: value` lines, found {type(data).__name__}")
            return source
        for key in _keys(root):
            if key.tag != "tag:yaml.org,2002:str":
                problems.append(f"{path}:{key.start_mark.line + 1}: a key that is no plain word; correct it")
                return source
        source.data = data
        if root is not None:
            source.lines = {keys: f"{path}:{line}" for keys, line in _key_lines(root)}
        return source

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


def _keys(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every key of every mapping."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield from _keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _keys(value)


def _key_lines(node: yaml.Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*prefix, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _key_lines(value, keys)
