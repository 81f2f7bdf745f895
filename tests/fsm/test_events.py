"""The journal has a schema: what is recorded of everything that can happen to a run is what ``FACTS`` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from tests.support.configs import write_configs
from tests.support.eventful import die_in_dynamics
from tests.support.simulation import Simulation
from tiw_fsm.engines.protocol import Hello, HelloChanged, Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import DiskRefused, ExitCode, Interrupted
from tiw_fsm.fsm.events import CHUNK_JUDGED, FACTS, GATE_DECIDED, Event, Line, RunnerEvent
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import Runner, RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting.history import WORDS
from tiw_fsm.stages import Stage
from tiw_fsm.storage.store import Store
from tiw_fsm.values.frozen import Tuning

EVERYTHING = [*Event, *RunnerEvent]
TROUBLE = Script(
    losses={Stage.DYNAMICS: [7.0, 2.0]},
    mse=[0.5],
    crashes={Stage.DYNAMICS: 1},
    killed={Stage.DYNAMICS: 1},
    out_of_memory={Stage.DYNAMICS: 1},
    inference_crashes=1,
    device="another device",
)
"""A crash, a kill, a batch that does not fit, a rejected chunk, a dead inference, and gates that are never passed."""


class StopsEarly(SimulatedEngine):
    """Asked to stop after its first checkpoint, of which it has something to tell."""

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        result = super().train(request, progress)
        self.stop()
        return result.evolve(notes=["a note"])


class ComesBackAnother(SimulatedEngine):
    """Its first child computes otherwise than the one that said hello."""

    changed = False

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        if not self.changed:
            self.changed = True
            raise HelloChanged(Hello(device="yet another", torch=self.script.torch, threads=self.script.threads))
        return super().train(request, progress)


class HasNoSpace(SimulatedEngine):
    """The disk has no space for a checkpoint."""

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        raise DiskRefused("no space")


class LosesAResult(Store):
    """The first result of an inference is altered on the disk before it is judged."""

    lost = False

    def commit(self, before: RunState | None, after: RunState, event: str, facts: Any) -> RunState:
        committed = super().commit(before, after, event, facts)
        if committed.inference.pending and not self.lost:
            self.lost = True
            Path(committed.inference.pending.path).write_text("{}")
        return committed


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a run to which everything happens that can."""
    root = tmp_path_factory.mktemp("eventful")
    write_configs(root / "configs")
    simulation = Simulation(root)
    simulation.store = LosesAResult(simulation.store.paths.folder)
    with pytest.raises(Interrupted):
        simulation.run_with(StopsEarly())
    with pytest.raises(DiskRefused):
        simulation.run_with(HasNoSpace())
    die_in_dynamics(simulation)
    assert simulation.run_with(ComesBackAnother(TROUBLE), max_inference_retries=1) == ExitCode.NOT_PASSED
    die_in_dynamics(simulation, max_inference_retries=2, max_stalled_starts=0)
    assert simulation.run() == ExitCode.NOT_PASSED
    assert simulation.run(max_stalled_starts=9) == ExitCode.PASSED
    return simulation.store.journal()


def strict(kind: Any) -> Any:
    """``kind`` with a model in the place of every TypedDict in it: one that refuses other keys and types.

    pydantic itself takes typing's TypedDict from Python 3.12 on only.
    """
    if is_typeddict(kind):
        fields: dict[str, Any] = {
            name: (strict(get_args(hint)[0]), None) if get_origin(hint) is NotRequired else (strict(hint), ...)
            for name, hint in get_type_hints(kind, include_extras=True).items()
        }
        return create_model(kind.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)
    if get_origin(kind) is dict:
        return dict[tuple(map(strict, get_args(kind)))]  # type: ignore[misc]
    return kind


@pytest.mark.parametrize("event", EVERYTHING)
def test_what_is_recorded_of_an_event_is_what_its_schema_says(journal: list[dict[str, Any]], event: Event) -> None:
    schema = TypeAdapter(strict(FACTS[event]))
    found = [line["facts"] for line in journal if line["event"] == event]
    assert found, "the run of this test is to have every event"
    for facts in found:
        schema.validate_python(facts)
        with pytest.raises(ValidationError, match="another_key"):
            schema.validate_python({**facts, "another_key": 1})


def test_every_line_has_the_keys_and_types_of_a_line(journal: list[dict[str, Any]]) -> None:
    schema = TypeAdapter(strict(Line))
    for line in journal:
        assert line["from"] in (None, *State)
        assert line["to"] in list(State)
        schema.validate_python({key: value for key, value in line.items() if key != "from"})


def test_facts_that_are_values_of_their_own_can_be_read_as_such(journal: list[dict[str, Any]]) -> None:
    for line in journal:
        if line["event"] in CHUNK_JUDGED:
            Tuning.model_validate(line["facts"]["tuning"])
        if line["event"] in GATE_DECIDED:
            Attempt.model_validate(line["facts"]["attempt"])
        if "died" in line["facts"]:
            Runner.model_validate(line["facts"]["died"])


@pytest.mark.parametrize("key", ["notes", "died", "changed", "killed_by"])
def test_what_an_event_may_have_beside_is_among_what_was_seen(journal: list[dict[str, Any]], key: str) -> None:
    assert [line for line in journal if key in line["facts"]]


@pytest.mark.parametrize("schema", dict.fromkeys(FACTS.values()), ids=lambda schema: schema.__name__)
def test_a_fact_that_is_missing_is_refused(schema: type) -> None:
    needed = [
        name
        for name, hint in get_type_hints(schema, include_extras=True).items()
        if get_origin(hint) is not NotRequired
    ]
    for name in needed:
        with pytest.raises(ValidationError, match=rf"{name}\n  Field required"):
            TypeAdapter(strict(schema)).validate_python({})


def test_every_event_has_a_schema_and_words() -> None:
    assert list(FACTS) == EVERYTHING
    assert WORDS.keys() == set(EVERYTHING)
