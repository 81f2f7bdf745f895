"""Loss curves of a run as one picture. matplotlib is imported only when something is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiw_fsm.fsm.chunk_gate import ACCEPTING
from tiw_fsm.stages import Stage
from tiw_fsm.system import durable
from tiw_fsm.values.plain import JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

POINTS = 2000
"""A curve has at most so many points; longer ones are drawn as the mean of bins over their range."""
COLOURS = {"continue": "#2a9d4a", "watch": "#e09f1f", "retune": "#d1343a", "restart_stage": "#8a3fb5"}
"""Of a gate's line, by its decision."""
PANEL, LOSS, SLIM = 3.6, (0.36, 0.54), (0.14, 0.17)
"""Height of a stage's panel in inches; bottom and height of its loss and learning rate axes as shares of it. Fixed,
because matplotlib's own layout engines take longer than all the rest of the drawing."""
KEPT, REPEATED, RATE = "#1f4e9c", "#c3cbd8", "#5c6b7a"


class Curve(NamedTuple):
    """A stage's metrics file as columns, one entry per update."""

    attempt: Floats
    completed: Floats
    """Updates seen, this one included: where gates stand on the same axis."""
    loss: Floats
    rate: Floats

    def pick(self, wanted: NDArray[Any]) -> Curve:
        """The rows that ``wanted`` names, as a mask or as indices."""
        return Curve(*(column[wanted] for column in self))


def draw(path: Path, metrics: Mapping[Stage, bytes], gates: Iterable[JsonObject]) -> bool:
    """Draw a panel per stage that has metrics: its loss, its learning rate and its gates.

    Args:
        metrics: what the metrics file of each stage holds; a stage without rows has no panel.
        gates: facts of the stage gates, as the journal has them: stage, completed, attempt, decision.

    Returns:
        Whether there was anything to draw.
    """
    curves = {stage: curve for stage, rows in metrics.items() if len((curve := read(rows)).loss)}
    if not curves:
        return False
    from matplotlib.figure import Figure

    judged = list(gates)
    figure = Figure(figsize=(11, PANEL * len(curves)), dpi=100)
    for row, (stage, curve) in enumerate(reversed(curves.items())):
        loss, rate = (
            figure.add_axes((0.075, (row + low) / len(curves), 0.905, high / len(curves))) for low, high in (LOSS, SLIM)
        )
        _panel(loss, rate, stage, curve, [gate for gate in judged if gate["stage"] == stage])
    content = BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 1})
    durable.replace(path, content.getvalue())
    return True


def read(content: bytes) -> Curve:
    """The columns of a metrics file. A torn last line does not count; a loss that is not finite is NaN."""
    lines = content.split(b"\n")[:-1]
    rows = json.loads(b"[" + b",".join(lines) + b"]")  # one call is three times as fast as one per line
    table = [(row["attempt"], row["update"] + 1, row["loss"], row["learning_rate"]) for row in rows]
    return Curve(*np.array(table, dtype=np.float64).reshape(-1, 4).T)


def thin(curve: Curve, points: int = POINTS) -> tuple[Curve, Floats, Floats]:
    """At most ``points`` rows: the mean loss of equal bins, and its smallest and largest value in each."""
    size = max(1, -(-len(curve.loss) // points))
    starts = np.arange(0, len(curve.loss), size)
    finite = np.isfinite(curve.loss)
    counts = np.add.reduceat(finite.astype(float), starts)
    sums = np.add.reduceat(np.where(finite, curve.loss, 0.0), starts)
    mean = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    lows, highs = np.fmin.reduceat(curve.loss, starts), np.fmax.reduceat(curve.loss, starts)
    return curve.pick(starts)._replace(loss=mean), lows, highs


def _panel(loss: Axes, rate: Axes, stage: Stage, curve: Curve, gates: Sequence[JsonObject]) -> None:
    rejected = {gate["attempt"] for gate in gates if gate["decision"] not in ACCEPTING}
    repeated = np.isin(curve.attempt, sorted(rejected))
    for number in sorted(rejected):
        _lines(loss, rate, curve.pick(curve.attempt == number), REPEATED)
    _lines(loss, rate, curve.pick(~repeated), KEPT)
    decisions = [decision for decision in COLOURS if any(gate["decision"] == decision for gate in gates)]
    for gate in gates:
        passed = gate["decision"] in ACCEPTING  # a rejected chunk's gate shows beneath that of its repetition
        style, width, order = ("--", 1, 1) if passed else ("-", 3, 0.5)
        loss.axvline(gate["completed"], color=COLOURS[gate["decision"]], linestyle=style, linewidth=width, zorder=order)
    loss.set_title(f"{stage}", loc="left", fontsize=11, fontweight="bold")
    _legend(loss, decisions, any_repeated=bool(repeated.any()))
    _scales(loss, rate, logarithmic=bool((curve.loss > 0).any()))


def _scales(loss: Axes, rate: Axes, *, logarithmic: bool) -> None:
    """Axes and their numbers. matplotlib refuses a log axis without a positive value."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if logarithmic:
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_minor_formatter(NullFormatter())
    for axes in (loss, rate):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    rate.sharex(loss)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.tick_params(labelbottom=False)
    loss.set_ylabel("loss")
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning\nrate", fontsize=8)
    rate.set_xlabel("updates", fontsize=9)


def _lines(loss: Axes, rate: Axes, curve: Curve, colour: str) -> None:
    for part in rising(curve):
        thinned, lows, highs = thin(part)
        marker = "." if len(thinned.loss) == 1 else ""
        loss.plot(thinned.completed, thinned.loss, color=colour, linewidth=1.1, marker=marker, zorder=2)
        if len(thinned.loss) < len(part.loss):
            loss.fill_between(thinned.completed, lows, highs, color=colour, alpha=0.18, linewidth=0)
        rate.plot(thinned.completed, thinned.rate, color=RATE if colour == KEPT else colour, linewidth=1)


def rising(curve: Curve) -> Iterator[Curve]:
    """The curve cut where its updates step back, as after a stage that began anew."""
    cuts = np.flatnonzero(np.diff(curve.completed) <= 0) + 1
    for indices in np.split(np.arange(len(curve.loss)), cuts):
        if len(indices):
            yield curve.pick(indices)


def _legend(axes: Axes, decisions: Sequence[str], *, any_repeated: bool) -> None:
    from matplotlib.lines import Line2D

    losses = {"loss": KEPT, "rejected chunk": REPEATED} if any_repeated else {"loss": KEPT}
    handles = [Line2D([], [], color=colour) for colour in losses.values()]
    handles += [Line2D([], [], color=COLOURS[name], linestyle="--" if name in ACCEPTING else "-") for name in decisions]
    labels = [*losses, *(f"gate: {decision}" for decision in decisions)]
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(labels),
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
    )
