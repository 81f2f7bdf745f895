"""The schema of the journal: what can happen to a run, and which facts are recorded when it does.

Events of ``Event`` move the machine; those of ``RunnerEvent`` tell of the processes that run it. Every line has the
keys of ``Line``, and its ``facts`` are of the class that ``FACTS`` names for its event. Values are plain JSON.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NotRequired, TypedDict

from tiw_fsm.values.death import Killer
from tiw_fsm.values.plain import JsonObject


class Event(StrEnum):
    """What can happen to a run, as the machine's table has it."""

    ALIGNED = "aligned"
    SAVED = "saved"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CRASHED = "crashed"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    INFERRED = "inferred"
    RESULT_LOST = "result_lost"
    GATE_PASSED = "gate_passed"
    GATE_FAILED = "gate_failed"
    RETUNED = "retuned"
    REPORTED = "reported"
    STALLED = "stalled"
    REOPENED = "reopened"


class RunnerEvent(StrEnum):
    """What can happen to the process that runs a run; the state stays where it is."""

    STARTED = "started"
    INTERRUPTED = "interrupted"
    CHANGED = "changed"
    REFUSED = "refused"


class Line(TypedDict):
    """One line of the journal: one generation of the state."""

    generation: int
    time: str
    """UTC, ISO 8601."""
    event: str
    to: str
    """The state after it; ``from``, which Python cannot name here, is the one before, null in the first line."""
    facts: JsonObject
    changes: JsonObject
    """The JSON merge patch (RFC 7396) that makes this generation's state of the one before."""


# --- facts ------------------------------------------------------------------------------------------------------


class NoFacts(TypedDict):
    """The event says it all."""


class Aligned(TypedDict):
    """Configs and data are in order."""

    warm_starts: dict[str, str]
    """Checkpoint that each stage begins from, by stage."""
    device: str
    hosts: NotRequired[list[JsonObject]]
    """Fields of each ``Host``; where several processes train."""


class Saved(TypedDict):
    """A checkpoint was committed."""

    stage: str
    completed: int
    """Updates that it contains."""
    checkpoint: str
    seconds: float
    """Time inside its updates."""
    notes: NotRequired[list[str]]
    """What the engine lost, repeated or did otherwise than asked, in sentences."""


class Judged(TypedDict):
    """A stage gate has decided on a chunk."""

    stage: str
    completed: int
    attempt: int
    """Number of the chunk attempt."""
    decision: str
    reason: str
    metrics: dict[str, float]
    tuning: JsonObject
    checkpoint: str | None
    accepted: str | None
    picture: str | None


class Died(TypedDict):
    """A child died; of a stage, or of an inference attempt."""

    stage: NotRequired[str]
    completed: NotRequired[int]
    attempt: NotRequired[int]
    """Number of the inference attempt."""
    error: str
    killed_by: NotRequired[str]
    """One of ``values.death.Killer``; older journals do not say."""


class AttemptNumber(TypedDict):
    """An inference attempt, by its number."""

    attempt: int


class GateDecided(TypedDict):
    """The inference gate has decided."""

    attempt: JsonObject
    """Fields of ``Attempt``."""
    error: str | None


class Goal(TypedDict):
    """What a retune trains a stage to."""

    target: int
    learning_rate: float


class Retuned(TypedDict):
    """What a failed gate's row has planned."""

    retune: int
    stages: dict[str, Goal]


class Stalled(TypedDict):
    """Too many starts in a row made no progress."""

    stalled_starts: int


class Started(TypedDict):
    """A runner has taken up the run."""

    died: NotRequired[JsonObject]
    """The runner before, if it died without warning."""
    hosts: NotRequired[list[JsonObject]]
    """As in ``Aligned``."""
    changed: NotRequired[list[str]]
    """Accepted changes and other hardware, in words: from here on not bitwise the same run."""


class Changed(TypedDict):
    """A child that takes the place of one that died computes otherwise."""

    changed: list[str]
    """As in ``Started``."""


class Refused(TypedDict):
    """The disk did not let a runner go on; its start does not count."""

    error: str


class Reopened(Started):
    """A failed run goes on with other budgets or thresholds."""

    budgets: dict[str, int]


OfTheMachine = Aligned | Saved | Judged | Died | AttemptNumber | GateDecided | Retuned | Stalled | Reopened
Facts = NoFacts | OfTheMachine | Started | Changed | Refused

FACTS: dict[Event | RunnerEvent, type] = {
    Event.ALIGNED: Aligned,
    Event.SAVED: Saved,
    Event.ACCEPTED: Judged,
    Event.REJECTED: Judged,
    Event.CRASHED: Died,
    Event.KILLED: Died,
    Event.OUT_OF_MEMORY: Died,
    Event.INFERRED: AttemptNumber,
    Event.RESULT_LOST: AttemptNumber,
    Event.GATE_PASSED: GateDecided,
    Event.GATE_FAILED: GateDecided,
    Event.RETUNED: Retuned,
    Event.REPORTED: NoFacts,
    Event.STALLED: Stalled,
    Event.REOPENED: Reopened,
    RunnerEvent.STARTED: Started,
    RunnerEvent.INTERRUPTED: NoFacts,
    RunnerEvent.CHANGED: Changed,
    RunnerEvent.REFUSED: Refused,
}
"""The class of an event's facts."""

CHUNK_JUDGED = (Event.ACCEPTED, Event.REJECTED)
GATE_DECIDED = (Event.GATE_PASSED, Event.GATE_FAILED)
DEATHS = {
    Killer.OWN: Event.CRASHED,
    Killer.MEMORY: Event.OUT_OF_MEMORY,
    Killer.OUTSIDE: Event.KILLED,
    Killer.UNKNOWN: Event.KILLED,
}
"""The event that the death of a child is, by what killed it."""
