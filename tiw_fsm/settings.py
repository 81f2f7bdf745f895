"""From YAML files and typed flags to one run's effective ``Settings``, with every problem found told at once.

Precedence: typed flag, then training.yaml, then the stage's own file, then the built-in default.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from tiw_fsm import alignment, dialect, frames
from tiw_fsm.config import (
    CheckoutSettings,
    DataSource,
    DynamicsFile,
    InferenceConfig,
    InferenceFile,
    LoopConfig,
    Settings,
    StageConfig,
    StageFile,
    TrainingFile,
    Value,
)
from tiw_fsm.errors import UsageProblem
from tiw_fsm.stages import Stage


class YamlKind(NamedTuple):
    """One of the YAML files: its flag, its schema and whether it may be missing."""

    name: str
    flag: str
    schema: type[Value]
    optional: bool = False


FILES = {
    kind.name: kind
    for kind in (
        YamlKind("training", "training_config", TrainingFile),
        YamlKind("video_tokenizer", "video_config", StageFile),
        YamlKind("latent_actions", "latent_config", StageFile),
        YamlKind("dynamics", "dynamics_config", DynamicsFile),
        YamlKind("inference", "inference_config", InferenceFile),
        YamlKind("loop", "loop_config", LoopConfig, optional=True),
    )
}

OVERRIDES: dict[str, tuple[str, ...]] = {
    "dataset": ("training.dataset", "inference.dataset"),
    "device": ("training.device", "inference.device"),
    "target_updates": ("training.n_updates",),
    "init_learning_rate": ("training.learning_rate",),
    "init_grad_accum": ("training.gradient_accumulation_steps",),
    "init_batch_size": ("training.batch_size_per_gpu",),
    "init_log_interval": ("training.log_interval",),
    "generation_steps": ("inference.generation_steps",),
    "context_window": ("inference.context_window",),
    "prediction_horizon": ("inference.prediction_horizon",),
    "decode_steps": ("inference.decode_steps",),
    "preload_ratio": ("inference.preload_ratio",),
    "temperature": ("inference.temperature",),
    "teacher_forced": ("inference.teacher_forced",),
    "seed": ("loop.seed", "inference.seed"),
    "video_chunk": ("loop.chunks.video_tokenizer",),
    "latent_chunk": ("loop.chunks.latent_actions",),
    "dynamics_chunk": ("loop.chunks.dynamics",),
    "max_mse": ("loop.inference.max_mse",),
    "allow_trivial": ("loop.inference.allow_trivial",),
    "max_train_retries": ("loop.budgets.max_train_retries",),
    "max_inference_retries": ("loop.budgets.max_inference_retries",),
    "max_crashes": ("loop.budgets.max_crashes",),
    "max_stalled_starts": ("loop.budgets.max_stalled_starts",),
    "retry_chunk": ("loop.retune.chunk",),
    "retry_init_learning_rate": ("loop.retune.init_learning_rate",),
    "retry_lr_decay": ("loop.retune.lr_decay",),
    "retry_lr_floor": ("loop.retune.lr_floor",),
}
"""Typed flag → the YAML keys it overrides (file.key, nested by dots)."""

WARM_START_FLAGS = {
    Stage.VIDEO: "video_checkpoint",
    Stage.LATENT: "latent_checkpoint",
    Stage.DYNAMICS: "dynamics_checkpoint",
}


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


V = TypeVar("V", bound=Value)


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


def _validated(schema: type[V], data: Mapping[str, Any], source: Source, problems: list[str]) -> V | None:
    try:
        return schema.model_validate_json(json.dumps(data, default=str))
    except ValidationError as exc:
        for error in exc.errors():
            name = ".".join(str(part) for part in error["loc"] if part != "[key]")
            meaning = schema.meaning(str(error["loc"][0])) if error["loc"] else None
            if error["type"] == "extra_forbidden":
                message = "unknown key; remove it, or correct its spelling"
            else:
                given = f", not {error['input']!r}" if error["type"] != "missing" else ""
                message = error["msg"].removeprefix("Value error, ") + given
            explained = f" ({meaning})" if meaning else ""
            problems.append(f"{source.where(error['loc'])}: {name}: {message}{explained}")
        return None


def _deep_merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load_settings(flags: Mapping[str, Any], *, run: str, repo_root: Path) -> Settings:
    """Merge files and ``flags`` (typed flags only, by name) into the effective settings.

    Raises:
        UsageProblem: anything is missing, unknown, mistyped, impossible or misaligned; all of it at once.
    """
    try:
        return _load_settings(flags, run, repo_root.resolve())
    except OSError as exc:
        raise UsageProblem(f"{exc.filename}: {exc.strerror}; correct the path") from exc


def _load_settings(flags: Mapping[str, Any], run: str, repo_root: Path) -> Settings:
    problems: list[str] = []
    sources = _read_sources(flags, repo_root, problems)
    on_disk = {name: dict(source.data) for name, source in sources.items()}
    _apply_flags(sources, flags)
    parsed = {}
    for name, source in sources.items():
        defaults = LoopConfig().model_dump(mode="json") if name == "loop" else {}
        parsed[name] = _validated(FILES[name].schema, _deep_merge(defaults, source.data), source, problems)
    problems += alignment.misaligned(on_disk, lambda name, key: sources[name].where((key,)))
    training, inference, loop = parsed["training"], parsed["inference"], parsed["loop"]
    engine, checkout = flags.get("engine", "native"), None
    if engine == "checkout":
        checkout = _checkout(flags, parsed, sources, repo_root, problems)
    else:
        problems += _refused_features(parsed, sources)
        if flags.get("nproc_per_node", 1) > 1:
            problems.append(
                "--nproc-per-node: the native engine trains in one process for now; leave it out, or give 1"
            )
    stages = _stage_configs(parsed, sources, problems)
    gate = data = None
    if isinstance(inference, InferenceFile):
        gate = _validated(InferenceConfig, _said(inference, InferenceConfig), sources["inference"], problems)
        if isinstance(training, TrainingFile):
            data = _data_source(training, inference, repo_root, problems)
    train_stage = flags.get("train_stage", "all")
    warm_starts = {s: str(repo_root / flags[flag]) for s, flag in WARM_START_FLAGS.items() if flags.get(flag)}
    problems += [
        f"--train-stage {train_stage} does not train {stage}, so its checkpoint is needed: "
        f"give --{WARM_START_FLAGS[stage].replace('_', '-')} PATH"
        for stage in Stage
        if train_stage not in ("all", stage.value) and stage not in warm_starts
    ]
    python_exec = _interpreter(flags, repo_root, problems)
    if problems:
        raise UsageProblem(dict.fromkeys(problems))
    assert isinstance(training, TrainingFile)
    assert isinstance(inference, InferenceFile)
    assert isinstance(loop, LoopConfig)
    assert gate is not None
    assert data is not None
    return Settings(
        run_root=str(repo_root / flags.get("run_root", f"results/{run}")),
        repo_root=str(repo_root),
        data=data,
        device=training.device or inference.device or "auto",
        train_stage=train_stage,
        stages=stages,
        inference=gate,
        loop=loop,
        warm_starts=warm_starts,
        engine=engine,
        python_exec=python_exec,
        checkout=checkout,
        alignment=alignment.table(on_disk, lambda name, key: sources[name].where((key,))),
    )


def _stage_configs(
    parsed: Mapping[str, Value | None], sources: Mapping[str, Source], problems: list[str]
) -> dict[Stage, StageConfig]:
    """What each stage trains with: training.yaml first, then the stage's own file."""
    training, stages = parsed["training"], {}
    for stage in Stage:
        file = parsed[stage.value]
        if isinstance(training, TrainingFile) and isinstance(file, StageFile):
            values = {**_said(file, StageConfig), **_said(training, StageConfig)}
            config = _validated(StageConfig, values, sources[stage.value], problems)
            if config is not None:
                stages[stage] = config
    return stages


