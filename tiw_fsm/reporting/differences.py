"""``tiw-fsm runs diff A B``: what two runs were told differently, and what came of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tiw_fsm.errors import UsageProblem
from tiw_fsm.fsm.events import CHUNK_JUDGED
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting.wording import aligned, duration, not_begun, seconds_between, shown
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import places
from tiw_fsm.storage.state_folder import runs_in
from tiw_fsm.storage.store import Store
from tiw_fsm.values.plain import JsonObject
from tiw_fsm.values.printable import printable

OWN = frozenset({"run_root", "repo_root", "alignment", "needs_frames"})
"""Of the settings what no two runs have alike, or what follows from the rest."""
NAMES = {
    "data.path": "training.dataset",
    "data.preload_ratio": "training.preload_ratio",
    "device": "training.device",
    "engine": "--engine",
    "train_stage": "--train-stage",
    "python_exec": "--python-exec",
    **{f"warm_starts.{stage}": f"--{spec.flag}-checkpoint" for stage, spec in STAGES.items()},
}
"""Settings that are no keys of a YAML file by the same name, by what a user calls them."""
MADE_BY = ("data", "code", "torch", "device", "threads", "processes", "sharded")
"""Of the fingerprint, beside its configuration."""
FIGURES = ("mse", "skill", "delta_psnr", "motion")


class Side(NamedTuple):
    """One run: all that it was told, and what came of it, by the names of the keys and figures."""

    config: JsonObject
    result: JsonObject


def between(first: Store, second: Store) -> JsonObject:
    """What differs in configuration, and the results of both: of each key or figure its two values.

    Raises:
        UsageProblem: it is the same run twice, or one has not begun.
        StateDamaged: of one the state, the journal or the configuration cannot be used.
    """
    stores, names = (first, second), [store.paths.folder.name for store in (first, second)]
    if first.paths.folder.resolve() == second.paths.folder.resolve():
        raise UsageProblem(f"{names[0]} and {names[1]} are the same run; name two")
    found = [store.newest() for store in stores]
    others = runs_in(first.paths.folder.parent)
    if missing := [not_begun(name, others) for name, each in zip(names, found, strict=True) if each is None]:
        raise UsageProblem(missing)
    one, other = (_side(store, each.run) for store, each in zip(stores, found, strict=True) if each)
    differing = {key: pair for key, pair in _pairs(one.config, other.config).items() if pair[0] != pair[1]}
    return {"runs": names, "config": _folded(differing), "result": _pairs(one.result, other.result)}


def _pairs(one: JsonObject, other: JsonObject) -> dict[str, list[Any]]:
    return {key: [one.get(key), other.get(key)] for key in {**one, **other}}


def _side(store: Store, run: RunState) -> Side:
    config = store.config(run)
    flat = {NAMES.get(key, key): value for key, value in _flat(config)}
    if "training.dataset" in flat:
        flat["training.dataset"] = places.relative(flat["training.dataset"], Path(config["repo_root"]))
    made_by = {f"fingerprint.{key}": getattr(run.fingerprint, key) for key in MADE_BY} if run.fingerprint else {}
    return Side(flat | made_by, _result(store, run))


def _flat(config: JsonObject) -> Iterator[tuple[str, Any]]:
    """The keys of a configuration, those of a stage by its name, nested by dots."""
    for key, value in config.items():
        if key in ("stages", "engine_settings") and isinstance(value, dict):
            yield from _below(value, ())
        elif key not in OWN:
            yield from _below(value, (key,))


def _below(value: Any, above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _below(inner, (*above, str(key)))
    else:
        yield ".".join(above), value


def _folded(differing: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What differs alike in all stages stands once, as a key of training.yaml."""
    folded: dict[str, list[Any]] = {}
    for name, pair in differing.items():
        stage, _, key = name.partition(".")
        alike = stage in STAGES and all(differing.get(f"{each}.{key}") == pair for each in Stage)
        folded[f"training.{key}" if alike else name] = pair
    return folded


def _result(store: Store, run: RunState) -> JsonObject:
    losses = {
        line["facts"]["stage"]: line["facts"]["metrics"].get("final")
        for line in store.lines()
        if line["event"] in CHUNK_JUDGED
    }
    last = run.inference.attempts[-1] if run.inference.attempts else None
    return {
        "state": run.state.value,
        **{f"{stage.value}.updates": progress.completed for stage, progress in run.stages.items()},
        **{f"{stage.value}.loss": losses.get(stage) for stage in run.stages},
        "attempts": last.number if last else 0,
        **{name: getattr(last, name) if last else None for name in FIGURES},
        "wall_seconds": seconds_between(run.created_at, run.updated_at),
        "interruptions": run.interruptions,
        "retunes": run.retunes,
    }


# --- for people -------------------------------------------------------------------------------------------------


def table(found: JsonObject) -> list[str]:
    """Both runs in columns: what they were told differently, and what came of them."""
    config = found["config"] or {"(no difference)": ["", ""]}
    rows = [["config", *found["runs"]], *_rows(config), [], ["result", *found["runs"]], *_rows(found["result"])]
    return aligned(rows)


def _rows(pairs: Mapping[str, list[Any]]) -> list[list[str]]:
    return [[printable(key), *(_told(key, value) for value in pair)] for key, pair in pairs.items()]


def _told(key: str, value: Any) -> str:
    if key == "wall_seconds" and value is not None:
        return duration(value)
    if key in ("fingerprint.data", "fingerprint.code") and value is not None:
        return f"{value[:12]}…"
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable(shown(value))
