"""``tiw-fsm verify``: all that the state vouches for, or what is damaged and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode

STATE, RESULTS = Path("state/default"), Path("results/default")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def ended(simulation: Simulation) -> Simulation:
    simulation.run(Script(mse=[0.5, 0.01]))
    return simulation


def test_an_untouched_run_is_whole(ended: Simulation, tiw: Tiw) -> None:
    done = tiw(ended.root, "verify")
    assert done.returncode == ExitCode.PASSED
    assert "damaged" not in done.stdout
    assert done.stdout.strip().endswith("All that the state vouches for is there, unaltered.")
    looked_at = {
        Path(entry["what"].split()[-1]).name for entry in json.loads(tiw(ended.root, "verify", "--json").stdout)
    }
    assert looked_at >= {"state.json", "state.prev.json", "journal.jsonl", "config.json", "metrics.jsonl"}
    assert looked_at >= {"video_tokenizer_step_19", "latent_actions_step_9", "dynamics_step_29", "attempt_2.json"}


CHECKPOINT = RESULTS / "dynamics/checkpoints/dynamics_step_29"


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        (STATE / "state.json", "goes on from the generation before"),
        (STATE / "state.prev.json", "writes it anew"),
        (STATE / "journal.jsonl", "goes on from the generation before"),
        (STATE / "config.json", "writes it anew"),
        (RESULTS / "latent_actions/metrics.jsonl", "Put it back from a backup"),
        (RESULTS / "inference/attempt_2.json", "Put it back from a backup"),
        (CHECKPOINT / "model_state_dict.pt", "Put it back from a backup"),
        (CHECKPOINT / "optim_state_dict.pt", "Put it back from a backup"),
        (CHECKPOINT / "state.pt", "Put it back from a backup"),
        (CHECKPOINT / "manifest.json", "Put it back from a backup"),
    ],
)
@pytest.mark.parametrize("damage", [cut, flip])
def test_what_is_damaged_is_named_with_what_to_do_and_nothing_is_changed(
    ended: Simulation, tiw: Tiw, path: Path, remedy: str, damage: Callable[[Path], None]
) -> None:
    damage(ended.root / path)
    before = {file: file.read_bytes() for file in ended.root.rglob("*") if file.is_file()}
    done = tiw(ended.root, "verify")
    assert done.returncode == ExitCode.DAMAGED
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("damaged")]
    assert path.name in told or path.parent.name in told
    if path.name != "journal.jsonl" or damage is cut:  # one flipped in its middle is beyond the generation before
        assert remedy in done.stdout
    assert {file: file.read_bytes() for file in ended.root.rglob("*") if file.is_file()} == before


def test_both_states_damaged_leave_only_a_backup(ended: Simulation, tiw: Tiw) -> None:
    for name in ("state.json", "state.prev.json"):
        cut(ended.root / STATE / name)
    done = tiw(ended.root, "verify")
    assert (done.returncode, done.stdout.count("Put it back from a backup")) == (ExitCode.DAMAGED, 2)


def test_a_run_that_has_not_begun_has_nothing_to_verify(simulation: Simulation, tiw: Tiw) -> None:
    done = tiw(simulation.root, "verify")
    assert (done.returncode, "has not begun" in done.stdout) == (ExitCode.PASSED, True)
