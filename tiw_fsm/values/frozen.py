"""Frozen, validated values, and those that several floors pass to one another."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 10**9
"""No count of a config is larger: what claims more is a mistake."""
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Several = Annotated[int, Field(ge=2, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class FrozenModel(BaseModel):
    """A frozen, strictly typed value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)

    def evolve(self, **changes: Any) -> Self:
        """This value with some fields changed."""
        return self.model_copy(update=changes)


@cache
def meanings(model: type[FrozenModel]) -> dict[str, str]:
    """What the docstrings below a model's fields say, by field.

    Read when somebody asks for them: pydantic could have them in the fields, and would read every model's source at
    each start.
    """
    found = {}
    for part in reversed(model.__mro__):
        if issubclass(part, FrozenModel):
            [definition] = ast.parse(dedent(inspect.getsource(part))).body
            assert isinstance(definition, ast.ClassDef)
            for field, below in pairwise(definition.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(str(text))):
                        found[name] = inspect.cleandoc(text)
    return found


class Tuning(FrozenModel):
    """The settings a stage ladder may change; the rest of a stage's config never moves during a run."""

    learning_rate: float
    """Peak."""
    gradient_accumulation_steps: int
    batch_size_per_gpu: int
    log_interval: int


class LearningRateSchedule(FrozenModel):
    """Warm-up and cosine run from update ``start`` to update ``end``."""

    start: int
    end: int


class FileRef(FrozenModel):
    """A file, and the SHA-256 of its content."""

    path: str
    sha256: str


class CheckpointRef(FrozenModel):
    """A committed checkpoint: its folder, the zero-based index of its last update, and its digest."""

    path: str
    update: int
    sha256: str

    @property
    def completed(self) -> int:
        """Updates this checkpoint has seen."""
        return self.update + 1
