"""From YAML files and typed flags to one run's effective ``Settings``, with every problem found told at once.

Precedence: typed flag, then training.yaml, then the stage's own file, then the built-in default. What only one engine
needs is read by that engine: ``load_settings`` is given its rules.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tiw_fsm.config import alignment, chosen
from tiw_fsm.config.files import FILES
from tiw_fsm.config.flags import FLAGS, unfit_paths
from tiw_fsm.config.loop import LoopConfig
from tiw_fsm.config.schema import InferenceFile, StageFile, TrainingFile
from tiw_fsm.config.unheard import unheard
from tiw_fsm.config.validation import validated, without_mistakes
from tiw_fsm.config.yaml_source import Source
from tiw_fsm.data import frames
from tiw_fsm.errors import UsageProblem
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.system import durable
from tiw_fsm.system.needs import installed
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, OptimizerName, StageConfig
from tiw_fsm.values.frozen import FrozenModel
from tiw_fsm.values.plain import JsonObject
from tiw_fsm.values.printable import excerpt


class Settings(FrozenModel):
    """One run's effective configuration: files, typed flags and built-in defaults merged."""

    run_root: str
    repo_root: str
    data: DataSource
    device: str
    train_stage: str
    """A stage, ``all`` or ``none``."""
    stages: dict[Stage, StageConfig]
    inference: InferenceConfig
    loop: LoopConfig
    """What the files and flags of this start say; once the run has begun, its state's own copy is in force."""
    use_wandb: bool = False
    """As TinyWorlds' files ask for it: where W&B is installed and has a key. ``loop.trackers`` is what must be fed."""
    wandb_project: str | None = None
    warm_starts: dict[Stage, str] = {}
    engine: str = "native"
    needs_frames: bool = True
    """Whether the engine reads the frames file."""
    engine_settings: JsonObject | None = None
    """What only this engine needs, as its own rules read it."""
    python_exec: str
    unheard: list[str] = []
    """Keys that the files have and nobody heeds, a text for each file."""
    alignment: list[tuple[str, str, str]] = []
    """For the reports: key, where it was read, value."""

    def trains(self, stage: Stage) -> bool:
        """Whether this run trains ``stage``."""
        return self.train_stage in ("all", stage.value)

    @property
    def optimizers(self) -> tuple[OptimizerName, ...]:
        """Those that it trains with."""
        return tuple(sorted({config.optimizer for stage, config in self.stages.items() if self.trains(stage)}))


class Draft(NamedTuple):
    """Settings in the making, as an engine's own rules see them."""

    flags: Mapping[str, Any]
    typed: Set[str]
    """Names of those that were typed at this start, and not at an earlier one."""
    repo_root: Path
    run_root: Path
    sources: Mapping[str, Source]
    """The YAML files, by name without suffix, with the typed flags in force."""
    files: Mapping[str, FrozenModel | None]
    """The same, validated; None where a file cannot be used."""


class EngineRules(Protocol):
    """What an engine wants of the settings."""

    @property
    def name(self) -> str:
        """As ``--engine`` calls it."""

    @property
    def needs_frames(self) -> bool:
        """Whether it reads the frames file."""

    @property
    def interpreter_needs(self) -> str:
        """What ``--python-exec`` must have installed."""

    @property
    def loop_defaults(self) -> JsonObject:
        """Keys of loop.yaml whose default is another with it."""

    @property
    def hears_all_keys(self) -> bool:
        """Whether it goes by the YAML files itself, so that nothing is known of keys without effect."""

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        """What only this engine needs, if anything; what is wrong for it is added to ``problems``."""


def load_settings(
    flags: Mapping[str, Any], *, run: str, repo_root: Path, engine: EngineRules, typed: Set[str] | None = None
) -> Settings:
    """Merge files and ``flags`` (typed flags only, by name) into the effective settings.

    Args:
        typed: names of the flags that were typed at this start; all of them, if it does not say.

    Raises:
        UsageProblem: anything is missing, unknown, mistyped, impossible or misaligned; all of it at once.
        NotPermitted: a file may not be read.
    """
    try:
        return _load_settings(flags, flags.keys() if typed is None else typed, run, repo_root.resolve(), engine)
    except OSError as exc:
        raise UsageProblem(f"{exc.filename}: {exc.strerror}; correct the path") from exc


