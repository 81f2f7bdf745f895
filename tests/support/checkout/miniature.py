"""A miniature TinyWorlds checkout of our own writing, in each dialect that the real versions speak."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.support.configs import LENIENT, merged, write_configs, write_frames
from tests.support.settings import settings_of
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.tinyworlds.objectives import make_model

FILES = Path(__file__).parent / "files"

LENGTH = """
    for i in range(args.n_updates):
        training.update(i, scheduler)
        if i % args.log_interval == 0:
            save_training_state(training, scheduler, i)
"""
ABSOLUTE = """
    for i in range(first, args.n_updates):
        training.update(i, scheduler)
        if i % args.log_interval == 0:
            save_training_state(training, scheduler, i)
    last = args.n_updates - 1
    if last % args.log_interval:
        save_training_state(training, scheduler, last)
"""
RESTORE = """
if args.checkpoint:
    optimizer = Optimizer()
    if os.path.isfile(os.path.join(args.checkpoint, "optim_state_dict.pt")):
        optimizer.load_state_dict({"state": 1})
    scheduler.load_state_dict(load_state(args.checkpoint)["scheduler_state_dict"])
"""
RESET = """
    scheduler.base_lrs = [args.learning_rate for _ in scheduler.base_lrs]
"""
TRAIN = """
import os

from utils.mini import Optimizer, Scheduler, Training, arguments, load_state, save_training_state

args = arguments("--config", "--training_config")
first = load_state(args.checkpoint)["step"] + 1 if args.checkpoint else 0
scheduler = Scheduler(args)
{restore}
with Training({stage!r}, args, {first}) as training:
{loop}
"""
INFER = """
import os
import time
from pathlib import Path

from utils.inference_utils import visualize_inference
from utils.mini import arguments, fault


def missing(path):
    return not path or not os.path.{exists}(path)


args = arguments("--config")
for stage, key in (("video_tokenizer", "video_tokenizer"), ("latent_actions", "latent_actions"), ("dynamics",) * 2):
    path = getattr(args, key + "_path")
    if missing(path) or fault("fall_back", stage):
        path = str(Path("results") / "older" / stage)
    print(f"Using {{stage}} checkpoint: {{path}}")
if fault("infer_crash", "inference"):
    raise ValueError("made to fail")
for i in range(args.generation_steps):
    print(f"Inferring frame {{i + 1}}/{{args.generation_steps}}")
visualize_inference(args)
"""
DRAW = """
import time
from pathlib import Path

from utils.mini import draw, fault


def visualize_inference(args{parameter}):
    path = Path("inference_results") / f"inference_results_gt_vs_pred_{{time.time_ns()}}.png"
    draw(path)
    print(f"Visualization saved to: {{path}}")
    print()
    print("Inference stats:")
    print(f"Total frames generated: {{args.generation_steps + args.context_window}}")
    print(f"Mean Squared Error (GT vs Pred): {{(fault('mse', 'inference') or {{'is': 0.01}})['is']:.6f}}")
"""
CONFIG = """
class InferenceConfig:
    generation_steps: int
{fields}
"""
DATA = """
def load_data_and_data_loaders(dataset):
    if dataset == "PONG":
        return 1
    elif dataset == "ZELDA":
        return 2
"""
DIALECTS: dict[str, dict[str, Any]] = {
    "upstream": {"absolute": (), "reset": (), "folders": True, "keys": (), "context": False},
    "middle": {"absolute": (Stage.DYNAMICS,), "reset": (), "folders": False, "keys": (), "context": False},
    "newest": {
        "absolute": tuple(Stage),
        "reset": (Stage.VIDEO, Stage.LATENT),
        "folders": True,
        "keys": ("decode_steps", "seed", "sample_index"),
        "context": True,
    },
}
"""What upstream's newest, the fork's 3a7f08f and the fork's newest do, as far as scripts show it."""


def make_checkout(root: Path, spoken: str, templates: Path, changes: dict[str, Any] | None = None) -> None:
    """Lay out a checkout that speaks the dialect ``spoken``, with data and tiny configs."""
    does = DIALECTS[spoken]
    for stage in Stage:
        absolute = stage in does["absolute"]
        text = TRAIN.format(
            stage=stage.value,
            first="first" if absolute else "0",
            restore=(RESTORE if absolute else "") + (RESET if stage in does["reset"] else ""),
            loop=ABSOLUTE if absolute else LENGTH,
        )
        write(root / f"scripts/train_{stage}.py", text)
    write(root / "scripts/run_inference.py", INFER.format(exists="exists" if does["folders"] else "isfile"))
    write(root / "utils/inference_utils.py", DRAW.format(parameter=", context_window=0" if does["context"] else ""))
    write(root / "utils/config.py", CONFIG.format(fields="".join(f"    {key}: int = 0\n" for key in does["keys"])))
    write(root / "datasets/data_utils.py", DATA)
    write(root / "fault.json", "[]")
    shutil.copyfile(FILES / "mini.py", root / "utils/mini.py")
    shutil.copytree(templates, root / "templates")
    (root / "data").mkdir()
    write_frames(root / "data/pong_frames.h5")
    tiny: dict[str, Any] = {
        "training": {"dataset": "PONG", "fps": 60},
        "loop": merged(LENIENT, {"inference": {"allow_trivial": True}}),
    }
    write_configs(root / "configs", merged(tiny, changes or {}))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_faults(root: Path, *faults: dict[str, Any]) -> None:
    for count in root.glob("fault.*.count"):
        count.unlink()
    (root / "fault.json").write_text(json.dumps(faults))


def make_templates(folder: Path, configs: Path, changes: dict[str, Any] | None = None) -> None:
    """Weights and optimizer states of our own tiny models, as TinyWorlds saves them."""
    write_frames(configs / "frames.h5")
    write_configs(configs / "configs", changes)
    settings = settings_of(configs)
    for stage, config in settings.stages.items():
        model = make_model(stage, config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
        sum(parameter.float().sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
        target = folder / stage
        target.mkdir(parents=True)
        torch.save(model.state_dict(), target / checkpoints.MODEL)
        torch.save(optimizer.state_dict(), target / checkpoints.OPTIMIZER)
        (target / "config.json").write_text(config.model_dump_json())
