"""What the Markdown reports are made of: the run, its journal and settings, and links to its files.

Loss curves come from the metrics files and figures per step from the attempts' result files; the reports link to them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tiw_fsm.config.settings import Settings
from tiw_fsm.errors import disk_errors
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting import processes
from tiw_fsm.reporting.journal import best_of
from tiw_fsm.reporting.markdown.tables import Lines, Markdown, bullets, code, escaped, link
from tiw_fsm.reporting.past import Past
from tiw_fsm.stages import Stage
from tiw_fsm.storage import places
from tiw_fsm.storage.paths import RunPaths, StatePaths
from tiw_fsm.storage.store import document_of
from tiw_fsm.values.plain import JsonObject


@dataclass
class ReportData:
    """Everything the reports tell of, and links to it."""

    run: RunState
    past: Past
    settings: Settings
    paths: RunPaths
    state: StatePaths
    names: Mapping[str, str]
    """File names of the three reports."""
    curves: Path | None

    def __post_init__(self) -> None:
        self.steps = self.past.steps
        self.attempts = self.past.attempts
        self.best = best_of(self.attempts)

    @property
    def keys_used(self) -> bool:
        """Whether the world that was judged had been told recorded keys in training."""
        return any(attempt.keys_used for attempt in self.attempts)

    def link(self, path: str | Path | None, label: str | None = None) -> Markdown:
        """A link that works from the reports' folder; only the name, when there is no such file."""
        if path is None:
            return Markdown("none")
        name = label or self.name(path)
        return link(name, self._relative(path)) if Path(path).exists() else escaped(f"{name} (gone)")

    def picture(self, path: str | Path | None, title: str) -> Lines:
        """An embedded picture with the name of its file, if there is one."""
        if path is None or not Path(path).exists():
            return []
        return [f"![{title}]({self._relative(path)})", "", f"{title}: {self.link(path)}", ""]

    def name(self, path: str | Path) -> str:
        """A path as seen from the working root, if it lies below it: reports move with it."""
        return places.relative(str(path), self.paths.repo_root)

    def _relative(self, path: str | Path) -> str:
        return quote(os.path.relpath(path, self.paths.reports))

    def result(self, attempt: Attempt) -> JsonObject:
        """The attempt's file with every figure; empty when it is gone, or not what inference left."""
        path = Path(attempt.result) if attempt.result else None
        if path is None or not path.exists():
            return {}
        with disk_errors("reading", path):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != attempt.result_sha256:
            return {}
        found: JsonObject = json.loads(content)
        return found

    def sources(self) -> Lines:
        """Which files the numbers come from."""
        files = [self.paths.metrics(stage) for stage in Stage if self.paths.metrics(stage).exists()]
        return [
            "## Where the numbers come from",
            "",
            f"- gates, decisions, tuning, events: {self.link(self.state.journal)}",
            *(f"- losses: {self.link(file)}" for file in files),
            *(
                f"- figures of attempt {a.number}: {self.link(a.result)}"
                + ("" if self.result(a) else " (gone or altered since, so not used)")
                for a in self.attempts
                if a.result
            ),
            *(f"- see also: [{name}]({name})" for name in self.names.values()),
        ]

    def curves_section(self) -> Lines:
        return ["## Loss curves", "", *(self.picture(self.curves, "Loss curves") or ["No update was recorded.", ""])]


def overview(data: ReportData) -> Lines:
    run = data.run
    return [
        *bullets(
            {
                "status": Markdown(f"**{'failed' if run.failed_in else 'passed'}**"),
                "reason": run.reason,
                "run root": data.name(data.settings.run_root),
                "trained stages": run.train_stage,
                "device": run.fingerprint.device if run.fingerprint else None,
                "processes": processes.where(document_of(run)),
                "began": run.created_at or None,
                "recorded keys": "a hint to the latent actions in training" if data.keys_used else None,
                "retunes": run.retunes,
                "interruptions": run.interruptions,
                "not in these tables": _left_out(data),
            }
        )[:-1],
        *_inexact(run),
        "",
    ]


def _left_out(data: ReportData) -> str | None:
    """The tables hold the newest of many steps."""
    older, attempts = data.past.older, data.past.judged - len(data.attempts)
    if not older and not attempts:
        return None
    command = code(f"tiw-fsm history --all --run {data.run.run}")
    return Markdown(f"{older} older steps and {attempts} older attempts: {command} has them")


def _inexact(run: RunState) -> Lines:
    """From where on the run is not bitwise what one machine would have made."""
    begins = "- **no longer bitwise the same run** from update"
    return [f"{begins} {i.completed} of {i.stage or 'no stage'} on: {escaped(i.what)}" for i in run.inexact]