def _load_settings(
    flags: Mapping[str, Any], typed: Set[str], run: str, repo_root: Path, engine: EngineRules
) -> Settings:
    if problems := _unfit(flags, run, repo_root):
        raise UsageProblem(problems)
    sources = _read_sources(flags, repo_root, problems)
    picked = flags.get("set", {})
    chosen.apply(picked, sources)
    said = chosen.said(picked, sources)
    _apply_flags(sources, flags)
    parsed = _parsed(sources, engine.loop_defaults, problems)
    if len(parsed) < len(sources):  # of what a file would have said nothing can be told
        raise UsageProblem(dict.fromkeys(problems))
    problems += alignment.misaligned(said, lambda name, key: sources[name].where((key,)))
    training, inference, loop = parsed["training"], parsed["inference"], parsed["loop"]
    run_root = Path(os.path.normpath(repo_root / flags.get("run_root", f"results/{run}")))
    problems += _missing_trackers(loop, sources["loop"])
    own = engine.read_settings(Draft(flags, typed, repo_root, run_root, sources, parsed), problems)
    stages = _stage_configs(parsed, sources, picked, problems)
    data = None
    said_of_data = training or without_mistakes(TrainingFile, sources["training"].data)
    if isinstance(said_of_data, TrainingFile):
        data = _data_source(said_of_data, sources, repo_root, problems)
    if problems and data and engine.needs_frames:  # else who checks the frames will say so
        problems += frames.missing(data)
    warm_starts = {
        stage: os.path.normpath(repo_root / flags[spec.checkpoint_flag])
        for stage, spec in STAGES.items()
        if flags.get(spec.checkpoint_flag)
    }
    train_stage = flags.get("train_stage", "all")
    problems += _missing_checkpoints(train_stage, warm_starts)
    python_exec = _interpreter(flags, repo_root, engine.interpreter_needs, problems)
    if problems:
        raise UsageProblem(dict.fromkeys(problems))
    assert isinstance(training, TrainingFile)
    assert isinstance(inference, InferenceFile)
    assert isinstance(loop, LoopConfig)
    assert data is not None
    return Settings(
        run_root=str(run_root),
        repo_root=str(repo_root),
        data=data,
        device=training.device or inference.device or "auto",
        train_stage=train_stage,
        stages=stages,
        inference=InferenceConfig(**{key: getattr(inference, key) for key in InferenceConfig.model_fields}),
        loop=loop,
        use_wandb=bool(_shared(parsed, "use_wandb")),
        wandb_project=_shared(parsed, "wandb_project"),
        warm_starts=warm_starts,
        engine=engine.name,
        needs_frames=engine.needs_frames,
        engine_settings=own.model_dump(mode="json") if own else None,
        python_exec=python_exec,
        unheard=[] if engine.hears_all_keys else unheard(said),
        alignment=alignment.table(
            said, lambda name, key: sources[name].where((key,)).removeprefix(f"{repo_root}{os.sep}")
        ),
    )


