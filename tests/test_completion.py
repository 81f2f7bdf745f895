"""Shell completion, by bash itself: commands, flags, names of runs, keys behind ``--set``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.simulation import Simulation

PROGRAM = "#!{python}\nfrom tiw_fsm.cli import main\nmain()\n"
COMPLETE = """
eval "$(tiw-fsm --show-completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_tiw_fsm_completion tiw-fsm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(root: Path, *words: str) -> list[str]:
    """What bash offers when Tab is pressed behind the last of the words."""
    program = root / "bin/tiw-fsm"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    script = COMPLETE.format(words=shlex.join(["tiw-fsm", *words]))
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=root, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_flags_runs_and_keys(simulation: Simulation) -> None:
    simulation.run()
    (simulation.root / "state/no-run").mkdir()
    assert completed(simulation.root, "hist") == ["history"]
    assert "--set" in completed(simulation.root, "run", "--se")
    assert completed(simulation.root, "status", "--run", "") == ["default"]
    assert completed(simulation.root, "metrics", "def") == ["default"]
    assert completed(simulation.root, "runs", "diff", "default", "") == ["default"]
    assert completed(simulation.root, "run", "--set", "dynamics.n_u") == ["dynamics.n_updates="]
    assert completed(simulation.root, "run", "--run", "x", "--set", "loop.budgets.") == [
        f"loop.budgets.max_{name}=" for name in ("train_retries", "inference_retries", "crashes", "stalled_starts")
    ]


def test_it_looks_where_the_flags_say_and_offers_nothing_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/mine").mkdir(parents=True)
    (tmp_path / "elsewhere/mine/state.json").touch()
    (tmp_path / "file").touch()
    assert completed(tmp_path, "status", "--state-dir", "elsewhere", "--run", "") == ["mine"]
    assert completed(tmp_path, "status", "--state-dir", "file", "--run", "") == []
    assert completed(tmp_path, "status", "--run", "") == []
