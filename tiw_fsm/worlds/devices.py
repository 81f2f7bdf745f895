"""The device that a world is computed on."""

from __future__ import annotations

import torch

from tiw_fsm.errors import UsageProblem
from tiw_fsm.values.printable import quoted


def device_called(name: str) -> torch.device:
    """The device to compute on, by ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageProblem: it is not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageProblem("device cuda: this machine has no CUDA device that torch can use; take the device cpu")
    if name not in ("auto", "cpu", "cuda"):
        raise UsageProblem(f"device {quoted(name)}: there are auto, cpu and cuda")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
