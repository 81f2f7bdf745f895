"""The table, on transitions."""

from __future__ import annotations

from typing import Any

from transitions import Machine as TransitionsMachine

from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.fsm.table import TABLE, Row


class _Walker:
    """What ``transitions`` moves: holds the run for the length of one step."""

    state: State
    run: RunState


class Machine:
    """The table, on ``transitions``. It never touches a disk: the controller commits what ``step`` returns."""

    def __init__(self) -> None:
        self._walker = _Walker()
        self._machine = TransitionsMachine(
            model=self._walker,
            states=State,
            transitions=[self._transition(row) for row in TABLE],
            initial=State.ALIGN,
            auto_transitions=False,
        )

    def _transition(self, row: Row) -> dict[str, Any]:
        def guard(event: str) -> bool:
            return row.guard(self._walker.run)

        def effect(event: str) -> None:
            self._walker.run = row.effect(self._walker.run)

        return {
            "trigger": row.event.value,
            "source": row.source,
            "dest": row.target,
            "conditions": [guard],
            "before": [effect],
        }

    def step(self, run: RunState, event: Event) -> RunState:
        """The run's state after ``event``.

        Raises:
            LookupError: no row of the table takes ``event`` in the run's state.
            transitions.MachineError: the table does not know ``event`` in the run's state.
        """
        self._walker.run = run
        self._machine.set_state(run.state, self._walker)
        if not self._walker.trigger(event.value, event.value):  # type: ignore[attr-defined]
            raise LookupError(f"no row of the table takes {event} in {run.state}")
        after = self._walker.run.evolve(state=self._walker.state)
        return after if after.state == run.state else after.evolve(stalled_starts=0)
