"""What the checkout engine says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tiw_fsm.config import chosen, processes
from tiw_fsm.config.files import FILES
from tiw_fsm.config.schema import InferenceFile, TrainingFile
from tiw_fsm.config.settings import Draft, Settings
from tiw_fsm.engines.checkout import data, dialect
from tiw_fsm.engines.checkout.settings import CheckoutSettings
from tiw_fsm.engines.protocol import Engine, EngineKind
from tiw_fsm.errors import UsageProblem
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.system.writable import unwritable
from tiw_fsm.tinyworlds.config import StageOptions
from tiw_fsm.values.frozen import FrozenModel
from tiw_fsm.values.plain import JsonObject
from tiw_fsm.values.printable import quoted


class CheckoutKind(EngineKind):
    """A TinyWorlds checkout, driven by its scripts."""

    name = "checkout"
    interpreter_needs = "the checkout's requirements"
    hears_all_keys = True
    loop_defaults: ClassVar[JsonObject] = {
        "inference": {
            "beat": ["copy_last", "mean_frame"],
            "beat_first_step": False,
            "min_skill": "none",
            "min_delta_psnr": "none",
            "min_motion": "none",
        }
    }
    """Its scripts judge a world by one clip and random actions; a gate that asks for more has to be asked for."""

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        for path in (draft.repo_root, draft.repo_root / draft.flags.get("run_root", "results")):
            if problem := unwritable(path):
                problems.append(problem)
        try:
            found = dialect.read(draft.repo_root)
        except UsageProblem as exc:
            problems += exc.problems
            return None
        problems += [
            f"{draft.sources[name].where((key,))}: {key}: the checkout's scripts have no such option; remove it, "
            "or train with --engine native"
            for name, file in draft.files.items()
            for key in StageOptions.model_fields
            if getattr(file, key, None) is not None
        ]
        training, inference = draft.files["training"], draft.files["inference"]
        if not isinstance(training, TrainingFile) or not isinstance(inference, InferenceFile):
            return None
        name = (training.dataset or "").upper()
        if training.dataset and name not in found.datasets:
            problems.append(
                f"{draft.sources['training'].where(('dataset',))}: dataset {quoted(training.dataset)} is none that "
                f"this checkout knows; it knows {', '.join(found.datasets)} (data/<name>_frames.h5 under its root)"
            )
        torchrun = _torchrun(draft, problems)
        wanted = processes.per_node(draft.flags, training.nproc_per_node, problems)
        if wanted is None:
            problems.append("nproc_per_node auto: a checkout is given a number; give one with --nproc-per-node")
        if draft.flags.get("nnodes", 1) > 1:
            problems.append(
                "--nnodes: a checkout is driven on one machine; leave it out, or train with --engine native"
            )
        return CheckoutSettings(
            dataset=name,
            configs={name: source.label for name, source in draft.sources.items()},
            chosen={name: _told(draft.flags.get("set", {}), name) for name in (*Stage, "inference")},
            torchrun=torchrun,
            processes=wanted if wanted and torchrun else 1,
            processes_typed="nproc_per_node" in draft.flags,
            shards=bool((training.distributed or {}).get("use_fsdp")),
            sample_index=inference.sample_index,
        )

    def data_problems(self, settings: Settings) -> list[str]:
        own = CheckoutSettings.model_validate(settings.engine_settings)
        processes = 1 if settings.device == "cpu" else own.processes
        batch = processes * max(stage.batch_size_per_gpu for stage in settings.stages.values())
        frames, inference = settings.data, settings.inference
        length = max(stage.context_length for stage in settings.stages.values())
        share = frames.preload_ratio
        wanted = [
            data.Wanted("training", batch, length, share, "raise preload_ratio in training.yaml to"),
            data.Wanted("inference", 1, inference.frames, inference.preload_ratio, "give --preload-ratio"),
        ]
        return data.loader_problems(Path(frames.path), frames.skip, frames.stride, wanted)

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        from tiw_fsm.engines.checkout.engine import CheckoutEngine

        return CheckoutEngine(settings, paths)


def _told(picked: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of what was chosen with ``--set`` what the script of one file must be told, since it reads the files alone."""
    shared = chosen.of_file(picked, "training") if name in list(Stage) else {}
    both = {**shared, **chosen.of_file(picked, name)}
    return {key: value for key, value in both.items() if key.partition(".")[0] in FILES[name].schema.model_fields}


def _torchrun(draft: Draft, problems: list[str]) -> str | None:
    """Path of the typed torchrun; what is wrong with it, or that it is wanted, is added to ``problems``."""
    typed = draft.flags.get("torchrun")
    if typed is None:
        if str(draft.flags.get("nproc_per_node", 1)) != "1":
            problems.append("--nproc-per-node above 1 needs torchrun: give its path with --torchrun")
        return None
    if not (draft.repo_root / typed).is_file():
        problems.append(f"--torchrun {typed}: no such file; give the path of torchrun, beside the checkout's python")
    return str(draft.repo_root / typed)


KIND = CheckoutKind()