def _checkout(
    flags: Mapping[str, Any],
    parsed: Mapping[str, Value | None],
    sources: Mapping[str, Source],
    repo_root: Path,
    problems: list[str],
) -> CheckoutSettings | None:
    """What the checkout engine needs; what is wrong with the checkout itself is added to ``problems``."""
    run_root = repo_root / flags.get("run_root", "results")
    problems += [unwritable(path) or "" for path in (repo_root, run_root) if unwritable(path)]
    try:
        found = dialect.read(repo_root)
    except UsageProblem as exc:
        problems += exc.problems
        return None
    training, inference = parsed["training"], parsed["inference"]
    if not isinstance(training, TrainingFile) or not isinstance(inference, InferenceFile):
        return None
    name = (training.dataset or "").upper()
    if training.dataset and name not in found.datasets:
        problems.append(
            f"{sources['training'].where(('dataset',))}: dataset {training.dataset!r} is none that this checkout "
            f"knows; it knows {', '.join(found.datasets)} (data/<name>_frames.h5 under its root)"
        )
    processes = flags.get("nproc_per_node") or training.nproc_per_node or 1
    torchrun = flags.get("torchrun")
    if torchrun is not None and not (repo_root / torchrun).is_file():
        problems.append(f"--torchrun {torchrun}: no such file; give the path of torchrun, beside the checkout's python")
    if torchrun is None and flags.get("nproc_per_node", 1) > 1:
        problems.append("--nproc-per-node above 1 needs torchrun: give its path with --torchrun")
    return CheckoutSettings(
        dataset=name,
        configs={name: source.label for name, source in sources.items()},
        torchrun=str(repo_root / torchrun) if torchrun else None,
        processes=processes if torchrun else 1,
        processes_typed="nproc_per_node" in flags,
        shards=bool((training.distributed or {}).get("use_fsdp")),
        mixture=any(getattr(file, "use_moe", None) for file in (training, parsed["dynamics"])),
        sample_index=inference.sample_index,
    )


