"""What the checkout engine reads: W&B's file, scripts' output, scripts' code; and the checkpoints it hands over."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.support.checkout.files.mini import write_history
from tests.support.checkout.miniature import DIALECTS, make_checkout
from tests.support.settings import settings_of
from tiw_fsm.engines.checkout import checkpoint_adapter, dialect, script_output
from tiw_fsm.engines.checkout.dialect import StageDialect
from tiw_fsm.engines.checkout.plan import Plan, undone_rate_notes
from tiw_fsm.engines.protocol import TrainRequest
from tiw_fsm.errors import UsageProblem
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints, wandb_file
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.values.frozen import CheckpointRef, LearningRateSchedule, Tuning

RECORDED = Path(__file__).parent / "data/recorded.wandb"
"""A run of eight updates, of our own content, as wandb 0.31.0 wrote it offline."""

# --- W&B ----------------------------------------------------------------------------------------------------------


def test_the_history_that_wandb_wrote_is_read() -> None:
    rows = wandb_file.history(RECORDED)
    assert [row["_step"] for row in rows] == list(range(8))
    assert [row["train/loss"] for row in rows[:6]] == [0.5 / (i + 1) for i in range(6)]
    assert math.isnan(rows[6]["train/loss"])
    assert math.isinf(rows[7]["train/loss"])
    assert rows[5]["learning_rate/group_0"] == 0.001
    assert rows[5]["unique_actions"] == 2


def test_a_torn_end_costs_the_rows_behind_it_only(tmp_path: Path) -> None:
    whole = RECORDED.read_bytes()
    for length in range(7, len(whole), 97):
        (tmp_path / "torn.wandb").write_bytes(whole[:length])
        rows = wandb_file.history(tmp_path / "torn.wandb")
        assert rows == wandb_file.history(RECORDED)[:6][: len(rows)] or len(rows) > 6


def test_a_record_with_a_wrong_checksum_ends_the_reading(tmp_path: Path) -> None:
    content = bytearray(RECORDED.read_bytes())
    content[-1500] ^= 1
    (tmp_path / "altered.wandb").write_bytes(content)
    assert len(wandb_file.history(tmp_path / "altered.wandb")) < 8


def test_what_is_no_wandb_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(wandb_file.NotWandb):
        wandb_file.history(tmp_path / "other")


def test_records_longer_than_a_block_are_read(tmp_path: Path) -> None:
    rows = [{"_step": i, "train/loss": 0.1, "long": "x" * 20_000 * i} for i in range(5)]
    write_history(tmp_path / "long.wandb", rows)
    assert wandb_file.history(tmp_path / "long.wandb") == rows


# --- script output ------------------------------------------------------------------------------------------------

SAID = """\
Using video_tokenizer checkpoint: /a/video_tokenizer_step_9
Using latent_actions checkpoint: /a/latent_actions_step_9
Using dynamics checkpoint: /a b/dynamics_step_9
Loading 100 frames: 100%|##########| 1/1 [00:00<00:00, 99.00it/s]
Inferring frame 1/2
using random actions
Inferring frame 2/2
Visualization saved to: inference_results/inference_results_gt_vs_pred_20260101_000000.png

