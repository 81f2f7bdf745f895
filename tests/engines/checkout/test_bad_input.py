"""Bad input to the checkout engine: one message each, with the remedy, before anything starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout.checkout_runs import Checkout, MakeCheckout
from tests.support.checkout.miniature import make_templates
from tests.support.configs import write_frames
from tiw_fsm.storage.torch_writing import write_plain


def refused(tiny: Checkout, *more: str) -> str:
    """What is said by a start that exits 2 and leaves no state and no artifacts."""
    done = tiny.run(*more)
    assert done.returncode == 2, done.stderr
    assert not (tiny.root / "state/default/state.json").exists()
    assert not (tiny.root / "results").exists()
    assert not (tiny.root / "asked.jsonl").exists()
    return done.stderr


def test_a_folder_that_is_no_checkout(checkout: MakeCheckout) -> None:
    tiny = checkout()
    (tiny.root / "scripts/run_inference.py").unlink()
    said = refused(tiny)
    assert "no TinyWorlds checkout: scripts/run_inference.py missing" in said
    assert "give --repo-root the folder" in said


def test_a_missing_interpreter(checkout: MakeCheckout) -> None:
    assert "give the path of a Python that has the checkout's requirements" in refused(
        checkout(), "--python-exec", ".venv/bin/python"
    )


def test_an_interpreter_that_is_none(checkout: MakeCheckout) -> None:
    tiny = checkout()
    (tiny.root / "python").write_text("not a program")
    assert "correct --python-exec" in refused(tiny, "--python-exec", "python")


def test_a_missing_torchrun(checkout: MakeCheckout) -> None:
    assert "--torchrun ./torchrun: no such file; give the path" in refused(checkout(), "--torchrun", "./torchrun")


def test_several_processes_without_torchrun(checkout: MakeCheckout) -> None:
    assert "needs torchrun: give its path with --torchrun" in refused(checkout(), "--nproc-per-node", "2")


def test_several_processes_on_the_cpu(checkout: MakeCheckout) -> None:
    said = refused(checkout(), "--nproc-per-node", "2", "--torchrun", sys.executable)
    assert "on CUDA only; give --nproc-per-node 1" in said


def test_what_is_wrong_with_the_frames_is_told_with_what_is_wrong_with_the_interpreter(checkout: MakeCheckout) -> None:
    tiny = checkout()
    (tiny.root / "python").write_text("not a program")
    (tiny.root / "data/pong_frames.h5").unlink()
    said = refused(tiny, "--python-exec", "python")
    assert "correct --python-exec" in said
    assert "pong_frames.h5: no such file" in said


def test_requirements_that_are_not_installed(checkout: MakeCheckout) -> None:
    tiny = checkout()
    with open(tiny.root / "utils/mini.py", "a") as file:
        file.write("\n\ndef later():\n    import surely_not_installed.deep\n")
    said = refused(tiny)
    assert "lacks surely_not_installed; install the checkout's requirements" in said
    assert "requirements.txt" in said


def test_a_dataset_the_checkout_does_not_know(checkout: MakeCheckout) -> None:
    said = refused(checkout(), "--dataset", "frames.h5")
    assert "dataset 'frames.h5' is none that this checkout knows; it knows PONG, ZELDA" in said


@pytest.mark.parametrize(
    ("changes", "flags", "said"),
    [
        ({}, ("--preload-ratio", "0.5"), "inference reads the first 0.5 of its 1440 rows"),
        ({"training": {"preload_ratio": 0.699}}, (), "training reads the first 0.699 of its 1440 rows"),
    ],
)
def test_a_share_of_the_rows_that_leaves_a_script_no_clip(
    checkout: MakeCheckout, changes: dict[str, Any], flags: tuple[str, ...], said: str
) -> None:
    """Its loader counts the rows it skips into the share: found out before hours of training, not after."""
    tiny = checkout(changes=changes)
    write_frames(tiny.root / "data/zelda_frames.h5", episodes=60)
    told = refused(tiny, "--dataset", "ZELDA", *flags)
    assert said in told
    assert "or more" in told


def test_misaligned_configs(checkout: MakeCheckout) -> None:
    """As upstream's stock files are; aligned copies can be given by --config-dir."""
    assert "give all stages one value" in refused(checkout(changes={"dynamics": {"num_blocks": 8}}))