def unwritable(path: Path) -> str | None:
    """Why nothing can be written to ``path``, which need not exist yet; None if it can."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK) and os.statvfs(there).f_blocks:
        return None
    what = "is no folder" if not there.is_dir() else "cannot be written to"
    return f"{path}: {there} {what}; mend its permissions, or give another --repo-root or --run-root"


def _interpreter(flags: Mapping[str, Any], repo_root: Path, problems: list[str]) -> str:
    """The child's interpreter. Not resolved: a virtual environment's python is a link, and must stay one."""
    typed = flags.get("python_exec")
    if typed is None:
        return sys.executable
    path = repo_root / typed
    if not path.is_file():
        needs = "the checkout's requirements" if flags.get("engine") == "checkout" else "tiw_fsm"
        problems.append(f"--python-exec {typed}: no such file; give the path of a Python that has {needs} installed")
    return str(path)


def _read_sources(flags: Mapping[str, Any], repo_root: Path, problems: list[str]) -> dict[str, Source]:
    sources = {}
    config_dir = repo_root / flags.get("config_dir", "configs")
    for name, kind in FILES.items():
        typed = flags.get(kind.flag)
        path = repo_root / typed if typed else config_dir / f"{name}.yaml"
        if path.is_file():
            sources[name] = Source.read(path, problems)
            continue
        sources[name] = Source(label=str(path))
        if typed or not kind.optional:
            flag = kind.flag.replace("_", "-")
            problems.append(f"{path}: no such file; create it, or name another with --{flag} or --config-dir")
    return sources


def _apply_flags(sources: dict[str, Source], flags: Mapping[str, Any]) -> None:
    for flag, targets in OVERRIDES.items():
        if flags.get(flag) is not None:
            for target in targets:
                name, *keys = target.split(".")
                sources[name].override(keys, flags[flag], "--" + flag.replace("_", "-"))


def _said(file: Value, schema: type[Value]) -> dict[str, Any]:
    """What a file says of the keys that ``schema`` knows."""
    return {k: v for k, v in file.model_dump(mode="json").items() if v is not None and k in schema.model_fields}


def _data_source(
    training: TrainingFile, inference: InferenceFile, repo_root: Path, problems: list[str]
) -> DataSource | None:
    if training.dataset is None:
        problems.append(f"training.yaml names no dataset; {frames.known_datasets()}")
        return None
    if inference.dataset not in (None, training.dataset):
        problems.append(
            f"inference.yaml judges on dataset {inference.dataset}, training.yaml trains on {training.dataset}; "
            "make them the same, or give --dataset for both"
        )
    try:
        source = frames.resolve_dataset(training.dataset, repo_root, training.fps)
    except UsageProblem as exc:
        problems += exc.problems
        return None
    return DataSource(
        path=str(source.path), skip=source.skip, stride=source.stride, preload_ratio=training.preload_ratio
    )


REFUSED = {
    "optimizer": ("adamw", "the native engine trains with AdamW only"),
    "use_moe": (False, "the native engine has no mixture of experts"),
}
"""Keys of newer TinyWorlds accepted at their default: what the default is, and why not otherwise."""


def _refused_features(parsed: Mapping[str, Value | None], sources: Mapping[str, Source]) -> list[str]:
    problems = []
    for name, file in parsed.items():
        for key, (default, reason) in REFUSED.items():
            value = getattr(file, key, None)
            if value not in (None, default):
                where = sources[name].where((key,))
                problems.append(f"{where}: {key}: {value} is refused because {reason}; set {key}: {default}")
    return problems
