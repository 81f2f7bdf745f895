"""What a file says without effect is named, by check and by the first start."""

from __future__ import annotations

from pathlib import Path

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.simulation import Simulation

STOCK = {
    "training": {"standalone": True, "run_dynamics": False, "learning_rate": 0.001, "fps": 15, "use_wandb": None},
    "dynamics": {"learning_rate": 0.002, "device": "cpu", "fps": 30, "checkpoint": ""},
    "inference": {"use_gt_actions": True, "fps": 30, "sample_index": 0},
}
TOLD = (
    "training.yaml: standalone, run_dynamics; "
    "inference.yaml: use_gt_actions, fps, sample_index; "
    "dynamics.yaml: learning_rate (training.yaml's comes first), fps (training.yaml's comes first)"
)


def test_keys_without_effect_are_named_in_one_line(simulation: Simulation, tiw: Tiw) -> None:
    own = dict.fromkeys(("learning_rate",))
    write_configs(simulation.root / "configs", {**STOCK, "video_tokenizer": own, "latent_actions": own})
    done = tiw(simulation.root, "check", "--engine", "simulated")
    (line,) = [line for line in done.stdout.splitlines() if "without effect" in line]
    assert line.endswith(f"configs are aligned; without effect: {TOLD}")
    done = tiw(simulation.root, "run", "--engine", "simulated")
    assert done.stderr.count(f"without effect here: {TOLD}") == 1


def test_where_all_keys_are_heard_nothing_is_said(tiw: Tiw) -> None:
    project = Path(__file__).parent.parent.parent
    for configs in ("configs", "configs/demo", "configs/crafter"):
        done = tiw(project, "check", "--config-dir", configs, "--state-dir", "build/none")
        assert "without effect" not in done.stdout


def test_files_as_tinyworlds_has_them_are_refused_once_with_all_there_is_to_do(tmp_path: Path, tiw: Tiw) -> None:
    stock = {
        "training": {"dataset": "PICODOOM", "device": None, "num_blocks": None, "a_key_of_tomorrow": 1},
        "video_tokenizer": {"num_blocks": 4},
        "latent_actions": {"num_blocks": 2},
        "dynamics": {"num_blocks": 8},
        "inference": {"dataset": "PONG", "device": "mps"},
    }
    write_configs(tmp_path / "configs", stock)
    for command in ("check", "run"):
        done = tiw(tmp_path, command)
        told = done.stdout + done.stderr
        assert done.returncode == 2
        for what in (
            "unknown key",
            "give cpu",
            "give all stages one value",
            "give --dataset for both",
            "tiw-fsm download PICODOOM",
        ):
            assert told.count(what) == 1, (command, what)
