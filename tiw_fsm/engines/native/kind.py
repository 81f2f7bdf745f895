"""What the native engine says of itself."""

from __future__ import annotations

from tiw_fsm.config.settings import Draft, Settings
from tiw_fsm.engines.protocol import Engine, EngineKind
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.values.frozen import FrozenModel
from tiw_fsm.values.printable import quoted

REFUSED = {
    "optimizer": ("adamw", "the native engine trains with AdamW only"),
    "use_moe": (False, "the native engine has no mixture of experts"),
}
"""Keys of newer TinyWorlds accepted at their default: what the default is, and why not otherwise."""


class NativeKind(EngineKind):
    """Our own PyTorch TinyWorlds, in a child process."""

    name = "native"
    replays = True

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        for name, file in draft.files.items():
            for key, (default, reason) in REFUSED.items():
                value = getattr(file, key, None)
                if value not in (None, default):
                    where = draft.sources[name].where((key,))
                    refused = f"{key}: {quoted(value)} is refused because {reason}"
                    problems.append(f"{where}: {refused}; set {key}: {default}")
        if draft.flags.get("nproc_per_node", 1) > 1:
            problems.append(
                "--nproc-per-node: the native engine trains in one process for now; leave it out, or give 1"
            )
        return None

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        from tiw_fsm.engines.native.engine import NativeEngine

        return NativeEngine(settings.python_exec, paths, settings.loop.max_silence)


KIND = NativeKind()
