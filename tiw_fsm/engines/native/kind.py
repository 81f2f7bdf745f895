"""What the native engine says of itself."""

from __future__ import annotations

from tiw_fsm.config.settings import Draft, Settings
from tiw_fsm.engines.protocol import Engine, EngineKind
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.values.frozen import FrozenModel


class NativeKind(EngineKind):
    """Our own PyTorch TinyWorlds, in a child process."""

    name = "native"
    replays = True

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        if draft.flags.get("nproc_per_node", 1) > 1:
            problems.append(
                "--nproc-per-node: the native engine trains in one process for now; leave it out, or give 1"
            )
        return None

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        from tiw_fsm.engines.native.engine import NativeEngine

        return NativeEngine(settings.python_exec, paths, settings.loop.max_silence)


KIND = NativeKind()
