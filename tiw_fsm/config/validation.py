"""What a file says against its schema: values, or its mistakes in sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

from pydantic import ValidationError

from tiw_fsm.config.files import is_secret
from tiw_fsm.config.yaml_source import Source, told
from tiw_fsm.values.frozen import FrozenModel, meanings
from tiw_fsm.values.printable import excerpt, quoted

V = TypeVar("V", bound=FrozenModel)
KEY = "[key]"
"""With what pydantic's location of a mistake ends where the key is wrong, and not the value."""


def validated(schema: type[V], data: Mapping[str, Any], source: Source, problems: list[str]) -> V | None:
    """What a file says, as its schema has it; None if there are mistakes, which are told in ``problems``."""
    try:
        return schema.model_validate_json(json.dumps(data))
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        misspelt = {error["loc"][:-1] for error in errors if error["loc"][-1:] == (KEY,)}
        errors = [e for e in errors if e["loc"][-1:] == (KEY,) or not any(e["loc"][: len(m)] == m for m in misspelt)]
        mistakes = [_mistake(schema, data, error["loc"], error["type"], error["msg"]) for error in errors]
        places = [source.where(error["loc"] or _at_fault(error["msg"], source)) for error in errors]
        problems += told([f"{place}: {mistake}" for place, mistake in zip(places, mistakes, strict=True)], source.label)
        return None


def without_mistakes(schema: type[V], data: Mapping[str, Any]) -> V | None:
    """What a file says beside its mistakes, so that what is wrong with that is told with them; None if nothing."""
    try:
        return schema.model_validate_json(json.dumps(data))
    except ValidationError as exc:
        wrong = {error["loc"][0] for error in exc.errors() if error["loc"]}
    sound = {key: value for key, value in data.items() if key not in wrong}
    return without_mistakes(schema, sound) if sound and len(sound) < len(data) else None


def _mistake(
    schema: type[FrozenModel], data: Mapping[str, Any], location: tuple[int | str, ...], kind: str, message: str
) -> str:
    """What is wrong at a ``location``, in a sentence that quotes it; but nothing of what may be a secret."""
    name = excerpt(".".join(str(part) for part in location if part != KEY))
    meaning = meanings(schema).get(str(location[0])) if location else None
    if kind == "extra_forbidden":
        message = "unknown key; remove it, or correct its spelling"
    else:
        unsaid = not location or kind == "missing" or is_secret(schema, str(location[0]))
        message = _sentence(message) + ("" if unsaid else f", not {quoted(_given(data, location))}")
    return (f"{name}: " if name else "") + message + (f" ({meaning})" if meaning else "")


def _at_fault(message: str, source: Source) -> tuple[str]:
    """Of the keys that are wrong together the one that was typed, or else the one that the sentence begins with."""
    words = re.findall(r"\w+", _sentence(message))
    typed = [word for word in words if source.lines.get((word,), "").startswith("--")]
    return ((typed or words)[0],)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


def _given(data: Any, location: tuple[int | str, ...]) -> Any:
    """What stands at a ``location``; for a key that is wrong itself, the key."""
    for part, after in pairwise([*location, None]):
        if after == KEY:
            return part
        inside = isinstance(data, Mapping) and part in data
        if not inside and not (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            return data  # the rest of the location is pydantic's: which of several types it tried
        data = data[part]
    return data
