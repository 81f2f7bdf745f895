"""The updates that a run's state vouches for, row by row: what each measured, and whether it counts still."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.fsm.events import CHUNK_JUDGED, Event
from tiw_fsm.fsm.run_state import StageProgress
from tiw_fsm.reporting.wording import not_begun
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.storage.state_folder import runs_in
from tiw_fsm.storage.store import Store
from tiw_fsm.system.append_log import AppendLog
from tiw_fsm.values.plain import JsonObject, LogPosition


class Row(NamedTuple):
    """One update.

    Attributes:
        kept: it is part of the run; else its chunk was rejected, or its stage began anew since.
        values: as its line in the metrics file has them; ``update`` counts from 0.
    """

    stage: Stage
    kept: bool
    values: JsonObject


class Undone:
    """Which updates of a run no longer count: whenever a gate rejects a chunk, the stage goes back."""

    def __init__(self, journal: Iterable[JsonObject] = ()) -> None:
        rejected = defaultdict[str, list[tuple[int, int]]](list)
        begins: dict[str, int] = {}
        for line in journal:
            for stage, changed in line["changes"].get("stages", {}).items():
                begins[stage] = changed.get("chunk_start", begins.get(stage, 0))
            if line["event"] in CHUNK_JUDGED:
                stage, attempt = line["facts"]["stage"], line["facts"]["attempt"]
                if rejected[stage] and rejected[stage][-1][0] == attempt:  # a run that was reopened judges it again
                    rejected[stage].pop()
                if line["event"] == Event.REJECTED:
                    rejected[stage].append((attempt, begins[stage]))
        self._attempts = {stage: [attempt for attempt, _ in of] for stage, of in rejected.items()}
        # The earliest update that a stage went back to in this rejection or a later one.
        backs = {stage: accumulate((back for _, back in reversed(of)), min) for stage, of in rejected.items()}
        self._back = {stage: list(of)[::-1] for stage, of in backs.items()}

    def __call__(self, stage: Stage, attempt: int, update: int) -> bool:
        """Whether this update of a chunk attempt no longer counts."""
        attempts = self._attempts.get(stage, [])
        later = bisect_left(attempts, attempt)
        return later < len(attempts) and update >= self._back[stage][later]


class Committed:
    """The metrics rows of a run, as its newest state vouches for them. They are read one at a time, however many."""

    def __init__(self, store: Store) -> None:
        """
        Raises:
            UsageProblem: the run has not begun.
            StateDamaged: its state or its journal cannot be trusted.
        """
        found = store.newest()
        if found is None:
            raise UsageProblem(not_begun(store.paths.folder.name, runs_in(store.paths.folder.parent)))
        self.undone = Undone(store.lines(found))
        self.stages: dict[Stage, StageProgress] = {}
        self._logs: dict[Stage, AppendLog] = {}
        if found.run.fingerprint:
            paths = RunPaths(Path(found.run.fingerprint.config["run_root"]), Path(found.run.root))
            self.stages = {stage: found.run.stages[stage] for stage in Stage if stage in found.run.stages}
            self._logs = {stage: AppendLog(paths.metrics(stage)) for stage in self.stages}

    def rows(self, stage: Stage) -> Iterator[Row]:
        """The rows of one stage, in the order in which they were made.

        Raises:
            DiskRefused, StateDamaged: the metrics are not what the state vouches for.
        """
        log = self._logs[stage]
        for number, line in enumerate(log.lines(LogPosition(), self.stages[stage].metrics), start=1):
            try:
                values = json.loads(line)
                kept = not self.undone(stage, int(values["attempt"]), int(values["update"]))
            except (ValueError, TypeError, LookupError, RecursionError) as exc:
                raise StateDamaged(f"{log.path}:{number}: is no row of metrics ({exc})") from exc
            yield Row(stage, kept, values)
