"""The model card of an export, in Markdown with the front matter of model hubs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.reporting.advice import verdict_line
from tiw_fsm.reporting.figures import GATES, Gate, figures, gate_of
from tiw_fsm.reporting.markdown.tables import Lines, Markdown, bullets, code, escaped, table
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import exports
from tiw_fsm.storage.exports import ExportConfig

FRONT_MATTER = """---
library_name: tiw_fsm
pipeline_tag: image-to-video
tags:
- world-model
- tinyworlds
- latent-actions
- dynamics
---
"""
PICTURES = {
    exports.MOVING: "Above: held-out clips. Below: what the model makes of their first frames and of the actions.",
    exports.PICTURE: "The same, frame by frame.",
}
"""In the order in which the card has them, and what they show."""


def card(config: ExportConfig, parameters: Mapping[Stage, int], pictures: Sequence[str], starts: int) -> str:
    """What a stranger needs to know of the export.

    Args:
        parameters: of each model.
        pictures: names of those that are there.
        starts: contexts to start from.
    """
    shown = [name for name in PICTURES if name in pictures]
    return "\n".join(
        [
            FRONT_MATTER,
            f"# {escaped(config.run)}: a world model of {escaped(config.provenance.dataset)}",
            "",
            *_summary(config),
            *(line for name in shown for line in (f"![{PICTURES[name]}]({name})", "", PICTURES[name], "")),
            *_use(config, starts),
            *_verdict(config.attempt),
            *_sizes(config, parameters),
            *_provenance(config),
            *_files(config),
        ]
    )


def _summary(config: ExportConfig) -> Lines:
    gate = gate_of(config.attempt.model_dump()) if config.attempt else None
    passed = (
        f"It has passed {GATES[gate or Gate.PLAIN]} on clips that training never saw."
        if config.passed
        else f"**It has not passed its inference gate.** {escaped(config.verdict)}"
    )
    size = config.frame_size
    return [
        f"From {config.inference.context_window} frames of {size}×{size} pixels and one of {config.n_actions} latent "
        f"actions it makes the next. {passed}",
        "",
    ]


def _use(config: ExportConfig, starts: int) -> Lines:
    more = "" if config.passed else ", allow_failed=True"
    begin = "world.reset()" if starts else "world.reset(frames)"
    starting = (
        f"`world.reset()` begins at one of {starts} held-out contexts that are in the folder, `world.reset(frames)` at "
        "yours."
        if starts
        else "The folder has no contexts to start from: give your own frames."
    )
    window, size = config.inference.context_window, config.frame_size
    return [
        "## Step through it",
        "",
        "```python",
        "import tiw_fsm  # pip install tiw_fsm",
        "",
        f'world = tiw_fsm.load("path/to/this/folder"{more})',
        f"frame = {begin}  # uint8 [{size}, {size}, 3]",
        "frame = world.step(0)  # a latent action leads to the next",
        "```",
        "",
        f"{starting} Such a context is {window} frames, uint8 [{window}, {size}, {size}, 3].",
        "",
        *(
            [
                "The latent action that goes with each recorded key (`world.keys`):",
                "",
                *table(("key", "action"), config.keys.items()),
            ]
            if config.keys
            else []
        ),
    ]


def _verdict(attempt: Attempt | None) -> Lines:
    if attempt is None:
        return ["## Verdict", "", "None: no inference attempt was judged.", ""]
    document = attempt.model_dump()
    gate = gate_of(document)
    rows = [("MSE", attempt.mse), *((f"MSE of {name}", mse) for name, mse in attempt.baselines.items())]
    return [
        "## Verdict",
        "",
        escaped(verdict_line(document)) + ".",
        "",
        *bullets({"judged by": gate and GATES[gate], "largest MSE allowed": attempt.max_mse}),
        *table(("figure", "value"), [*rows, *figures(document).items()]),
        *table(("condition", "met"), attempt.conditions.items()),
    ]


def _sizes(config: ExportConfig, parameters: Mapping[Stage, int]) -> Lines:
    rows = [
        (STAGES[stage].words, f"{parameters[stage]:,}", o.embed_dim, o.num_blocks, o.num_heads, o.patch_size)
        for stage, o in config.stages.items()
    ]
    return ["## Sizes", "", *table(("model", "parameters", "width", "blocks", "heads", "patch"), rows)]


def _provenance(config: ExportConfig) -> Lines:
    told = config.provenance
    return [
        "## Where it comes from",
        "",
        *bullets(
            {
                "run": f"{config.run}, id {told.run_id}",
                "finished": told.finished,
                "frames": f"{told.dataset}, SHA-256 {told.data}",
                "effective configuration": f"SHA-256 {told.config_sha256}",
                "made by": f"tiw_fsm {config.version}, torch {told.torch}, on {told.device}",
                "processes": told.processes,
                "can be computed again bit for bit": told.exact,
            }
        ),
        *table(
            ("model", "updates", "digest of its checkpoint"),
            [(STAGES[stage].words, kept.updates, code(kept.sha256)) for stage, kept in told.checkpoints.items()],
        ),
    ]


def _files(config: ExportConfig) -> Lines:
    rows = {
        exports.WEIGHTS: "all weights, each name after that of its model; the metadata say where they come from",
        exports.CONFIG: "sizes, settings of the rollout, verdict and provenance",
        exports.STARTS: "held-out contexts to start from, uint8",
        exports.SUMS: Markdown("of every file; `tiw-fsm check FOLDER` reads it, and so does `sha256sum -c SHA256SUMS`"),
    }
    places = {stage: exports.checkpoint(stage, kept.updates) for stage, kept in config.provenance.checkpoints.items()}
    folders = [(code(place), f"{STAGES[stage].words}, as TinyWorlds saves it") for stage, place in places.items()]
    warm = " ".join(
        f"--{STAGES[stage].flag}-checkpoint FOLDER/{place.rpartition('/')[0]}" for stage, place in places.items()
    )
    return [
        "## Files",
        "",
        *table(("file", "what"), [*((code(name), what) for name, what in rows.items()), *folders]),
        "TinyWorlds' scripts take its folders as checkpoints. Another run begins from these models with",
        "",
        "```bash",
        f"tiw-fsm run --run mine {warm}",
        "```",
        "",
    ]
