"""Every file name this tool uses, as properties of two classes: a run's state folder, and its artifacts."""

from __future__ import annotations

from pathlib import Path

from tiw_fsm.stages import Stage

LARGEST_RESULT = 1 << 26
"""Bytes of an attempt's result file: it has some figures for each step."""


class StatePaths:
    """Files under ``<state dir>/<run>/``, where a run's memory lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def state(self) -> Path:
        """The one commit point."""
        return self.folder / "state.json"

    @property
    def previous(self) -> Path:
        """The generation before."""
        return self.folder / "state.prev.json"

    @property
    def journal(self) -> Path:
        """One line per generation, append-only."""
        return self.folder / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Held by flock for the life of a runner."""
        return self.folder / "lock"

    @property
    def log(self) -> Path:
        """What the runner said, as JSON lines."""
        return self.folder / "log.jsonl"

    @property
    def child_log(self) -> Path:
        """What the child process wrote to its standard output and error."""
        return self.folder / "child.log"

    @property
    def child_result(self) -> Path:
        """Where the child leaves its answer to the request in hand."""
        return self.folder / "child_result.json"

    @property
    def config(self) -> Path:
        """The effective configuration of the last start."""
        return self.folder / "config.json"

    @property
    def on_finish(self) -> Path:
        """The command to run at the end: for its owner alone, as it may have a password in it."""
        return self.folder / "on_finish"

    @property
    def refused(self) -> Path:
        """Why the last start was refused, if it was."""
        return self.folder / "refused.json"

    @property
    def trackers(self) -> Path:
        """A folder for each tracker that the run feeds."""
        return self.folder / "trackers"

    def tracker_lock(self, tracker: str) -> Path:
        """Held by flock by the process that feeds the tracker."""
        return self.trackers / tracker / "lock"

    def tracker_status(self, tracker: str) -> Path:
        """How far the tracker is, and what it failed for."""
        return self.trackers / tracker / "status.json"

    @property
    def trackers_log(self) -> Path:
        """What the trackers' processes wrote to their standard output and error."""
        return self.folder / "trackers.log"

    @property
    def page(self) -> Path:
        """The run as one HTML page; made anew from the rest at any time."""
        return self.folder / "report.html"


class RunPaths:
    """Artifacts under the run root, and those the seed's document places under the working root."""

    def __init__(self, run_root: Path, repo_root: Path) -> None:
        self.run_root = run_root
        self.repo_root = repo_root

    def checkpoints(self, stage: Stage) -> Path:
        """TinyWorlds' checkpoint folder of a stage."""
        return self.run_root / stage / "checkpoints"

    def warm_start(self, stage: Stage) -> Path:
        """The run's own copy of the checkpoint that a stage began from."""
        return self.run_root / stage / "warm_start"

    def visualizations(self, stage: Stage) -> Path:
        """One picture per chunk attempt, of the newest ones."""
        return self.run_root / stage / "visualizations"

    def chunk_picture(self, stage: Stage, update: int | str, attempt: int | str) -> Path:
        """The picture after a chunk's last update. A pattern in the place of a number gives a pattern."""
        return self.visualizations(stage) / f"{stage}_step_{update}_attempt_{attempt}.png"

    def metrics(self, stage: Stage) -> Path:
        """One JSON line per update."""
        return self.run_root / stage / "metrics.jsonl"

    def attempt(self, number: int) -> Path:
        """Every figure of one inference attempt."""
        return self.run_root / "inference" / f"attempt_{number}.json"

    def attempt_log(self, number: int) -> Path:
        """The lines TinyWorlds' inference script would print."""
        return self.run_root / "inference" / f"attempt_{number}.log"

    def tensorboard(self, run_id: str, repeat: int) -> Path:
        """The event file that TensorBoard reads; what is told of an update for another time lies in one of its own."""
        folder = self.run_root / "tensorboard" / (f"repeat_{repeat}" if repeat else "")
        return folder / f"events.out.tfevents.{run_id[:8]}"

    @property
    def owner(self) -> Path:
        """Which run the run root belongs to."""
        return self.run_root / "owner.json"

    @property
    def lock(self) -> Path:
        """Held by flock while a runner works in the run root."""
        return self.run_root / "lock"

    @property
    def replaced_in(self) -> list[Path]:
        """Folders of this run alone, in which files are replaced."""
        return [self.run_root, self.run_root / "inference", *map(self.visualizations, Stage)]

    @property
    def inference_results(self) -> Path:
        """Ground truth against prediction, as pictures."""
        return self.repo_root / "inference_results"

    @property
    def reports(self) -> Path:
        """The Markdown reports."""
        return self.repo_root / "docs" / "action"
