"""A run's page, read."""

from __future__ import annotations

import re
from html import unescape

from tests.support.pages import seen
from tests.support.simulation import Simulation
from tiw_fsm.reporting.html.page import page


def html(simulation: Simulation, *, alive: bool = False) -> str:
    return page(seen(simulation, alive=alive))


def words(text: str) -> str:
    """What a reader sees, about."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)))
