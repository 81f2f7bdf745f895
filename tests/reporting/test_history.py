"""What a run tells of its past: ``tiw-fsm history`` and the ways marked in ``tiw-fsm graph``."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.events import Event, RunnerEvent
from tiw_fsm.reporting.history import WORDS, words
from tiw_fsm.reporting.wording import duration
from tiw_fsm.stages import Stage


@pytest.fixture
def eventful(simulation: Simulation) -> Simulation:
    """A crash, a rejected chunk and a retune on the way."""
    losses = {Stage.LATENT: [0.5, 0.02]}
    simulation.run(Script(mse=[0.5, 0.01], crashes={Stage.VIDEO: 1}, losses=losses))
    return simulation


def test_every_step_is_told_once_in_words(eventful: Simulation, tiw: Tiw) -> None:
    journal = eventful.store.journal()
    told = tiw(eventful.root, "history", "--all").stdout.splitlines()
    assert len(told) == len(journal) + 1
    assert told[-1].startswith(f"{len(journal)} of {len(journal)} steps")
    for line, step in zip(told, journal, strict=False):
        assert step["to"] in line
        assert words(step) in line


def test_checkpoints_in_a_row_are_one_line(simulation: Simulation, tiw: Tiw) -> None:
    write_configs(simulation.root / "configs", {"loop": {"checkpoint_interval": 1}})
    simulation.run()
    journal = simulation.store.journal()
    told = tiw(simulation.root, "history").stdout.splitlines()
    rows = [line for line in told if " checkpoint" in line]
    assert len(rows) < len(simulation.journal("saved")) / 2
    assert sum(int(re.search(r"(\d+) checkpoints,", row)[1]) for row in rows) == len(simulation.journal("saved"))  # type: ignore[index]
    assert told[-1].startswith(f"{len(journal)} of {len(journal)} steps")


def test_every_event_has_words() -> None:
    assert WORDS.keys() == {*Event, *RunnerEvent}


def test_a_script_gets_the_same_with_durations(eventful: Simulation, tiw: Tiw) -> None:
    entries = json.loads(tiw(eventful.root, "history", "--json").stdout)
    assert [entry["generation"] for entry in entries] == [line["generation"] for line in eventful.store.journal()]
    assert all(entry["seconds"] >= 0 and entry["what"] for entry in entries)


def test_only_the_steps_of_a_state_and_from_a_time_on(eventful: Simulation, tiw: Tiw) -> None:
    gates = json.loads(tiw(eventful.root, "history", "--state", "gate", "--json").stdout)
    assert [entry["event"] for entry in gates] == ["inferred", "gate_failed", "inferred", "gate_passed"]
    everything = json.loads(tiw(eventful.root, "history", "--since", "1d", "--json").stdout)
    assert len(everything) == len(eventful.store.journal())
    assert json.loads(tiw(eventful.root, "history", "--since", "2999-01-01", "--json").stdout) == []


@pytest.mark.parametrize("flags", [("--since", "yesterday"), ("--state", "SLEEP")])
def test_what_is_no_time_or_state_exits_2(eventful: Simulation, tiw: Tiw, flags: tuple[str, str]) -> None:
    done = tiw(eventful.root, "history", *flags)
    assert (done.returncode, flags[1] in done.stderr) == (ExitCode.USAGE, True)


def test_the_graph_counts_each_way_the_run_took(eventful: Simulation, tiw: Tiw) -> None:
    graph = tiw(eventful.root, "graph").stdout
    counts = {name: int(times) for name, times in re.findall(r": (\w+).* ×(\d+)$", graph, re.MULTILINE)}
    assert (counts["rejected"], counts["crashed"], counts["gate_failed"], counts["gate_passed"]) == (1, 1, 1, 1)
    steps_of_the_table = [event for event in eventful.events() if event in list(Event)]
    assert sum(map(int, re.findall(r" ×(\d+)$", graph, re.MULTILINE))) == len(steps_of_the_table)
    assert "class PASSED current" in graph


@pytest.mark.parametrize("command", ["history", "graph", "report"])
def test_an_altered_journal_is_said_to_be_damaged_and_not_told(simulation: Simulation, tiw: Tiw, command: str) -> None:
    simulation.run()
    journal = simulation.root / "state/default/journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"facts"', b'"fakes"', 1))  # still JSON, and as long as before
    done = tiw(simulation.root, command)
    assert done.returncode == ExitCode.DAMAGED
    assert "journal.jsonl is damaged" in done.stderr


def test_a_run_that_has_not_begun_says_how_to_begin_it(simulation: Simulation, tiw: Tiw) -> None:
    assert "`tiw-fsm run --run default` begins it" in tiw(simulation.root, "history").stdout


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3600, "1 h"), (7384, "2 h 3 min"), (90_061, "1 d 1 h"), (86_400 + 60, "1 d")],
)
def test_a_length_of_time_is_told_to_two_figures(seconds: float, said: str) -> None:
    assert duration(seconds) == said
