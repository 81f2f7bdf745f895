"""The YAML files of a run: which there are, and every key that one may set."""

from __future__ import annotations

from collections.abc import Iterator
from enum import EnumType
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import SecretStr

from tiw_fsm.config.loop import LoopConfig
from tiw_fsm.config.schema import DynamicsFile, InferenceFile, LatentFile, SharedKeys, StageFile, TrainingFile
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.values.frozen import FrozenModel


class YamlKind(NamedTuple):
    """One of the YAML files: its flag, its schema and whether it may be missing."""

    name: str
    flag: str
    schema: type[FrozenModel]
    optional: bool = False


STAGE_SCHEMAS: dict[Stage, type[StageFile]] = {Stage.LATENT: LatentFile, Stage.DYNAMICS: DynamicsFile}
"""Stages whose file has keys of its own."""
FILES = {
    kind.name: kind
    for kind in (
        YamlKind("training", "training_config", TrainingFile),
        *(
            YamlKind(stage.value, f"{spec.flag}_config", STAGE_SCHEMAS.get(stage, StageFile))
            for stage, spec in STAGES.items()
        ),
        YamlKind("inference", "inference_config", InferenceFile),
        YamlKind("loop", "loop_config", LoopConfig, optional=True),
    )
}
"""By name without suffix."""
ONLY_TRAINING = SharedKeys.model_fields.keys() - StageConfig.model_fields.keys()
"""Keys that all stages take from training.yaml, if their own files have them or not."""
ANYTHING = "*"
"""What a key below another ends with where any word may stand."""


@cache
def keys() -> tuple[str, ...]:
    """Every key that has a value of its own, as ``file.key``, nested by dots, in the order of the files; of a stage's
    file not those that only training.yaml is asked for."""
    return tuple(
        ".".join((name, *below))
        for name, kind in FILES.items()
        for below in _below(kind.schema)
        if not issubclass(kind.schema, StageFile) or below[0] not in ONLY_TRAINING
    )


def is_secret(schema: type[FrozenModel], key: str) -> bool:
    """Whether a key at the top of a file may have a password in its value."""
    kind = schema.model_fields[key].annotation if key in schema.model_fields else None
    return any(isinstance(part, type) and issubclass(part, SecretStr) for part in get_args(kind))


def _below(kind: Any) -> Iterator[tuple[str, ...]]:
    """The keys below a type; nothing but the empty one below that of a single value."""
    group = next((each for each in (kind, *get_args(kind)) if get_origin(each) is dict or _is_schema(each)), None)
    if group is None:
        yield ()
    for key, inner in _fields(group):
        yield from ((key, *rest) for rest in _below(inner))


def _is_schema(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, FrozenModel)


def _fields(group: Any) -> Iterator[tuple[str, Any]]:
    """The keys of a schema, or of a mapping, each with the type of its value."""
    if _is_schema(group):
        yield from ((key, field.annotation) for key, field in group.model_fields.items())
    elif group is not None:
        words, inner = get_args(group)
        literal = get_args(words) if get_origin(words) is Literal else (ANYTHING,)
        yield from ((str(word), inner) for word in (words if isinstance(words, EnumType) else literal))
