"""What a verdict means, in words: the lines said at the gate, and what to try next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tiw_fsm.fsm.causes import FAULTS, Cause, causes, out_of_reach
from tiw_fsm.reporting.figures import GATES, Attempt, Gate, figures, gate_of, is_trivial
from tiw_fsm.stages import Stage

if TYPE_CHECKING:
    from tiw_fsm.fsm.run_state import RunState

Lines = list[str]

TRIVIAL = "no better than copying, averaging or blurring"
HINTED = "trained with recorded keys as a hint"
BY_HEART = 0.1
"""Share of judged frames that training has not seen, below which ..."""
KNOWN = "it may know this world by heart"
"""... this is said."""
UNJUDGED = {"delta_psnr_above_min": "control", "motion_above_min": "motion"}
"""What the gate of a world does not judge where it has no such condition."""


class Verdict(NamedTuple):
    """One inference verdict."""

    headline: str
    """Whether it passed, and by what MSE."""
    figures: str
    notes: Lines
    """What a reader must not miss, and last the conditions that were not met."""


def verdict_line(attempt: Attempt) -> str:
    """One inference verdict in one line. ``attempt`` has the fields of ``Attempt``, as the JSON files do."""
    told = verdict(attempt)
    return "; ".join([", ".join(filter(None, [told.headline, told.figures])), *told.notes])


def verdict(attempt: Attempt) -> Verdict:
    """The same, in its parts."""
    headline = f"inference gate, attempt {attempt['number']}: {'PASSED' if attempt['passed'] else 'FAILED'}"
    if attempt["mse"] is None:
        headline += "; no MSE was measured"
    else:
        baselines = "".join(f"; {name} {value:.4f}" for name, value in attempt["baselines"].items())
        headline += f", MSE {attempt['mse']:.4f} (max {attempt['max_mse']:g}{baselines})"
    told = ", ".join(f"{name} {text}" for name, text in figures(attempt).items())
    failed = [name for name, held in attempt["conditions"].items() if not held]
    notes = [
        *_knowledge(attempt),
        *(_passed(attempt) if attempt["passed"] else _faults(attempt)),
        *([f"not met: {', '.join(failed)}"] if failed else []),
    ]
    return Verdict(headline, told, notes)


def _knowledge(attempt: Attempt) -> Lines:
    """What the model was told, and what of the judged frames it has seen."""
    seen = attempt.get("unseen") is not None and attempt["unseen"] < BY_HEART
    return [*([KNOWN] if seen else []), *([HINTED] if attempt.get("keys_used") else [])]


def _passed(attempt: Attempt) -> Lines:
    """What a pass does not say."""
    gate = gate_of(attempt)
    if gate is Gate.WORLD:
        unjudged = [what for name, what in UNJUDGED.items() if name not in attempt["conditions"]]
        return [f"not judged: {', '.join(unjudged)}"] if unjudged else []
    return [f"passed {GATES[gate or Gate.PLAIN]}", *([TRIVIAL] if is_trivial(attempt) else [])]


def _faults(attempt: Attempt) -> Lines:
    """What is at fault, and whether training can be expected to mend it."""
    first = _first_to_mend(attempt)
    return [
        f"{_fill(WORDS[cause].what, attempt)} ({_longer(cause) if cause in first else AFTER})"
        for cause in causes(attempt)
    ]


def _longer(cause: Cause) -> str:
    fault = FAULTS[cause]
    return f"training {fault.stage} longer {'may mend it' if fault.longer_helps else 'does not mend it'}"


def _first_to_mend(attempt: Attempt) -> list[Cause]:
    """The causes that lie in the earliest stage at fault: those of later stages may come of them."""
    found = causes(attempt)
    return [cause for cause in found if FAULTS[cause].stage is FAULTS[found[0]].stage]


# --- causes, in words -------------------------------------------------------------------------------------------


class Words(NamedTuple):
    """A cause for people. Braces take the attempt's fields, and what ``_fill`` adds."""

    what: str
    remedy: str


AFTER = "which may come of it"
BY_CAUSE = "(`retune_policy: cause` in loop.yaml makes retunes do so)"
ANOTHER_START = (
    "try another `seed`, another `n_actions`, or in latent_actions.yaml `film_init_std: 0.3` or "
    "`decoder_context: past_frames`"
)
A_HINT = "the frames were recorded with their keys, so set `key_hint_weight` in latent_actions.yaml"

