"""Kubernetes' published schema and SkyPilot's own parser take what is written for them.

``make test-schedulers`` has both, in an environment of their own; elsewhere this is skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.schedulers.long_run import PROJECT
from tiw_fsm.scheduling.job import Job, Machines
from tiw_fsm.scheduling.snippets import Scheduler, snippet

PYTHON = PROJECT / "build/validators/bin/python"
ROOT = Path("/my/root")
JUDGES = {
    Scheduler.KUBERNETES: """
import sys, kubernetes_validate, yaml
for each in yaml.safe_load_all(sys.stdin):
    kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    print(each["kind"])
""",
    Scheduler.SKYPILOT: """
import sys, sky, yaml
task = sky.Task.from_yaml_config(yaml.safe_load(sys.stdin))
(resources,) = task.resources
print(task.num_nodes, resources.accelerators, resources.use_spot, resources.job_recovery["recover_on_exit_codes"])
""",
}
SAYS = {
    (Scheduler.KUBERNETES, 1): "Job",
    (Scheduler.KUBERNETES, 8): "Service\nJob",
    (Scheduler.SKYPILOT, 1): "1 None True [75]",
    (Scheduler.SKYPILOT, 8): "8 {'H100': 4} True [75]",
}


def judged(scheduler: Scheduler, text: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    return subprocess.run(
        [PYTHON, "-c", JUDGES[scheduler]],
        input=text,
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not PYTHON.exists(), reason="there are no build/validators: make test-schedulers makes them")
@pytest.mark.parametrize("nodes", [1, 8])
@pytest.mark.parametrize("scheduler", JUDGES)
def test_the_schedulers_own_judgement(tmp_path: Path, scheduler: Scheduler, nodes: int) -> None:
    gpus = 4 if nodes > 1 else None
    machines = {
        Scheduler.KUBERNETES: Machines(nodes, gpus, image="world:1"),
        Scheduler.SKYPILOT: Machines(nodes, gpus, accelerator="H100" if gpus else None),
    }
    text = snippet(scheduler, Job(["tiw-fsm"], ROOT, "mine", ROOT / "state", machines[scheduler]))
    done = judged(scheduler, text, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, SAYS[scheduler, nodes]), done.stderr
    misspelt = {Scheduler.KUBERNETES: ("backoffLimit", "backofLimit"), Scheduler.SKYPILOT: ("use_spot", "use_spots")}
    assert judged(scheduler, text.replace(*misspelt[scheduler]), tmp_path).returncode != 0  # it would notice
