"""What the native engine says of itself."""

from __future__ import annotations

import socket

from tiw_fsm.config import processes
from tiw_fsm.config.schema import TrainingFile
from tiw_fsm.config.settings import Draft, Settings
from tiw_fsm.engines.native import cost
from tiw_fsm.engines.native.settings import NativeSettings, endpoint
from tiw_fsm.engines.protocol import Engine, EngineKind
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.values.frozen import FrozenModel


class NativeKind(EngineKind):
    """Our own PyTorch TinyWorlds, in a child process."""

    name = "native"
    replays = True

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        training = draft.files["training"]
        if not isinstance(training, TrainingFile):
            return None
        asked = processes.per_node(draft.flags, training.nproc_per_node, problems)
        by_flag = draft.flags.get("nproc_per_node") not in (None, processes.AUTO)
        nodes = draft.flags.get("nnodes", 1)
        if nodes < 1:
            problems.append(f"--nnodes {nodes}: is no number of machines; give one from 1 on")
            return None
        return NativeSettings(
            nodes=nodes,
            per_node=asked,
            by_flag=by_flag,
            at_its_word=asked == 1 or (by_flag and "nproc_per_node" in draft.typed),
            sharded=bool((training.distributed or {}).get("use_fsdp")),
            endpoint=_endpoint(draft.flags.get("rdzv_endpoint"), problems) if nodes > 1 else None,
        )

    def waits_for(self, settings: Settings, run: str) -> str | None:
        asked = NativeSettings.model_validate(settings.engine_settings)
        if asked.nodes == 1:
            return None
        there = "the other machine" if asked.nodes == 2 else f"{asked.nodes - 1} other machines"
        return f"waiting for {there}: there, in the same working root, tiw-fsm join {asked.endpoint} --run {run}"

    def seconds_of_update(self, stage: Stage, config: StageConfig, threads: int) -> float | None:
        return cost.seconds_of_update(stage, config, threads)

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        from tiw_fsm.engines.native.engine import NativeEngine

        processes = NativeSettings.model_validate(settings.engine_settings)
        return NativeEngine(settings.python_exec, paths, settings.loop.max_silence, processes, settings.stages)


def _endpoint(typed: str | None, problems: list[str]) -> str | None:
    """HOST:PORT at which this machine listens for the others."""
    try:
        return endpoint(typed or socket.gethostname())
    except ValueError as exc:
        problems.append(f"--rdzv-endpoint {exc}")
        return None


KIND = NativeKind()