WORDS: dict[Cause, Words] = {
    Cause.TOKENIZER_TOO_COARSE: Words(
        "the tokenizer alone reconstructs the clips with MSE {tokenizer_mse:.6g}, above {limit}, so no dynamics can "
        "pass",
        f"train the tokenizer longer {BY_CAUSE}, or give it more bins or latent dimensions",
    ),
    Cause.TOKENIZER_BLURS_MOTION: Words(
        "the tokenizer blurs what moves: alone it keeps {tokenizer_motion:.2g} of the movement",
        f"train the tokenizer longer {BY_CAUSE}, or give it smaller patches, more bins or latent dimensions",
    ),
    Cause.ACTIONS_COLLAPSED: Words("all inferred actions are one code, or nearly so", "{actions_remedy}"),
    Cause.ACTIONS_ENTANGLED: Words("the latent actions do not follow the recorded keys", "{actions_remedy}"),
    Cause.DYNAMICS_DEAF: Words(
        "the dynamics hardly obey: random actions do about as well",
        "train dynamics longer, or from the start with `film_init_std: 0.3` or `masking: next_frame` in dynamics.yaml",
    ),
    Cause.DYNAMICS_FROZEN: Words(
        "the dynamics hardly move",
        "train dynamics longer, or from the start with `masking: next_frame` in dynamics.yaml",
    ),
    Cause.DYNAMICS_SHORT: Words(
        "the dynamics fall short of what the gate asks",
        "train dynamics longer, or from the start with `context_noise: 0.1` in dynamics.yaml",
    ),
}


def _fill(words: str, attempt: Attempt) -> str:
    name, least = out_of_reach(attempt) or ("", 0.0)
    untold = attempt.get("key_agreement") is not None and not attempt.get("keys_used")
    return words.format(**attempt, limit=f"{name} of {least:.6g}", actions_remedy=A_HINT if untold else ANOTHER_START)


# --- what to try next -------------------------------------------------------------------------------------------

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
ANEW = "begin another run with that (`--run NAME`): more retunes of this one will not mend it"


def next_steps(run: RunState) -> Lines:
    """Advice that follows from how the run ended and from its last attempt."""
    attempt = run.inference.attempts[-1].model_dump() if run.inference.attempts else None
    advice = _attempt_advice(attempt) if attempt else []
    if run.outcome != "passed":
        advice += _never_held(run)
    if run.budget_used is not None:
        in_vain = attempt is not None and run.budget_used == "max_inference_retries" and not _longer_helps(attempt)
        advice.append(ANEW if in_vain else ADVICE[run.budget_used].format(**run.loop.budgets.model_dump()))
    return advice or ["nothing: the model passed with skill"]


def _never_held(run: RunState) -> Lines:
    """Of stages whose gate has let everything through, since its thresholds begin where they do not get to."""
    free = [
        f"{stage} (they hold from update {held_from} on, of {progress.target})"
        for stage, progress in run.stages.items()
        if progress.completed and (held_from := run.loop.gates[stage].from_update) >= progress.target
    ]
    if not free:
        return []
    return [f"no threshold was ever held to {', '.join(free)}: lower `from_update` of its gate in loop.yaml"]


def _longer_helps(attempt: Attempt) -> bool:
    return all(FAULTS[cause].longer_helps for cause in _first_to_mend(attempt))


def _attempt_advice(attempt: Attempt) -> Lines:
    """What the last attempt's figures say about the cause."""
    if attempt["passed"]:
        return _after_a_pass(attempt)
    error = (
        ["inference itself ended in an error: the attempt's result file and log say which"]
        if not attempt["conditions"].get("run_succeeded", True)
        else []
    )
    return [*(_remedy(cause, attempt) for cause in _first_to_mend(attempt)), *error]


def _remedy(cause: Cause, attempt: Attempt) -> str:
    return f"{_fill(WORDS[cause].what, attempt)}: {_fill(WORDS[cause].remedy, attempt)}"


def _after_a_pass(attempt: Attempt) -> Lines:
    """What a gate that asks for less than a world has left open."""
    gate = gate_of(attempt)
    if gate is Gate.WORLD:
        return []
    passed = f"it passed {GATES[gate or Gate.PLAIN]}"
    actions = [c for c, fault in FAULTS.items() if fault.stage is Stage.LATENT and fault.shows(attempt)]
    return [
        *(_remedy(cause, attempt) for cause in actions),
        f"{passed}; {TRIVIAL}: train longer before relying on this model"
        if is_trivial(attempt)
        else f"{passed}, which asks neither that it obeys nor that it moves: hold it to {GATES[Gate.WORLD]} before "
        "relying on it",
    ]
