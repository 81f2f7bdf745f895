"""The flags of ``tiw-fsm run`` that a run remembers: one table, each with the keys of the YAML files it overrides.

Flags typed at a start are saved with the run and hold for later plain starts. What is no row here is not saved.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.values.printable import excerpt, unfit

PORT = 29400
"""Where the first of several machines listens for the others, if nothing else is said: torchrun's own choice."""


class Flag(NamedTuple):
    """One flag.

    Attributes:
        name: as the state saves it; on the command line with dashes.
        kind: ``str``, ``int``, ``float``, ``bool`` for a pair ``--name/--no-name``, or ``dict`` for one that may be
            given several times, each with a ``KEY=VALUE``.
        help: its sentence in ``--help`` and in the docs.
        overrides: the keys of the YAML files whose place it takes, as ``file.key``, nested by dots.
        choices: the values it may have, where they are few.
        is_path: it names a file or a folder; a relative one is looked for below the working root.
    """

    name: str
    kind: type
    help: str
    overrides: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_path: bool = False

    @property
    def option(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")


def _of_stages(
    name: str, kind: type, help: str, overrides: str | None = None, *, is_path: bool = False
) -> tuple[Flag, ...]:
    """A flag for each stage; the braces take the fields of its ``StageSpec``, ``{stage}`` its name."""
    return tuple(
        Flag(
            name.format(**spec._asdict()),
            kind,
            help.format(stage=stage, **spec._asdict()),
            (overrides.format(stage=stage),) if overrides else (),
            is_path=is_path,
        )
        for stage, spec in STAGES.items()
    )


FLAGS: dict[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("config_dir", str, "Folder of the YAML files [default: configs/].", is_path=True),
        Flag("engine", str, "Who trains: native, checkout, simulated, or one that is installed [default: native]."),
        Flag(
            "train_stage",
            str,
            "Which stages to train before inference [default: all].",
            choices=("none", "all", *Stage),
        ),
        *_of_stages(
            "{flag}_checkpoint",
            str,
            "Checkpoint, folder of them, run root, export or single file to start the {words} from.",
            is_path=True,
        ),
        Flag("run_root", str, "Where artifacts go [default: results/<run>].", is_path=True),
        Flag("training_config", str, "Another training.yaml.", is_path=True),
        *_of_stages("{flag}_config", str, "Another {stage}.yaml.", is_path=True),
        Flag("inference_config", str, "Another inference.yaml.", is_path=True),
        Flag("loop_config", str, "Another loop.yaml.", is_path=True),
        Flag(
            "dataset",
            str,
            "TinyWorlds name or h5 file to train and judge on.",
            ("training.dataset", "inference.dataset"),
            is_path=True,
        ),
        Flag("device", str, "auto, cpu or cuda [default: auto].", ("training.device", "inference.device")),
        Flag("seed", int, "Seed of weights, batches, masks and clips.", ("loop.seed", "inference.seed")),
        Flag("python_exec", str, "Interpreter of the training process [default: this one].", is_path=True),
        Flag("torchrun", str, "torchrun of a checkout; the native engine needs none.", is_path=True),
        Flag("nproc_per_node", str, "Processes on each machine: a number, or auto for one a GPU [default: 1]."),
        Flag("nnodes", int, "Machines; on each but this one, tiw-fsm join is started [default: 1]."),
        Flag("rdzv_endpoint", str, f"HOST:PORT at which this machine listens for the others [default: port {PORT}]."),
        Flag("target_updates", int, "Updates per trained stage, instead of n_updates.", ("training.n_updates",)),
        *_of_stages("{flag}_chunk", int, "Updates of the {words} between gates.", "loop.chunks.{stage}"),
        Flag("init_learning_rate", float, "First peak learning rate of every stage.", ("training.learning_rate",)),
        Flag(
            "init_grad_accum",
            int,
            "First gradient_accumulation_steps of every stage.",
            ("training.gradient_accumulation_steps",),
        ),
        Flag("init_batch_size", int, "First batch_size_per_gpu of every stage.", ("training.batch_size_per_gpu",)),
        Flag("init_log_interval", int, "First log_interval of every stage.", ("training.log_interval",)),
        Flag(
            "max_train_retries",
            int,
            "Rejected chunks in a row that a stage may have.",
            ("loop.budgets.max_train_retries",),
        ),
        Flag(
            "max_inference_retries",
            int,
            "Retunes after failed inference gates.",
            ("loop.budgets.max_inference_retries",),
        ),
        Flag(
            "max_crashes",
            int,
            "Dead training processes in a row that a stage may have.",
            ("loop.budgets.max_crashes",),
        ),
        Flag("max_stalled_starts", int, "Starts in a row without progress.", ("loop.budgets.max_stalled_starts",)),
        Flag("retry_chunk", int, "Dynamics updates added by a retune.", ("loop.retune.chunk",)),
        Flag(
            "retry_init_learning_rate",
            float,
            "Peak learning rate of the first retune.",
            ("loop.retune.init_learning_rate",),
        ),
        Flag("retry_lr_decay", float, "Its factor from retune to retune.", ("loop.retune.lr_decay",)),
        Flag("retry_lr_floor", float, "The lowest it may fall.", ("loop.retune.lr_floor",)),
        Flag("max_mse", float, "Largest MSE that passes the inference gate.", ("loop.inference.max_mse",)),
        Flag("min_skill", float, "Skill to be above, at its interval's low end.", ("loop.inference.min_skill",)),
        Flag(
            "min_delta_psnr",
            float,
            "Control in dB to be above, at its interval's low end.",
            ("loop.inference.min_delta_psnr",),
        ),
        Flag("min_motion", float, "Share of the true movement to be above.", ("loop.inference.min_motion",)),
        Flag(
            "allow_trivial",
            bool,
            "Judge without baselines, skill, control and motion.",
            ("loop.inference.allow_trivial",),
        ),
        Flag("generation_steps", int, "Inference steps.", ("inference.generation_steps",)),
        Flag("context_window", int, "True frames an inference starts from.", ("inference.context_window",)),
        Flag(
            "prediction_horizon",
            int,
            "Frames decoded together in one inference step.",
            ("inference.prediction_horizon",),
        ),
        Flag("decode_steps", int, "MaskGIT decoding steps per prediction.", ("inference.decode_steps",)),
        Flag(
            "preload_ratio",
            float,
            "Share of the held-out rows inference draws from.",
            ("inference.preload_ratio",),
        ),
        Flag(
            "temperature",
            float,
            "Sampling temperature; 0 takes the likeliest token.",
            ("inference.temperature",),
        ),
        Flag("teacher_forced", bool, "Feed inference true frames.", ("inference.teacher_forced",)),
        Flag(
            "set", dict, "A key of a YAML file, as in dynamics.n_updates=500; without a value the file's holds again."
        ),
    )
}