def test_check_finds_it_without_a_start(checkout: MakeCheckout) -> None:
    tiny = checkout(changes={"training": {"dataset": "SONIC"}})
    found = tiny.call("check", "--engine", "checkout")
    assert found.returncode == 2
    assert "none that this checkout knows" in found.stdout
    assert tiny.call("check", "--engine", "checkout", "--dataset", "PONG").returncode == 0


def test_metrics_that_are_switched_off(checkout: MakeCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "unset it" in refused(checkout())


def test_a_run_root_that_cannot_be_written_to(checkout: MakeCheckout) -> None:
    assert "give another --repo-root or --run-root" in refused(checkout(), "--run-root", "/proc/results")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody who may not write")
def test_a_root_that_cannot_be_written_to(checkout: MakeCheckout) -> None:
    tiny = checkout()
    for folder in (tiny.root, *tiny.root.parents[:-2]):
        folder.chmod(0o755)
    loaded = "from tiw_fsm import cli; from tiw_fsm.run import launch"
    program = f"import os, sys; sys.path[:0] = {sys.path!r}; {loaded}; os.setuid(65534); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *tiny.command()], cwd=tiny.root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written to; mend its permissions" in done.stderr


EXPERTS = {"training": {"optimizer": "muon", "use_moe": True}}


def test_a_mixture_of_experts_is_judged_like_any_other_model(
    checkout: MakeCheckout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny = checkout(changes=EXPERTS)
    shutil.rmtree(tiny.root / "templates")
    make_templates(tiny.root / "templates", tmp_path_factory.mktemp("experts"), EXPERTS)
    done = tiny.run()
    assert done.returncode == 0, done.stderr
    assert tiny.state.inference.attempts[-1].baselines


def test_dynamics_without_the_experts_that_the_config_asks_for(checkout: MakeCheckout) -> None:
    tiny = checkout(changes=EXPERTS)
    plain = tiny.root / "plain/dynamics_step_9"
    shutil.copytree(tiny.root / "templates/dynamics", plain)
    write_plain(plain / "state.pt", {"config": {}, "step": 9, "scheduler_state_dict": None})
    told = refused(tiny, "--dynamics-checkpoint", "plain/dynamics_step_9")
    assert "is of another architecture" in told
    assert "experts.0.w_v.weight is missing" in told


FULL = """
import os, resource, sys
from pathlib import Path
from tiw_fsm.engines.checkout.scripts import run_script
Path("log").write_bytes(bytes(900))
resource.setrlimit(resource.RLIMIT_FSIZE, (1200, resource.RLIM_INFINITY))
run_script(
    [sys.executable, "-c", "print('x' * 1000)"], cwd=Path.cwd(), environment=os.environ, output=Path("output"),
    log=Path("log"), max_silence=60, stopping=lambda: False, relay=lambda told: None,
)
"""
"""A script says more than the run's log has room for; the command that was started still fits."""


def test_a_log_that_the_disk_refuses_is_no_bug(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True)
    assert "DiskRefused: writing log failed: File too large" in done.stderr
    assert (tmp_path / "output").stat().st_size == 1001


def test_an_option_that_its_scripts_do_not_have(checkout: MakeCheckout) -> None:
    tiny = checkout()
    with open(tiny.root / "configs/latent_actions.yaml", "a") as file:
        file.write("key_hint_weight: 0.1\n")
    said = refused(tiny)
    assert "key_hint_weight: the checkout's scripts have no such option" in said
    assert "train with --engine native" in said
