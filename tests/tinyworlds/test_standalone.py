"""``tinyworlds`` is usable without the rest: it trains, saves and rolls out where no other part can be imported."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import tiw_fsm
from tests.support.configs import write_frames

ALONE = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        first, _, rest = name.partition(".")
        if first == "tiw_fsm" and rest and rest.split(".")[0] not in ("tinyworlds", "values", "stages", "version"):
            raise ImportError(f"{name} is refused")

sys.meta_path.insert(0, Refuses())
"""
"""Lets nothing of the package be imported but ``tinyworlds`` and what that may build on; the package itself has its
version."""

USES = """
import json
import sys
from pathlib import Path

import torch
from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, StageConfig
from tiw_fsm.tinyworlds.determinism import make_deterministic
from tiw_fsm.tinyworlds.evaluation import evaluate
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.rollout import WorldModel
from tiw_fsm.tinyworlds.training import Trainer, load_weights, write_checkpoint
from tiw_fsm.values.frozen import LearningRateSchedule, Tuning

config = StageConfig(
    n_updates=2, learning_rate=0.003, gradient_accumulation_steps=1, batch_size_per_gpu=4, log_interval=1,
    context_length=4, frame_size=16, patch_size=8, embed_dim=24, num_heads=2, hidden_dim=24, num_blocks=1,
    latent_dim=3, num_bins=4, n_actions=4,
)
tuning = Tuning(learning_rate=0.003, gradient_accumulation_steps=1, batch_size_per_gpu=4, log_interval=1)
schedule = LearningRateSchedule(start=0, end=2)
make_deterministic(threads=1)
cpu = torch.device("cpu")
data = FrameData(DataSource(path="frames.h5", skip=0, stride=1), cpu)
models, losses = {}, {}
for stage in Stage:
    trainer = Trainer(stage, config, data, cpu, seed=0, inputs=models)
    rows = trainer.train(0, 2, tuning, schedule, should_stop=lambda: False, progress=lambda done, loss: None)
    losses[stage] = [row["loss"] for row in rows]
    write_checkpoint(Path(stage), trainer.checkpoint(completed=2, tuning=tuning))
    models[stage] = make_model(stage, config).eval()
    load_weights(models[stage], Path(stage))
world = WorldModel(models[Stage.VIDEO], models[Stage.LATENT], models[Stage.DYNAMICS])
inference = InferenceConfig(generation_steps=3)
figures, clips, generated, *_ = evaluate(world, data, inference, clip_count=2, say=lambda line: None)
found = {"losses": losses, "mse": figures["mse"], "generated": list(generated.shape)}
print(json.dumps({**found, "compiler": "torch._dynamo" in sys.modules}))
"""
"""Two updates of each stage on real frames, their checkpoints loaded again, and the world they make rolled out."""


def run_alone(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ALONE + code], cwd=root, capture_output=True, text=True)


def test_a_world_is_trained_and_rolled_out_by_tinyworlds_alone(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames.h5")
    done = run_alone(tmp_path, USES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {stage: len(losses) for stage, losses in found["losses"].items()} == {
        "video_tokenizer": 2,
        "latent_actions": 2,
        "dynamics": 2,
    }
    assert all(math.isfinite(loss) for losses in found["losses"].values() for loss in losses)
    assert 0 < found["mse"] < 1
    assert found["generated"] == [2, 3, 3, 16, 16]
    assert not found["compiler"], "torch's compiler was imported, which takes nearly as long as torch itself"


PACKAGE = Path(tiw_fsm.__path__[0])
OTHERS = sorted(
    {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    - {"__init__", "tinyworlds", "values", "stages", "version"}
)
"""Every other folder and module of the package."""


@pytest.mark.parametrize("other", OTHERS)
def test_another_part_would_be_noticed(tmp_path: Path, other: str) -> None:
    done = run_alone(tmp_path, f"import tiw_fsm.{other}")
    assert f"ImportError: tiw_fsm.{other} is refused" in done.stderr
