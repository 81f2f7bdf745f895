"""How many processes are asked for: ``--nproc-per-node``, ``--nnodes``, and training.yaml's ``nproc_per_node``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tiw_fsm.config.flags import FLAGS
from tiw_fsm.values.frozen import LARGEST

AUTO = "auto"


def per_node(flags: Mapping[str, Any], from_file: int | Literal["auto"] | None, problems: list[str]) -> int | None:
    """Processes on each machine, the flag before the file; one where nothing is said.

    None stands for as many as there are GPUs: ``auto``. A flag that is neither is added to ``problems``.
    """
    typed = flags.get("nproc_per_node", from_file or 1)
    if typed == AUTO:
        return None
    text = str(typed)
    if text.isascii() and text.isdecimal() and 0 < int(text) <= LARGEST:
        return int(text)
    problems.append(f"{FLAGS['nproc_per_node'].option} {text}: is no number of processes; give one from 1 on, or auto")
    return 1