Inference stats:
Total frames generated: 4
Mean Squared Error (GT vs Pred): 0.012500
Mean Squared Error (GT vs Pred, full_with_context): 0.006250
"""


def test_inference_output_is_read() -> None:
    said = script_output.inference(SAID)
    assert said.checkpoints[Stage.DYNAMICS] == "/a b/dynamics_step_9"
    assert len(said.checkpoints) == 3
    assert (said.frames, said.mse, said.mse_with_context) == (2, 0.0125, 0.00625)
    assert said.statistics["total_frames"] == 4
    assert said.picture == "inference_results/inference_results_gt_vs_pred_20260101_000000.png"


def test_output_that_ends_early_has_nothing_made_up() -> None:
    said = script_output.inference(SAID.partition("Inference stats")[0])
    assert said.mse is None
    assert said.statistics == {}


def test_bars_are_read_by_their_total() -> None:
    text = "Loading: 100%|#| 5/5 [00:00<00:00]\r 10%|# | 2/20 [00:01<00:09]\r 15%|# | 3/20 [00:01<00:08]"
    assert script_output.updates_done(text, 20) == 3
    assert script_output.updates_done(text, 7) is None
    assert script_output.last_lines(text) == " 15%|# | 3/20 [00:01<00:08]"


# --- dialects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoken", DIALECTS)
def test_what_a_checkout_can_do_is_found_in_its_code(tmp_path: Path, templates: Path, spoken: str) -> None:
    make_checkout(tmp_path, spoken, templates)
    found, does = dialect.read(tmp_path), DIALECTS[spoken]
    for stage, able in found.stages.items():
        absolute = stage in does["absolute"]
        assert able.absolute_updates is able.restores_optimizer is able.restores_scheduler is absolute
        assert able.saves_last_step is absolute
        assert able.resets_rate is (stage in does["reset"])
    assert found.inference_reads_folders is does["folders"]
    assert sorted(found.inference_keys) == sorted(does["keys"])
    assert found.scores_context_frames is not does["context"]
    assert found.datasets == ["PONG", "ZELDA"]


def test_a_loop_that_cannot_be_found_is_said(tmp_path: Path, templates: Path) -> None:
    make_checkout(tmp_path, "newest", templates)
    (tmp_path / "scripts/train_dynamics.py").write_text("print('hello')\n")
    with pytest.raises(UsageProblem, match="no loop over n_updates"):
        dialect.read(tmp_path)


# --- plans --------------------------------------------------------------------------------------------------------

LENGTH = StageDialect(
    absolute_updates=False, restores_optimizer=False, restores_scheduler=False, resets_rate=False, saves_last_step=False
)
ABSOLUTE = StageDialect(
    absolute_updates=True, restores_optimizer=True, restores_scheduler=True, resets_rate=False, saves_last_step=True
)


def request(root: Path, start: int, stop_at: int, log_interval: int, schedule_start: int = 0) -> TrainRequest:
    config = settings_of(root, python_exec="configs/loop.yaml").stages[Stage.VIDEO]
    tuning = Tuning(learning_rate=0.1, gradient_accumulation_steps=1, batch_size_per_gpu=1, log_interval=log_interval)
    return TrainRequest(
        stage=Stage.VIDEO, owner="o", run="r", attempt=1, config=config, tuning=tuning,
        schedule=LearningRateSchedule(start=schedule_start, end=1000), data=DataSource(path="x", skip=0, stride=1),
        seed=0, resume=CheckpointRef(path="x", update=start - 1, sha256="") if start else None,
        start=start, stop_at=stop_at, checkpoint="x",
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 2, 3, 10, 200, 201, 5000])
@pytest.mark.parametrize("log_interval", [1, 7, 100, 500])
def test_a_version_that_saves_only_at_intervals_ends_with_a_saved_step(
    root: Path, chunk: int, log_interval: int
) -> None:
    plan = Plan.of(request(root, 400, 400 + chunk, log_interval), LENGTH)
    assert (plan.first, plan.offset) == (0, 400)
    assert (plan.n_updates - 1) % plan.log_interval == 0
    assert plan.log_interval <= max(log_interval, 1)
    assert chunk <= plan.n_updates <= chunk + max(1, -(-chunk // log_interval))


def test_an_absolute_version_counts_from_its_schedules_beginning(root: Path) -> None:
    plan = Plan.of(request(root, 400, 600, 100, schedule_start=300), ABSOLUTE)
    assert plan == Plan(first=100, n_updates=300, log_interval=100, offset=300)


def test_a_chunk_below_the_log_interval_still_has_a_picture(root: Path) -> None:
    plan = Plan.of(request(root, 110, 150, 100), ABSOLUTE)
    assert any(step % plan.log_interval == 0 for step in range(plan.first, plan.n_updates))


# --- checkpoints handed over --------------------------------------------------------------------------------------


def a_checkpoint(folder: Path, rate: float) -> torch.optim.lr_scheduler.LambdaLR:
    folder.mkdir()
    layer = torch.nn.Linear(8, 64)
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    layer(torch.ones(8)).sum().backward()
    optimizer.step()
    scheduler.step()
    torch.save(layer.state_dict(), folder / checkpoints.MODEL)
    torch.save(optimizer.state_dict(), folder / checkpoints.OPTIMIZER)
    state = {
        "scheduler_state_dict": scheduler.state_dict(),
        "config": {"frame_size": 16, "schedule": LearningRateSchedule},
        "step": 9,
    }
    torch.save(state, folder / checkpoints.STATE)
    return scheduler


def test_the_asked_rate_is_in_the_checkpoint_handed_over(tmp_path: Path) -> None:
    scheduler = a_checkpoint(tmp_path / "a", 0.01)
    checkpoint_adapter.resumable(tmp_path / "a", tmp_path / "b", step=19, rate=0.001, optimizer=True, schedule=True)
    optimizer = torch.load(tmp_path / "b" / checkpoints.OPTIMIZER, weights_only=True)
    assert [group["lr"] for group in optimizer["param_groups"]] == pytest.approx([0.0005, 0.0005])
    before = torch.load(tmp_path / "a" / checkpoints.OPTIMIZER, weights_only=True)
    assert torch.equal(optimizer["state"][0]["exp_avg"], before["state"][0]["exp_avg"])
    state = torch.load(tmp_path / "b" / checkpoints.STATE, weights_only=True)
    assert state["step"] == 19
    assert state["config"]["frame_size"] == 16
    scheduler.load_state_dict(state["scheduler_state_dict"])
    scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(0.0005)
    assert checkpoint_checks.problems(tmp_path / "b") == []


def test_a_warm_start_hands_over_weights_alone(tmp_path: Path) -> None:
    a_checkpoint(tmp_path / "a", 0.01)
    checkpoint_adapter.resumable(tmp_path / "a", tmp_path / "b", step=-1, rate=0.001, optimizer=False, schedule=False)
    assert not (tmp_path / "b" / checkpoints.OPTIMIZER).exists()
    assert torch.load(tmp_path / "b" / checkpoints.STATE, weights_only=True)["scheduler_state_dict"] is None


def test_a_rate_above_the_asked_one_is_said() -> None:
    assert undone_rate_notes([{"learning_rate": 0.001}], 0.001) == []
    assert "undid the retune" in undone_rate_notes([{"learning_rate": 0.002}], 0.001)[0]
