"""``--set file.key=value``: any key of the YAML files, typed in the place of what its file says.

The value is read by the rules that the files are read by, and validated where the file's own would be. What is chosen
so is remembered with the run key by key; a key without a value takes back what was chosen for it earlier.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tiw_fsm.config import yaml_source
from tiw_fsm.config.files import ANYTHING, FILES, is_secret, keys
from tiw_fsm.config.flags import FLAGS, yaml_word
from tiw_fsm.config.yaml_source import Source
from tiw_fsm.errors import UsageProblem
from tiw_fsm.stages import Stage
from tiw_fsm.values.printable import excerpt, unfit

OPTION = "--set"
LONGEST_VALUE, MOST_KEYS = 1000, 200
"""Letters of a value as JSON, and keys of a run: its state has them all."""
NEAREST = 5
"""Keys that are named in the place of one that there is not."""


def read(words: Sequence[str]) -> dict[str, Any]:
    """What was typed behind each ``--set``, by key; None for one without a value.

    Raises:
        UsageProblem: something is no ``key=value``, its value is no YAML, or a key is there twice.
    """
    chosen: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            problems.append(f"{OPTION} {excerpt(word)}: no KEY=VALUE; write one, as in {OPTION} loop.seed=1")
        elif key in chosen:
            problems.append(f"{OPTION} {excerpt(key)}: given twice; give it once")
        else:
            mistakes: list[str] = []
            chosen[key] = yaml_source.value(text, mistakes)
            problems += [f"{_label(key, text)}: {mistake}" for mistake in mistakes]
    if problems:
        raise UsageProblem(problems)
    return chosen


def merged(remembered: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """The flags in force: those typed now over the remembered ones, and what was chosen key by key.

    Of a key that has a flag of its own, whichever was typed last holds; what takes a key back takes such a flag back.

    Raises:
        UsageProblem: both were typed at once, or what was chosen cannot take the place of what a file says.
    """
    before, now = remembered.get("set", {}), typed.get("set", {})
    if not all(isinstance(each, Mapping) and all(isinstance(key, str) for key in each) for each in (before, now)):
        raise UsageProblem(f"{OPTION}: no mapping of keys to values; give one")
    own = {key: FLAGS[name].option for name in typed.keys() & FLAGS.keys() for key in FLAGS[name].overrides}
    both = {**{key: value for key, value in before.items() if key not in own}, **now}
    chosen = {key: value for key, value in both.items() if value is not None}
    if problems := [
        *_problems(chosen),
        *_problems({key: value for key, value in now.items() if value is None and key not in before}),
        *(f"{_label(key, now[key])}: {own[key]} says the same; give one of the two" for key in now if key in own),
    ]:
        raise UsageProblem(problems)
    taken_back = {key for key, value in now.items() if value is None}
    flags = {
        name: value
        for name, value in {**remembered, **typed}.items()
        if name != "set" and not (name in FLAGS and taken_back.intersection(FLAGS[name].overrides))
    }
    return {**flags, "set": chosen} if chosen else flags


def _problems(chosen: Mapping[str, Any]) -> list[str]:
    """Why some of what is chosen cannot take the place of what a file says."""
    if len(chosen) > MOST_KEYS:
        return [f"{OPTION}: {len(chosen)} keys, and at most {MOST_KEYS} can be kept; write them into the files"]
    found = ((_label(key, value), _problem(key, value)) for key, value in chosen.items())
    return [f"{label}: {problem}" for label, problem in found if problem]


def apply(chosen: Mapping[str, Any], sources: Mapping[str, Source]) -> None:
    """Let what is chosen take the place of what the files say."""
    for key, value in chosen.items():
        name, *below = key.split(".")
        sources[name].override(below, value, _label(key, value))


def said(chosen: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """What each file says with the chosen in its place, for them to be aligned: what is chosen for ``training`` stands
    for all stages, but for those that have a choice of their own."""
    stages = [stage.value for stage in Stage]
    return {
        name: {
            key: value
            for key, value in source.data.items()
            if name not in stages or f"training.{key}" not in chosen or f"{name}.{key}" in chosen
        }
        for name, source in sources.items()
    }


def of_file(chosen: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What is chosen for one file, by key."""
    return {key.partition(".")[2]: value for key, value in chosen.items() if key.partition(".")[0] == name}


def _label(key: str, value: Any) -> str:
    """As it is, or might have been, typed; but nothing of what may be a secret."""
    if value is None or _secret(key):
        return f"{OPTION} {excerpt(key)}"
    return f"{OPTION} {excerpt(key)}={excerpt(yaml_word(value))}"


def _problem(key: str, value: Any) -> str | None:
    if _secret(key):
        return "it may have a password in it, which others could read; write it into the file itself"
    if not _is_key(key):
        return _no_key(key)
    if isinstance(value, dict):
        return f"a mapping; set its keys one by one, as {key}.KEY=VALUE"
    if value is not None and not all(map(_is_plain, value if isinstance(value, list) else [value])):
        return "no text, number, true, false, or list of them, that a YAML file could have; give one"
    if len(json.dumps(value)) > LONGEST_VALUE:
        return f"longer than {LONGEST_VALUE} letters; write it into the file itself"
    return None


def _is_plain(value: Any) -> bool:
    match value:
        case str():
            return unfit(value) is None
        case float():
            return math.isfinite(value)
        case bool() | int():
            return True
    return False


def _secret(key: str) -> bool:
    name, _, below = key.partition(".")
    return name in FILES and is_secret(FILES[name].schema, below.partition(".")[0])


def _is_key(key: str) -> bool:
    return key in keys() or any(
        each.endswith(ANYTHING) and key.startswith(each[: -len(ANYTHING)]) and all(key.split(".")) for each in keys()
    )


def _no_key(key: str) -> str:
    if below := [each for each in keys() if each.startswith(f"{key}.")]:
        return f"no key with a value of its own; there is {_listed(below)}"
    endings = (key, key.partition(".")[2] or key)
    alike = next(filter(None, ([each for each in keys() if each.endswith(f".{end}")] for end in endings)), None)
    if nearest := alike or get_close_matches(key, keys(), NEAREST):
        return f"there is no such key; the nearest: {_listed(nearest)}"
    return f"there is no such key; it begins with one of {', '.join(FILES)}, as in loop.seed"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NEAREST
    return ", ".join(names[:NEAREST]) + (f" and {more} more" if more > 0 else "")
