"""What a verdict means, in words: the line said at the gate, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiw_fsm.fsm import causes

if TYPE_CHECKING:
    from tiw_fsm.fsm.run_state import RunState

Lines = list[str]

TRIVIAL = "without positive skill: a trivial prediction does as well"
NO_BASELINES = "judged without the baselines, as with --allow-trivial"


def verdict_line(attempt: Mapping[str, Any]) -> str:
    """One inference verdict in one line. ``attempt`` has the fields of ``Attempt``, as the JSON files do."""
    line = f"inference gate, attempt {attempt['number']}: {'PASSED' if attempt['passed'] else 'FAILED'}"
    if attempt["mse"] is None:
        line += "; no MSE was measured"
    else:
        baselines = "".join(f"; {name} {value:.4f}" for name, value in attempt["baselines"].items())
        line += f", MSE {attempt['mse']:.4f} (max {attempt['max_mse']:g}{baselines})"
    if attempt["skill"] is not None:
        line += f", skill {attempt['skill']:+.3f}"
    failed = [name for name, held in attempt["conditions"].items() if not held]
    notes = [*_notes(attempt), *([f"not met: {', '.join(failed)}"] if failed else [])]
    return "; ".join([line, *notes])


def _notes(attempt: Mapping[str, Any]) -> Lines:
    """What a reader of the verdict must not miss."""
    notes = []
    if attempt["passed"] and attempt["skill"] is not None and attempt["skill"] <= 0:
        notes.append(f"passed {TRIVIAL}")
    if not any(name.startswith("beats_") for name in attempt["conditions"]):
        notes.append(NO_BASELINES)
    return [*notes, *_floor(attempt)]


def _floor(attempt: Mapping[str, Any]) -> Lines:
    """Why no dynamics could have passed, if that is so."""
    if attempt["passed"] or not (limit := causes.out_of_reach(attempt)):
        return []
    return [
        f"the tokenizer alone reconstructs the clips with MSE {attempt['tokenizer_mse']:.6g}, above {limit[0]} of "
        f"{limit[1]:.6g}, so no dynamics can pass"
    ]


ADVICE = {
    "max_train_retries": "the stage gate rejected one chunk too many: read its reasons in the auto-training-loop "
    "report; raise --max-train-retries above {max_train_retries}, or loosen the gate's thresholds in loop.yaml, and "
    "run again",
    "max_inference_retries": "raise --max-inference-retries above {max_inference_retries}, perhaps with a larger "
    "--retry-chunk, and run again: the run reopens at its gate",
    "max_crashes": "the training process died too often: its last error is in the runtime report and in child.log of "
    "the state folder; mend the cause, raise --max-crashes above {max_crashes}, and run again",
    "max_stalled_starts": "too many starts made no progress: read log.jsonl of the state folder, mend the cause, raise "
    "--max-stalled-starts above {max_stalled_starts}, and run again",
}
"""What to do when a budget is used up. The braces take the budgets' values."""


def next_steps(run: RunState) -> list[str]:
    """Advice that follows from how the run ended and from its last attempt."""
    attempt = run.inference.attempts[-1] if run.inference.attempts else None
    advice = _attempt_advice(attempt.model_dump()) if attempt else []
    if run.budget_used is not None:
        advice.append(ADVICE[run.budget_used].format(**run.loop.budgets.model_dump()))
    return advice or ["nothing: the model passed with skill"]


def _attempt_advice(attempt: Mapping[str, Any]) -> list[str]:
    """What the last attempt's figures say about the cause."""
    advice = [
        f"{floor}: train the tokenizer longer (`retune_policy: cause` in loop.yaml makes retunes do so), or give it "
        "more bins or latent dimensions"
        for floor in _floor(attempt)
    ]
    if attempt["unique_actions"] == 1:
        advice.append("all inferred actions are one code: train the latent actions longer or with another seed")
    if not attempt["conditions"].get("run_succeeded", True):
        advice.append("inference itself ended in an error: the attempt's result file and log say which")
    if attempt["skill"] is not None and attempt["skill"] <= 0:
        how = (
            f"the gate passed {TRIVIAL}" if attempt["passed"] else "the rollout is no better than a trivial prediction"
        )
        floor, best = attempt["tokenizer_mse"], min(attempt["baselines"].values())
        what = "the tokenizer, which alone is no better," if floor is not None and floor >= best else "dynamics"
        advice.append(f"{how}; train {what} longer before relying on this model")
    return advice
