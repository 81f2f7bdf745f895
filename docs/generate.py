"""Prints docs/configs.md from the code: ``python docs/generate.py > docs/configs.md``. A test compares the two."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import yaml

from tiw_fsm.config.loop import Budgets, InferenceGate, Ladder, LoopConfig, Retune, StageGate
from tiw_fsm.config.schema import DynamicsFile, InferenceFile, SharedKeys, StageFile, TrainingFile
from tiw_fsm.tinyworlds.config import InferenceConfig, StageConfig
from tiw_fsm.values.frozen import FrozenModel

WORDS = {
    "Positive": "integer from 1",
    "Several": "integer from 2",
    "Count": "integer from 0",
    "Rate": "number above 0",
    "Share": "number above 0, at most 1",
    "Annotated[float, Field(ge=0)]": "number from 0",
    "bool": "true or false",
    "int": "integer",
    "float": "number",
    "str": "text",
}
SHOWN = (bool, int, float, str, tuple)
INTRODUCTION = """# Configs

Made from the code by `python docs/generate.py > docs/configs.md`; a test keeps it true.

Five files have TinyWorlds' own names and keys, so yours work unchanged; `loop.yaml` holds what is ours, and every
key of it may be left out. A key that several files have is taken from a typed flag first, then from `training.yaml`,
then from the stage's own file, then from the default. A mistake is named with its file and line before anything
starts."""


def words(annotation: str) -> str:
    """What a type means for somebody who writes YAML."""
    kind = annotation.removesuffix(" | None")
    if choices := re.fullmatch(r"Literal\[(.*)\]", kind):
        return " or ".join(f"`{choice}`" for choice in re.findall(r"\w+", choices[1]))
    return WORDS.get(kind, "mapping" if kind.startswith("dict") or kind[0].isupper() else "list")


def rows(schema: type[FrozenModel], own: type[FrozenModel], effective: type[FrozenModel] | None) -> Iterator[str]:
    """A table of the keys that ``own`` declares, with the defaults of the effective values."""
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, annotation in inspect.get_annotations(own).items():
        if key == "model_config":
            continue
        field = (effective or schema).model_fields.get(key)
        default = field.default if field and not field.is_required() else None
        shown = f"`{plain(default)}`" if isinstance(default, SHOWN) else ""
        meaning = (own.meaning(key) or "TinyWorlds' own; without effect here.").replace("\n", " ").replace("|", "\\|")
        yield f"| `{key}` | {words(str(annotation))} | {shown} | {' '.join(meaning.split())} |"


def plain(default: object) -> str:
    text = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
    return text.splitlines()[0].strip()


def section(
    title: str, text: str, schema: type[FrozenModel], own: type[FrozenModel], effective: type[FrozenModel] | None = None
) -> str:
    return "\n".join([f"## {title}", "", text, "", *rows(schema, own, effective)])


def main() -> None:
    loop = LoopConfig().model_dump(mode="json", exclude_none=True)
    print("\n\n".join(
        [
            INTRODUCTION,
            section(
                "Shared keys",
                "In `training.yaml`, or in a stage's own file (`video_tokenizer.yaml`, `latent_actions.yaml`, "
                "`dynamics.yaml`). A key without a default must stand in one of them.",
                StageFile, SharedKeys, StageConfig,
            ),
            section("training.yaml", "Beside the shared keys:", TrainingFile, TrainingFile),
            section("video_tokenizer.yaml, latent_actions.yaml", "Beside the shared keys:", StageFile, StageFile),
            section("dynamics.yaml", "Beside those:", DynamicsFile, DynamicsFile, StageConfig),
            section("inference.yaml", "What the gate looks at.", InferenceFile, InferenceFile, InferenceConfig),
            section("loop.yaml", "Chunks, gates, ladders, budgets.", LoopConfig, LoopConfig),
            section("loop.yaml: gates.<stage>", "", StageGate, StageGate),
            section("loop.yaml: ladders.<stage>", "", Ladder, Ladder),
            section("loop.yaml: budgets", "", Budgets, Budgets),
            section("loop.yaml: inference", "", InferenceGate, InferenceGate),
            section("loop.yaml: retune", "", Retune, Retune),
            "## loop.yaml, as it is when you leave it out\n\n```yaml\n" + yaml.safe_dump(loop, sort_keys=False) + "```",
        ]
    ))  # fmt: skip


if __name__ == "__main__":
    main()
