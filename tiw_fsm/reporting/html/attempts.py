"""The drawing of the attempts' MSE: a row per attempt, against its threshold and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.reporting.html.loss import LEFT, RIGHT, WIDTH
from tiw_fsm.reporting.html.scales import scale

ROW = 30
SHAPES = (("■", "M-4 -4h8v8h-8z"), ("◆", "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"), ("▲", "M0 -5l5.5 9h-11z"))
"""Sign and path of the first baseline, the second, and so on; then they begin anew. Colours: ``base-0`` and on in
the style."""


def baselines_of(judged: Sequence[Attempt]) -> list[str]:
    """Names of all baselines, in the order in which they are first met."""
    return list(dict.fromkeys(name for attempt in judged for name in attempt.baselines))


def attempts(judged: Sequence[Attempt]) -> dict[str, Any]:
    """One row per attempt: its MSE as a dot, the largest that passes as a bar across, the baselines as small shapes."""
    names = baselines_of(judged)
    values = [v for a in judged for v in (a.mse, a.max_mse, *a.baselines.values()) if v is not None]
    x = scale(values, LEFT + 36, RIGHT - 20, zero=True)

    def place(value: float | None) -> float | None:
        """None where a logarithm has none."""
        return x(value) if value is not None and (value > 0 or not x.logarithmic) else None

    rows = [
        {
            "attempt": attempt,
            "y": 12 + ROW * (index + 0.5),
            "threshold": x(attempt.max_mse),
            "mse": place(attempt.mse),
            "baselines": [
                {"name": name, "value": value, "x": place(value), "number": number, "path": SHAPES[number][1]}
                for name, value in attempt.baselines.items()
                if place(value) is not None and (number := names.index(name) % len(SHAPES)) >= 0
            ],
        }
        for index, attempt in enumerate(judged)
    ]
    key = [("● MSE", "passed"), ("┃ largest that passes", "threshold-name")]
    key += [(f"{SHAPES[n % len(SHAPES)][0]} {name}", f"base-{n % len(SHAPES)}") for n, name in enumerate(names)]
    starts = [LEFT + 36 + sum(7.4 * len(label) + 14 for label, _ in key[:n]) for n in range(len(key))]
    return {
        "width": WIDTH,
        "right": RIGHT,
        "end": 12 + ROW * len(judged),
        "low": x.start,
        "high": x.end,
        "ticks": [(x(value), f"{value:.3g}") for value in x.ticks()],
        "rows": rows,
        "key": [(start, label, kind) for start, (label, kind) in zip(starts, key, strict=True)],
    }
