"""What a run came to: everything that must be the same however often it was killed on its way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiw_fsm.stages import Stage
from tiw_fsm.storage.store import Store

TIMES_AND_NAMES = re.compile(
    r"(\d{4}[-_]\d\d[-_]\d\d[T_]\d\d[:_]\d\d[:_]\d\dZ?|\d{8}_\d{6})(_[\w.-]*?_[0-9a-f]{8}_\d+)?"
    r"|^- interruptions: \d+$",
    re.MULTILINE,
)
"""Points in time, as reports write them and, with the run's mark, as pictures and reports are named by them; and the
interruptions."""
TOLD_OF_CRASHES = ("Training calls", "Events")
"""Sections of the reports that tell how it went, not what came of it."""


def outcome(root: Path, run: str = "default") -> dict[str, Any]:
    """Weights, optimizers, metrics rows, verdicts, figures, counters, files and reports of an ended run.

    Left out is what may differ: times, the root's own name, the run's random id, crashes and interruptions.
    """
    store = Store(root / "state" / run)
    state = store.load()
    assert state is not None
    run_root = root / "results" / run
    progress = {
        stage: p.model_dump(
            mode="json",
            include={"target", "completed", "chunk_start", "attempt", "tuning", "schedule", "retries", "verdict"},
        )
        | {"checkpoint": p.checkpoint and p.checkpoint.sha256, "accepted": p.accepted and p.accepted.sha256}
        for stage, p in state.stages.items()
    }
    journal = store.journal()
    found = {
        "outcome": (state.outcome, state.reason),
        "stages": progress,
        "retunes": state.retunes,
        "attempts": [_without_names(attempt.model_dump(mode="json")) for attempt in state.inference.attempts],
        "gates": [_gate(line["facts"]) for line in journal if line["event"] in ("accepted", "rejected")],
        "retuned": [line["facts"] for line in journal if line["event"] == "retuned"],
        "figures": [
            _without_names(json.loads(path.read_bytes())) for path in sorted(run_root.glob("inference/attempt_*.json"))
        ],
        "bytes": {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted([*run_root.rglob("*.pt"), *run_root.rglob("*.jsonl")])
        },
        "files": sorted(str(path.relative_to(root)) for path in run_root.rglob("*")),
        "reports": [_told(Path(path).read_text()) for path in state.reports],
    }
    named: dict[str, Any] = json.loads(json.dumps(found).replace(str(root), "ROOT"))
    return named


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """What is not the same, a line for each smallest part."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected | found:
            yield from differences(expected.get(key), found.get(key), f"{where}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and all(isinstance(x, str) for x in expected + found):
        yield from (f"{where}: {line!r} is missing" for line in expected if line not in found)
        yield from (f"{where}: {line!r} is too many" for line in found if line not in expected)
    elif expected != found:
        yield f"{where}: {expected!r} became {found!r}"


def updates_missing_or_twice(root: Path, run: str = "default") -> list[str]:
    """Every attempt's rows count up one by one: no update is missing, none is there twice."""
    problems = []
    for stage in Stage:
        path = root / "results" / run / stage / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for before, after in pairwise(rows):
            if before["attempt"] == after["attempt"] and after["update"] != before["update"] + 1:
                problems.append(f"{stage}: update {after['update']} follows {before['update']}")
    return problems


def _gate(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in ("stage", "completed", "attempt", "decision", "reason", "metrics", "tuning")}


def _without_names(figures: dict[str, Any]) -> dict[str, Any]:
    """An attempt's figures without the name of its picture, which tells the time, its duration, and run ids."""
    return {key: value for key, value in figures.items() if key not in ("png", "seconds", "result_sha256")}


def _told(report: str) -> str:
    """A report without times, interruptions, and the sections that tell of crashes."""
    sections = re.split(r"^(?=## )", report, flags=re.MULTILINE)
    kept = [text for text in sections if not text.startswith(tuple(f"## {name}" for name in TOLD_OF_CRASHES))]
    return TIMES_AND_NAMES.sub("…", "".join(kept))
