"""What an activity found."""

from __future__ import annotations

from dataclasses import dataclass, field

from tiw_fsm.fsm.events import Event, Facts, NoFacts
from tiw_fsm.fsm.run_state import RunState


@dataclass
class Outcome:
    """An event, the run with what was found recorded in it, and the facts for the journal."""

    event: Event
    run: RunState
    facts: Facts = field(default_factory=NoFacts)