def _unfit(flags: Mapping[str, Any], run: str, repo_root: Path) -> list[str]:
    """What is wrong with flags by themselves."""
    texts = {FLAGS[name].option: value for name, value in flags.items() if isinstance(value, str) and name in FLAGS}
    return unfit_paths({"--run": run, "--repo-root": repo_root, **texts}) + [
        f"{FLAGS[name].option}: {value} is no finite number; give one"
        for name, value in flags.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _parsed(
    sources: Mapping[str, Source], loop_defaults: JsonObject, problems: list[str]
) -> dict[str, FrozenModel | None]:
    """What the files say that could be read; None for one with mistakes."""
    parsed = {}
    for name, source in sources.items():
        if source.is_read:
            defaults = _deep_merge(LoopConfig().model_dump(mode="json"), loop_defaults) if name == "loop" else {}
            parsed[name] = validated(FILES[name].schema, _deep_merge(defaults, source.data), source, problems)
    return parsed


def _missing_checkpoints(train_stage: str, warm_starts: Mapping[Stage, str]) -> list[str]:
    return [
        f"--train-stage {train_stage} does not train {stage}, so its checkpoint is needed: "
        f"give {FLAGS[spec.checkpoint_flag].option} PATH"
        for stage, spec in STAGES.items()
        if train_stage not in ("all", stage.value) and stage not in warm_starts
    ]


def _deep_merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _stage_configs(
    parsed: Mapping[str, FrozenModel | None],
    sources: Mapping[str, Source],
    picked: Mapping[str, Any],
    problems: list[str],
) -> dict[Stage, StageConfig]:
    """What each stage trains with: what was chosen for it alone, then training.yaml, then the stage's own file."""
    training, stages = parsed["training"], {}
    for stage in Stage:
        file = parsed[stage.value]
        if isinstance(training, TrainingFile) and isinstance(file, StageFile):
            own, shared = _stated(file, StageConfig), _stated(training, StageConfig, type(file))
            shared = {key: value for key, value in shared.items() if key not in chosen.of_file(picked, stage)}
            said = sources[stage.value].lines | {
                keys: line for keys, line in sources["training"].lines.items() if keys[0] in shared
            }
            merged = Source(sources[stage.value].label, lines=said)
            if any(key not in own and key not in shared for key in (*alignment.FROM_TRAINING, *alignment.BACKBONE)):
                continue  # which has been told
            config = validated(StageConfig, {**own, **shared}, merged, problems)
            if config is not None:
                stages[stage] = config
    return stages


def _interpreter(flags: Mapping[str, Any], repo_root: Path, needs: str, problems: list[str]) -> str:
    """The child's interpreter. Not resolved: a virtual environment's python is a link, and must stay one."""
    typed = flags.get("python_exec")
    if typed is None:
        return sys.executable
    path = repo_root / typed
    if not path.is_file():
        why = "is no file" if path.exists() else "no such file"
        problems.append(f"--python-exec {typed}: {why}; give the path of a Python that has {needs} installed")
    return str(path)


def _require_some(flags: Mapping[str, Any], repo_root: Path) -> None:
    """Have it that somebody configured something: of a folder without any file one sentence says enough.

    Raises:
        UsageProblem: there is none of the files, and no flag names one of its own.
        NotPermitted: a file may not be read.
    """
    for path in (paths := _paths(flags, repo_root)).values():
        durable.require_permission(path)
    named = any(flags.get(kind.flag) for kind in FILES.values())
    if named or any(map(os.path.lexists, paths.values())):
        return
    folder = paths["training"].parent
    if folder.exists() and not folder.is_dir():
        raise UsageProblem(f"{folder}: it is no folder; give the one that the YAML files are in with --config-dir")
    remedy = (
        "`tiw-fsm init` writes some to configs/, `tiw-fsm init --demo` those of the demo to configs/demo/, or name the "
        "folder of yours with --config-dir"
    )
    if repo_root.resolve() != Path.cwd():
        init = shlex.join(["tiw-fsm", "init", str(folder)])
        remedy = f"`{init}` writes some there, or give the --repo-root or --config-dir of yours"
    raise UsageProblem(f"{folder}: there are no configs; {remedy}")


def _paths(flags: Mapping[str, Any], repo_root: Path) -> dict[str, Path]:
    """Where each file is looked for."""
    config_dir = repo_root / flags.get("config_dir", "configs")
    return {
        name: repo_root / typed if (typed := flags.get(kind.flag)) else config_dir / f"{name}.yaml"
        for name, kind in FILES.items()
    }


def _read_sources(flags: Mapping[str, Any], repo_root: Path, problems: list[str]) -> dict[str, Source]:
    _require_some(flags, repo_root)
    sources = {}
    for name, path in _paths(flags, repo_root).items():
        if path.is_file():
            sources[name] = Source.read(path, problems)
            continue
        kind = FILES[name]
        sources[name] = Source(label=str(path), is_read=kind.optional and not flags.get(kind.flag))
        other = path.with_suffix(".yml")
        option = FLAGS[kind.flag].option
        if os.path.lexists(path):
            stands = "a link to what is not there" if path.is_symlink() else "no file"
            problems.append(f"{path}: it is {stands}; put a file in its place, or name another with {option}")
        elif other.is_file():
            problems.append(f"{other}: it is not read under this name; rename it to {path.name}")
        elif not sources[name].is_read:
            problems.append(
                f"{path}: no such file; copy it from the folder that `tiw-fsm init FOLDER` makes, or name another with "
                f"{option} or --config-dir"
            )
    return sources


def _apply_flags(sources: dict[str, Source], flags: Mapping[str, Any]) -> None:
    for flag in FLAGS.values():
        if flags.get(flag.name) is not None:
            for target in set(flag.overrides) - flags.get("set", {}).keys():
                name, *keys = target.split(".")
                sources[name].override(keys, flags[flag.name], flag.option)


def _shared(parsed: Mapping[str, FrozenModel | None], key: str) -> Any:
    """A shared key of the run as a whole: training.yaml first, then the stages' own files."""
    values = (getattr(parsed[name], key) for name in ("training", *Stage))
    return next((value for value in values if value is not None), None)


def _missing_trackers(loop: FrozenModel | None, source: Source) -> list[str]:
    return [
        f"{source.where(('trackers',))}: {tracker} is not installed: pip install 'tiw_fsm[{tracker}]', or take it out "
        "of trackers"
        for tracker in (loop.trackers if isinstance(loop, LoopConfig) else ())
        if not installed(tracker)
    ]


def _stated(file: FrozenModel, *schemas: type[FrozenModel]) -> dict[str, Any]:
    """What a file says of the keys that all ``schemas`` know."""
    said = {key: value for key, value in file.model_dump(mode="json").items() if value is not None}
    return {key: value for key, value in said.items() if all(key in schema.model_fields for schema in schemas)}


def _data_source(
    training: TrainingFile,
    sources: Mapping[str, Source],
    repo_root: Path,
    problems: list[str],
) -> DataSource | None:
    if training.dataset is None:
        if not sources["training"].data.get("dataset"):  # else what it says is a mistake of its own
            problems.append(f"{sources['training'].label}: training.yaml names no dataset; {frames.known_datasets()}")
        return None
    judged_on = sources["inference"].data.get("dataset")  # also where something else in the file is wrong
    if judged_on is not None and judged_on != training.dataset:
        problems.append(
            f"{sources['inference'].where(('dataset',))}: inference.yaml judges on dataset "
            f"{excerpt(str(judged_on))}, training.yaml trains on {excerpt(training.dataset)}; "
            "make them the same, or give --dataset for both"
        )
    try:
        return frames.resolve_dataset(
            training.dataset, repo_root, training.fps, training.preload_ratio, training.frame_size
        )
    except UsageProblem as exc:
        where = sources["training"].where(("dataset",))
        problems += [f"{where}: {problem}" for problem in exc.problems]
        return None
