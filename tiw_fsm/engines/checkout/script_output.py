"""What TinyWorlds' scripts say, read: nothing else of a run is learned from prose, and nowhere else."""

from __future__ import annotations

import re
from typing import NamedTuple

from tiw_fsm.stages import Stage

BAR = re.compile(r"\b(\d+)/(\d+) \[")
"""A progress bar's count, as tqdm draws it."""
USING = re.compile(r"^Using (\w+) checkpoint: (.+)$", re.MULTILINE)
FRAME = re.compile(r"^Inferring frame (\d+)/(\d+)", re.MULTILINE)
STATISTICS = re.compile(r"^Inference stats:", re.MULTILINE)
TOTAL_FRAMES = re.compile(r"^Total frames generated: (\d+)", re.MULTILINE)
NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
MSE = re.compile(rf"^Mean Squared Error \(GT vs Pred\): {NUMBER}", re.MULTILINE)
MSE_WITH_CONTEXT = re.compile(rf"^Mean Squared Error \(GT vs Pred, full_with_context\): {NUMBER}", re.MULTILINE)
PICTURE = re.compile(r"^Visualization saved to: (.+)$", re.MULTILINE)
LINES_SHOWN = 15


class Inference(NamedTuple):
    """What an inference script said."""

    checkpoints: dict[Stage, str]
    frames: int
    """How many it inferred."""
    statistics: dict[str, float]
    mse: float | None
    mse_with_context: float | None
    picture: str | None


def inference(text: str) -> Inference:
    """Read the output of run_inference.py."""
    stages = {stage.value: stage for stage in Stage}
    mse, with_context = MSE.findall(text), MSE_WITH_CONTEXT.findall(text)
    statistics: dict[str, float] = {}
    if begun := STATISTICS.search(text):
        totals = TOTAL_FRAMES.findall(text, begun.start())
        statistics = {"total_frames": float(totals[-1])} if totals else {}
        statistics |= {"mse": float(mse[-1])} if mse else {}
    pictures = PICTURE.findall(text)
    return Inference(
        checkpoints={stages[name]: path.strip() for name, path in USING.findall(text) if name in stages},
        frames=len({number for number, _ in FRAME.findall(text)}),
        statistics=statistics,
        mse=float(mse[-1]) if mse else None,
        mse_with_context=float(with_context[-1]) if with_context else None,
        picture=pictures[-1].strip() if pictures else None,
    )


def updates_done(text: str, total: int) -> int | None:
    """The newest count of the training bar, which counts up to ``total``; other bars count up to something else."""
    counts = [int(done) for done, of in BAR.findall(text) if int(of) == total]
    return counts[-1] if counts else None


def frame(text: str) -> int | None:
    """The newest frame that inference began."""
    found = FRAME.findall(text)
    return int(found[-1][0]) if found else None


def last_lines(text: str, count: int = LINES_SHOWN) -> str:
    """The last lines as a terminal would show them: of a bar drawn over and over, its last state."""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join([line for line in lines if line][-count:])
