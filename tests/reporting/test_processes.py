"""What a run of several processes tells of them; and that one of a single process is as terse as ever."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.reporting.html.reading import html
from tests.reporting.html.reading import words as words_of
from tests.reporting.markdown.reading import KINDS, report, rows, section
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.engines.protocol import Hello, HelloRequest, Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import SimulatedEngine
from tiw_fsm.errors import EngineCrashed, Interrupted
from tiw_fsm.fsm.run_state import Host
from tiw_fsm.reporting import processes
from tiw_fsm.reporting.history import gist
from tiw_fsm.reporting.status import status
from tiw_fsm.stages import Stage
from tiw_fsm.storage.state_folder import StateFolder
from tiw_fsm.values.death import Killer

HOSTS = [Host(name="alpha", device="NVIDIA H200", processes=2), Host(name="beta", device="NVIDIA H200", processes=2)]
WHERE = "2 on alpha (NVIDIA H200), 2 on beta (NVIDIA H200)"
TRACEBACK = 'Traceback (most recent call last):\n  File "training.py", line 1\nRuntimeError: no such tensor\n'


class ManyProcesses(SimulatedEngine):
    """Four on two machines, unless ``said`` otherwise, of which one dies once; asked to stop when dynamics begin, if
    ``stops``."""

    def __init__(self, *, stops: bool = False, **said: Any) -> None:
        super().__init__()
        self.stops, self.died = stops, False
        self.said = {"processes": 4, "meant_for": 4, "sharded": True, "hosts": HOSTS} | said

    def hello(self, request: HelloRequest) -> Hello:
        return super().hello(request).evolve(**self.said)

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        if not self.died:
            self.died = True
            raise EngineCrashed(f"process 2 of 4, on beta: {TRACEBACK}", killed_by=Killer.OWN)
        if self.stops and request.stage is Stage.DYNAMICS:
            raise Interrupted("asked to stop before the first update")
        return super().train(request, progress)


def test_status_tells_who_computes_and_how_the_open_stages_share_their_updates(
    simulation: Simulation, tiw: Tiw
) -> None:
    with pytest.raises(Interrupted):
        simulation.run_with(ManyProcesses(meant_for=2, stops=True))
    told = dict(re.findall(r"^(\w+) +(.*)$", tiw(simulation.root, "status").stdout, re.MULTILINE))
    assert told["processes"] == f"{WHERE}, sharded, with batch sizes meant for 2"
    assert ", 16 clips an update: 4 processes × 1 pass × 4 clips" in told["dynamics"]
    assert "an update" not in told["video_tokenizer"]
    page = words_of(html(simulation))
    assert f"processes: {told['processes']}" in page
    assert page.count("16 clips an update: 4 processes × 1 pass × 4 clips") == 1
    found = status(StateFolder(simulation.store.paths.folder))
    assert (found["processes"], found["hosts"]) == (2, [host.model_dump() for host in HOSTS])
    assert (found["fingerprint"]["processes"], found["fingerprint"]["sharded"]) == (4, True)
    assert found["stages"]["video_tokenizer"]["batch"] == {"clips": 8, "processes": 4, "passes": 1, "each": 2}


def test_an_update_that_so_many_processes_cannot_share_is_told_as_unknown() -> None:
    """As of a stage that was done when another number took over, and that a retune has reopened."""
    tuning = {"batch_size_per_gpu": 4, "gradient_accumulation_steps": 1}
    run = {
        "processes": 1,
        "fingerprint": {"processes": 5},
        "stages": {Stage.VIDEO: {"completed": 5, "target": 9, "tuning": tuning}},
    }
    assert (processes.share(run, Stage.VIDEO), processes.shared(run, Stage.VIDEO)) == (None, None)


def test_history_page_and_reports_name_the_machines_and_who_died(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run_with(ManyProcesses(sharded=False))
    death = "the process died: process 2 of 4, on beta: RuntimeError: no such tensor"
    aligned, died, *_ = tiw(simulation.root, "history").stdout.splitlines()
    assert aligned.endswith(f"training in processes: {WHERE}")
    assert died.endswith(death)
    page = words_of(html(simulation))
    assert f"{WHERE}, replicated" in page
    assert death in page
    runtime = report(simulation, KINDS[0])
    assert f"- processes: {WHERE}, replicated\n" in runtime
    assert death in runtime
    assert [row["machine"] for row in rows(section(runtime, "Processes"))] == ["alpha", "beta"]
    assert "| dynamics | 32 | 4 | 2 | 4 |" in section(runtime, "Processes")


def test_a_start_on_other_machines_is_in_the_history(simulation: Simulation, tiw: Tiw) -> None:
    with pytest.raises(Interrupted):
        simulation.run_with(ManyProcesses(stops=True))
    simulation.run_with(ManyProcesses())
    assert f"resumed; processes: {WHERE}" in tiw(simulation.root, "history").stdout


def test_a_single_process_is_not_worth_a_word(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    told = [tiw(simulation.root, command).stdout for command in ("status", "history")]
    told += [words_of(html(simulation)), report(simulation, KINDS[0])]
    assert not [text for text in told if "an update" in text or "processes" in text.lower()]
    found = status(StateFolder(simulation.store.paths.folder))
    assert (found["processes"], found["stages"]["dynamics"]["batch"]["clips"]) == (1, 8)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TRACEBACK, "RuntimeError: no such tensor"),
        (f"process 1 of 2, on beta: {TRACEBACK}", "process 1 of 2, on beta: RuntimeError: no such tensor"),
        ("one of its processes on beta was ended by SIGKILL", "one of its processes on beta was ended by SIGKILL"),
        ("the child ended with status 1\nKilled", "Killed"),
        ("", "no message"),
    ],
)
def test_the_gist_of_an_error_says_whose_it_is(error: str, said: str) -> None:
    assert gist(error) == said
