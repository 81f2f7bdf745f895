"""Prints docs/configs.md from the code: ``python docs/generate.py > docs/configs.md``. A test compares the two."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import get_args

import yaml

from tiw_fsm.config.loop import Budgets, InferenceGate, Ladder, LoopConfig, Retune, StageGate
from tiw_fsm.config.schema import (
    DynamicsFile,
    InferenceFile,
    LatentFile,
    MixtureFile,
    SharedKeys,
    StageFile,
    TrainingFile,
)
from tiw_fsm.tinyworlds.config import DecoderContext, Masking, OptimizerName, StageConfig
from tiw_fsm.values.frozen import FrozenModel, meanings

WORDS = {
    "Positive": "integer from 1",
    "Several": "integer from 2",
    "Count": "integer from 0",
    "Rate": "number above 0",
    "Factor": "number above 0, at most 10",
    "Finite": "number",
    "Change": "integer",
    "Command": "text",
    "Share": "number above 0, at most 1",
    "Annotated[float, Field(ge=0)]": "number from 0",
    "Annotated[float, Field(ge=0, lt=1)]": "number from 0, below 1",
    "Least": "number, or none",
    "DecoderContext": " or ".join(get_args(DecoderContext)),
    "Masking": " or ".join(get_args(Masking)),
    "OptimizerName": " or ".join(get_args(OptimizerName)),
    "Momentum": "number from 0, below 1",
    "MuonSteps": "integer from 1 to 99",
    "Weight": "number from 0",
    "Device": "`auto` or `cpu` or `cuda`",
    "bool": "true or false",
    "int": "integer",
    "float": "number",
    "str": "text",
}
OPTIONS = "Beside those of a stage, [options that TinyWorlds does not have](worlds.md#the-recipe):"
SHOWN = (bool, int, float, str, tuple)
INTRODUCTION = """# Configs

Made from the code by `python docs/generate.py > docs/configs.md`; a test keeps it true.

Five files have TinyWorlds' own names and keys, so yours work unchanged; `loop.yaml` holds what is ours, and every
key of it may be left out. A key that several files have is taken from a typed flag first, then from `training.yaml`,
then from the stage's own file, then from the default. A mistake is named with its file and line before anything
starts. So are a key given twice, and what readers of YAML do not agree on: `010`, `1:30`, `1_000`, `yes`, dates, tags,
aliases and merge keys. Write the number itself, `true` or `false`, or text in quotes."""


def words(annotation: str) -> str:
    """What a type means for somebody who writes YAML."""
    kind = annotation.removesuffix(" | None")
    if choices := re.fullmatch(r"Literal\[(.*)\]", kind):
        return " or ".join(f"`{choice}`" for choice in re.findall(r"\w+", choices[1]))
    return WORDS.get(kind, "mapping" if kind.startswith("dict") or kind[0].isupper() else "list")


def rows(
    schema: type[FrozenModel], beside: Sequence[type[FrozenModel]], effective: type[FrozenModel] | None
) -> Iterator[str]:
    """A table of the keys of ``schema`` that none of ``beside`` has, with the defaults of the effective values."""
    annotations = {key: kind for cls in reversed(schema.__mro__) for key, kind in inspect.get_annotations(cls).items()}
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key in schema.model_fields:
        if any(key in other.model_fields for other in beside):
            continue
        meaning = (meanings(schema).get(key) or "TinyWorlds' own; without effect here.").replace("|", "\\|")
        known = (effective or schema).model_fields.get(key)
        default = known.default if known and not known.is_required() else None
        shown = f"`{plain(default)}`" if isinstance(default, SHOWN) else ""
        yield f"| `{key}` | {words(str(annotations[key]))} | {shown} | {' '.join(meaning.split())} |"


def plain(default: object) -> str:
    text = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
    return text.splitlines()[0].strip()


def section(
    title: str,
    text: str,
    schema: type[FrozenModel],
    *,
    beside: Sequence[type[FrozenModel]] = (),
    effective: type[FrozenModel] | None = None,
) -> str:
    return "\n".join([f"## {title}", "", text, "", *rows(schema, beside, effective)])


def main() -> None:
    loop = LoopConfig().model_dump(mode="json", exclude_none=True)
    print("\n\n".join(
        [
            INTRODUCTION,
            section(
                "Shared keys",
                "In `training.yaml`, or in a stage's own file (`video_tokenizer.yaml`, `latent_actions.yaml`, "
                "`dynamics.yaml`). A key without a default must stand in one of them.",
                SharedKeys, effective=StageConfig,
            ),
            section(
                "Experts",
                "In `training.yaml` or in `dynamics.yaml`, for the dynamics alone "
                "([how it trains then](recipes.md#train-with-muon-or-with-experts)).",
                MixtureFile, effective=StageConfig,
            ),
            section("training.yaml", "Beside all these:", TrainingFile, beside=[SharedKeys, MixtureFile]),
            section(
                "video_tokenizer.yaml, latent_actions.yaml", "Beside the shared keys:", StageFile, beside=[SharedKeys],
            ),
            section(
                "latent_actions.yaml", OPTIONS,
                LatentFile, beside=[StageFile], effective=StageConfig,
            ),
            section(
                "dynamics.yaml", OPTIONS,
                DynamicsFile, beside=[StageFile, MixtureFile], effective=StageConfig,
            ),
            section("inference.yaml", "What the gate looks at.", InferenceFile),
            section("loop.yaml", "Chunks, gates, ladders, budgets.", LoopConfig),
            section("loop.yaml: gates.<stage>", "", StageGate),
            section("loop.yaml: ladders.<stage>", "", Ladder),
            section("loop.yaml: budgets", "", Budgets),
            section("loop.yaml: inference", "", InferenceGate),
            section("loop.yaml: retune", "", Retune),
            "## loop.yaml, as it is when you leave it out\n\n```yaml\n" + yaml.safe_dump(loop, sort_keys=False) + "```",
        ]
    ))  # fmt: skip


if __name__ == "__main__":
    main()
