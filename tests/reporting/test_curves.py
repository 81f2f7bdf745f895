"""Loss curves: what is drawn of them, and what is left of long ones."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from tiw_fsm.reporting import curves
from tiw_fsm.reporting.html.loss import figure
from tiw_fsm.stages import Stage

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("decision", "colour"), curves.COLOURS.items())
def test_a_gate_is_marked_in_the_colour_of_its_decision(decision: str, colour: str) -> None:
    curve = curves.Curve(np.ones(20), np.arange(1.0, 21), 1 / np.arange(1.0, 21), np.full(20, 0.1))
    gate = {"stage": Stage.VIDEO, "completed": 15, "attempt": 1, "decision": decision, "reason": "why"}
    other = {**gate, "stage": Stage.LATENT}
    marks = {}
    for name, gates in (("marked", [gate, other]), ("plain", [])):
        text = figure("default", {Stage.VIDEO: curve}, gates)
        assert text is not None
        drawing = ElementTree.fromstring(text)
        marks[name] = [mark for mark in drawing.iter(f"{SVG}g") if (mark.get("class") or "").startswith("gate ")]
        style = drawing.findtext(f"{SVG}style") or ""
        assert f".gate.{decision}{{--mark:{colour}}}" in style
        assert ".gate circle{fill:var(--mark)" in style
        assert ".stem{stroke:var(--mark" in style
    assert marks["plain"] == []
    assert [mark.get("class") for mark in marks["marked"]] == [f"gate {decision}"]
    assert {shape.tag for shape in marks["marked"][0]} == {f"{SVG}title", f"{SVG}line", f"{SVG}circle"}


def test_nothing_is_drawn_where_no_update_was_recorded() -> None:
    assert figure("default", {Stage.VIDEO: curves.read(b"")}, []) is None


def test_long_curves_are_thinned_to_means_within_their_range() -> None:
    n = 10_001
    loss = np.linspace(1, 2, n)
    loss[5000] = 50.0
    loss[0] = np.nan
    curve = curves.Curve(np.ones(n), np.arange(1.0, n + 1), loss, np.full(n, 0.1))
    thinned, lows, highs = curves.thin(curve)
    assert len(thinned.loss) <= curves.POINTS
    assert highs.max() == 50.0
    assert np.isfinite(thinned.loss).all()
    assert ((lows <= thinned.loss) & (thinned.loss <= highs)).all()
