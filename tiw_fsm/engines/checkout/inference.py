"""What a checkout's inference script is asked, and whether it used what it was given.

The script judges one clip of its own and knows no baselines. So our models roll the same weights out on our clips:
``mse`` is what the script said, ``own_mse`` and everything else is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tiw_fsm.engines.checkout.dialect import Dialect
from tiw_fsm.engines.checkout.plan import word
from tiw_fsm.engines.checkout.settings import CheckoutSettings
from tiw_fsm.engines.protocol import InferRequest
from tiw_fsm.fsm.inference_gate import UsedCheckpoint
from tiw_fsm.stages import Stage
from tiw_fsm.values.frozen import CheckpointRef


def arguments(
    request: InferRequest, given: Mapping[Stage, Path], device: str, checkout: CheckoutSettings, dialect: Dialect
) -> list[str]:
    """The script's words behind ``--``."""
    asked = request.inference
    values = {
        **checkout.chosen.get("inference", {}),
        **{path_key(stage): path for stage, path in given.items()},
        "use_latest_checkpoints": False,
        "dataset": checkout.dataset,
        "device": device,
        "generation_steps": asked.generation_steps,
        "context_window": asked.context_window,
        "prediction_horizon": asked.prediction_horizon,
        "temperature": asked.temperature,
        "teacher_forced": asked.teacher_forced,
        "use_actions": True,
        "use_gt_actions": False,
        "use_interactive_mode": False,
    }
    if asked.preload_ratio is not None:
        values["preload_ratio"] = asked.preload_ratio
    optional = {"seed": asked.seed, "sample_index": checkout.sample_index, "decode_steps": asked.decode_steps}
    values |= {key: optional[key] for key in dialect.inference_keys if optional[key] is not None}
    return [f"{key}={word(value)}" for key, value in values.items()]


def path_key(stage: Stage) -> str:
    """inference.yaml's key for the checkpoint of a stage."""
    return "dynamics_path" if stage is Stage.DYNAMICS else f"{stage}_path"


def own(request: InferRequest) -> InferRequest:
    """The same inference by our models, its log and picture beside the script's."""
    log = Path(request.log)
    return request.evolve(log=str(log.with_stem(f"{log.stem}_own")), picture=str(log.with_name(f"{log.stem}_own.png")))


def used_checkpoints(
    named: Mapping[Stage, CheckpointRef], given: Mapping[Stage, Path], printed: Mapping[Stage, str]
) -> tuple[dict[str, UsedCheckpoint], list[str]]:
    """Which checkpoints inference says it used, and where they are not those it was given."""
    used: dict[str, UsedCheckpoint] = {}
    wrong = []
    for stage, ref in named.items():
        reported = printed.get(stage)
        if reported is not None and Path(reported) == given[stage]:
            used[stage.value] = UsedCheckpoint(**dict(ref))
        else:
            used[stage.value] = UsedCheckpoint(path=reported, sha256=None)
            instead = f"used {reported}" if reported else "named none that it used"
            wrong.append(f"inference fell back: it {instead} as {stage} checkpoint, and was given {given[stage]}")
    return used, wrong
