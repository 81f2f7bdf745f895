"""What the page tells of the worlds that were judged."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from tests.reporting.html.reading import html, words
from tests.reporting.worlds import HintedEngine, aged_journal, aged_state
from tests.support.pages import seen
from tests.support.simulation import Simulation
from tiw_fsm.engines.simulated import Script
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.reporting.html.page import page
from tiw_fsm.reporting.past import Past


def test_figures_of_every_attempt_are_there_and_skill_and_control_are_drawn_frame_by_frame(
    eventful: Simulation,
) -> None:
    text = html(eventful)
    assert words(text).count("6.0 dB [6.0, 6.0] 1.00 4 of 4 50 %") == 3
    dots = re.findall(r"<title>Attempt 3, the best, frame (\d): (\S+(?: dB)?)</title>", text)
    assert dots == [(str(n), said) for said in ("+0.38", "6.0 dB") for n in (1, 2, 3, 4)]
    assert "Attempt 2, frame" not in text


def test_of_the_drawn_attempts_one_is_the_last_and_one_the_best(simulation: Simulation) -> None:
    simulation.run(Script(mse=[0.005, 0.01], delta_psnr=[0.1, None]), max_inference_retries=1)
    text = html(simulation)
    assert "Attempt 1, the best, frame 4: +0.75" in text
    assert "Attempt 2, frame 4: +0.50" in text
    assert "Attempt 1, the best, frame 4: 0.10 dB" in text


def test_a_run_that_used_recorded_keys_says_so(simulation: Simulation) -> None:
    simulation.run_with(HintedEngine())
    assert "trained with recorded keys as a hint" in words(html(simulation)).partition("page written")[0]


def test_a_page_of_a_run_that_an_older_version_judged_tells_what_there_is(eventful: Simulation) -> None:
    found = seen(eventful)
    run = RunState.model_validate_json(json.dumps(aged_state(found.run.model_dump(mode="json"))))
    text = words(page(replace(found, run=run, past=Past(aged_journal(eventful.store.journal())))))
    assert "Next: nothing: the world model passed the gate of MSE and baselines" in text
    assert "attempt skill 3 +0.38 2" in text
    assert "How long it holds" not in text