def to_remember(given: Mapping[str, Any], repo_root: Path) -> dict[str, Any]:
    """``given`` flags as a run keeps them: paths below the working root as seen from there, so that it may be moved."""
    roots = [Path(os.path.abspath(repo_root)), repo_root.resolve()]
    kept = {name: _seen_from(roots, value) if name in PATHS else value for name, value in given.items()}
    if "set" in given:
        kept["set"] = {
            key: _seen_from(roots, value) if key in PATH_KEYS else value for key, value in given["set"].items()
        }
    return kept


PATHS = frozenset(name for name, flag in FLAGS.items() if flag.is_path)
PATH_KEYS = frozenset(key for name in PATHS for key in FLAGS[name].overrides)


def _seen_from(roots: list[Path], value: Any) -> Any:
    """A typed path below one of the ``roots`` as seen from there; all else as it is."""
    if not isinstance(value, str) or not os.path.isabs(value):
        return value
    path = Path(os.path.normpath(value))
    below = (os.path.join(os.curdir, path.relative_to(root)) for root in roots if path.is_relative_to(root))
    return next(below, value)


def typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``given`` values that are flags to remember, and were typed."""
    return {name: given[name] for name in FLAGS if given.get(name) is not None}


def as_typed(flags: Mapping[str, Any]) -> str:
    """Remembered flags as they would be typed in a shell."""
    words: list[str] = []
    for name, value in flags.items():
        match value:
            case bool():
                words.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
            case dict():
                words += [word for key, each in value.items() for word in (f"--{name}", f"{key}={yaml_word(each)}")]
            case _:
                words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def yaml_word(value: Any) -> str:
    """A value as YAML has it on one line: text as it is, all else as JSON, which YAML contains."""
    return value if isinstance(value, str) else json.dumps(value, default=repr)


LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a file's name, and of a path, beyond which no system takes them."""


def unfit_paths(paths: Mapping[str, str | Path]) -> list[str]:
    """Why nothing that a run writes can name some of the ``paths``, by the flags that give them; none if it can."""
    return [
        f"{flag} {excerpt(str(path))}: {why}; rename it, or give another"
        for flag, path in paths.items()
        if (why := _unfit(str(path)))
    ]


def _unfit(path: str) -> str | None:
    if letter := unfit(path):
        return f"has {letter!a} in it, which is no UTF-8 text, and a run's files name their places in UTF-8"
    if len(path.encode()) > LONGEST_PATH or any(len(name.encode()) > LONGEST_NAME for name in path.split(os.sep)):
        return "is longer than any path"
    return None
