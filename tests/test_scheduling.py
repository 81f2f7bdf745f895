"""The snippets: what a shell, a YAML parser and stand-ins make of them, hard paths included.

The real programs, and the schemas of those that are not here, have their turn in ``tests/schedulers``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.scheduling.job import Job, Machines
from tiw_fsm.scheduling.snippets import KINDS, Scheduler, snippet

NASTY = "a b%c$HOME \"d\" 'e' #f;g&h"
PLAIN = Job(["/my/root/.venv/bin/tiw-fsm"], Path("/my/root"), "default", Path("/my/root/state"))
LEAST = {Scheduler.KUBERNETES: Machines(image="world:1")}
"""What a scheduler has to be told."""


def nasty_job(folder: Path, program: str, *, state: str = "state", machines: Machines = Machines()) -> Job:  # noqa: B008
    """A run in a folder with a hard name, by a program in it that is the shell script ``program``."""
    root = folder / NASTY
    root.mkdir(exist_ok=True)
    script = root / "tiw-fsm"
    script.write_text(f"#!/bin/bash\n{program}\n")
    script.chmod(0o755)
    return Job([str(script)], root, "one", root / state, machines)


@pytest.mark.parametrize("scheduler", Scheduler)
def test_standard_output_is_the_snippet_alone(tmp_path: Path, tiw: Tiw, scheduler: Scheduler) -> None:
    least = LEAST.get(scheduler, Machines())
    told = [f"--{field}={value}" for field, value in least._asdict().items() if value]
    done = tiw(tmp_path, "schedule", scheduler, "--run", "mine", *told)
    job = Job([sys.executable, "-m", "tiw_fsm"], tmp_path, "mine", tmp_path / "state", least)
    assert (done.returncode, done.stdout) == (ExitCode.PASSED, snippet(scheduler, job))
    assert len(done.stderr.splitlines()) == 2  # what to do with it, and that this run has not begun
    (tmp_path / "state/mine").mkdir(parents=True)  # as a start that was refused leaves it
    assert tiw(tmp_path, "schedule", scheduler, "--run", "mine", *told).stderr == done.stderr


def test_a_run_name_that_is_none_is_refused(tmp_path: Path, tiw: Tiw) -> None:
    assert tiw(tmp_path, "schedule", "cron", "--run", "a b").returncode == ExitCode.USAGE


def test_a_plain_cron_line_is_plain() -> None:
    assert snippet(Scheduler.CRON, PLAIN) == (
        "* * * * * cd /my/root && mkdir -p state/default && /my/root/.venv/bin/tiw-fsm run --run default --if-idle"
        " >> state/default/cron.log 2>&1\n"
    )


@pytest.mark.parametrize("scheduler", Scheduler)
def test_a_line_break_in_a_path_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(UsageProblem, match="rename it"):
        snippet(scheduler, PLAIN._replace(repo_root=Path("/my\nroot"), machines=LEAST.get(scheduler, Machines())))


@pytest.mark.parametrize(
    ("scheduler", "machines", "told"),
    [
        (Scheduler.CRON, Machines(nodes=2), "--nodes means nothing to cron: leave it out, or ask for slurm"),
        (Scheduler.SYSTEMD, Machines(gpus_per_node=1), "--gpus-per-node means nothing to systemd"),
        (Scheduler.SLURM, Machines(image="world:1"), "--image means nothing to slurm: .* ask for kubernetes"),
        (Scheduler.SLURM, Machines(volume="mine"), "ask for kubernetes or skypilot"),
        (Scheduler.KUBERNETES, Machines(image="world:1", accelerator="H100"), "ask for skypilot"),
        (Scheduler.KUBERNETES, Machines(), "name an image"),
        (Scheduler.KUBERNETES, Machines(image="world\n1"), "no kubernetes file can hold"),
        (Scheduler.SKYPILOT, Machines(gpus_per_node=8), "--accelerator H100"),
        (Scheduler.SKYPILOT, Machines(accelerator="H100"), "--gpus-per-node 1"),
    ],
)
def test_what_a_scheduler_cannot_use_or_lacks_is_said(scheduler: Scheduler, machines: Machines, told: str) -> None:
    with pytest.raises(UsageProblem, match=told):
        snippet(scheduler, PLAIN._replace(machines=machines))


@pytest.mark.parametrize("flag", ["--nodes", "--gpus-per-node"])
def test_no_machine_and_no_gpu_is_refused(tmp_path: Path, tiw: Tiw, flag: str) -> None:
    done = tiw(tmp_path, "schedule", "slurm", flag, "0")
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert flag in done.stderr


@pytest.mark.parametrize("scheduler", [Scheduler.KUBERNETES, Scheduler.SKYPILOT])
@pytest.mark.parametrize("problem", [{"run": "a_-_b"}, {"state_dir": Path("/else/where")}])
def test_a_run_that_other_machines_would_not_find_is_refused(scheduler: Scheduler, problem: dict[str, Any]) -> None:
    (asked,) = problem
    with pytest.raises(UsageProblem, match=f"--{asked.replace('_', '-')}"):
        snippet(scheduler, PLAIN._replace(machines=Machines(image=LEAST.get(scheduler, Machines()).image), **problem))


@pytest.mark.parametrize("scheduler", [kind for kind in Scheduler if "nodes" in KINDS[kind].takes])
def test_one_machine_without_gpus_is_what_it_is_without_being_asked_for(scheduler: Scheduler) -> None:
    least = LEAST.get(scheduler, Machines())
    assert snippet(scheduler, PLAIN._replace(machines=least._replace(nodes=1))) == snippet(
        scheduler, PLAIN._replace(machines=least)
    )


def test_what_cron_would_misread_is_refused() -> None:
    for root, reason in (("/my\\%root", "backslash"), ("/" + "x" * 990, "990 bytes")):
        with pytest.raises(UsageProblem, match=reason):
            snippet(Scheduler.CRON, PLAIN._replace(repo_root=Path(root)))


def test_what_systemd_would_misread_is_refused() -> None:
    with pytest.raises(UsageProblem, match="at its end"):
        snippet(Scheduler.SYSTEMD, PLAIN._replace(repo_root=Path("/my/root ")))
    with pytest.raises(UsageProblem, match="starts no program"):
        snippet(Scheduler.SYSTEMD, PLAIN._replace(program=["/it's/tiw-fsm"]))


def cron_command(job: Job) -> str:
    """What cron would hand to the shell."""
    line = snippet(Scheduler.CRON, job)
    assert line.count("\n") == 1
    assert "%" not in line.replace(r"\%", "")
    return line.removeprefix("* * * * * ").replace(r"\%", "%")


@pytest.mark.parametrize("state", ["state", "else where%"])
def test_crons_words_reach_the_program_unaltered(tmp_path: Path, state: str) -> None:
    job = nasty_job(tmp_path, 'pwd; printf "%s\\n" "$@"', state=state)
    for _ in range(2):  # before there is a state folder, and after
        subprocess.run(["sh", "-c", cron_command(job)], check=True, cwd="/")
    said = (job.state_dir / "one" / "cron.log").read_text().splitlines()
    elsewhere = [] if state == "state" else ["--state-dir", str(job.state_dir)]
    assert said == [str(job.repo_root), "run", "--run", "one", *elsewhere, "--if-idle"] * 2


def test_crons_line_starts_a_run_that_goes_on_to_its_end(tmp_path: Path) -> None:
    job = Job([sys.executable, "-m", "tiw_fsm"], tmp_path / NASTY, "one", tmp_path / NASTY / "state")
    write_configs(job.repo_root / "configs")
    command = cron_command(job).replace(" --if-idle", " --if-idle --engine simulated")
    assert subprocess.run(["sh", "-c", command], check=False).returncode == ExitCode.PASSED
    assert "PASSED: the inference gate passed" in (job.state_dir / "one" / "cron.log").read_text()


# --- Slurm's script, with stand-ins for scontrol and srun -------------------------------------------------------------


SRUN = """#!/bin/bash
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
echo "${options[@]}" > 'RECORD'
setsid "$@" &
trap "kill -KILL -- -$!" TERM
wait $!
"""
"""On this machine, as if it were another; after a TERM it lets nobody live, as Slurm's own."""


class Batch:
    """The script as Slurm would run it; ``program`` is what it takes for tiw-fsm."""

    def __init__(
        self,
        folder: Path,
        program: str,
        *,
        job_state: str = "RUNNING",
        machines: Machines = Machines(),  # noqa: B008
    ) -> None:
        tools = folder / "tools"
        tools.mkdir()
        self.step = folder / "step"
        for name, text in (
            ("srun", SRUN.replace("RECORD", str(self.step))),
            ("sleep", f"#!/bin/sh\nexec {shutil.which('sleep')} 0.02\n"),
        ):
            if machines.many:
                (tools / name).write_text(text)
                (tools / name).chmod(0o755)
        self.requeues = folder / "requeues"
        self.requeues.touch()
        stand_in = tools / "scontrol"
        stand_in.write_text(
            f'#!/bin/sh\nif [ "$1" = show ]; then echo "   JobState={job_state} Reason=None"; '
            f"else echo \"$@\" >> '{self.requeues}'; fi\n"
        )
        stand_in.chmod(0o755)
        job = nasty_job(folder, program, machines=machines)
        self.root = job.repo_root
        self.listening = self.root / "listening"
        self.process = subprocess.Popen(
            ["bash", "-c", snippet(Scheduler.SLURM, job)],
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def send(self, number: signal.Signals, *, to_all: bool = False) -> None:
        """To the script alone, or to the program as well, as Slurm sends its TERM; once the program listens."""
        deadline = time.monotonic() + 10
        while not self.listening.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (os.killpg if to_all else os.kill)(self.process.pid, number)

    def ended(self) -> tuple[int, str, str]:
        """Exit code, what the program said, and what scontrol was asked."""
        said, _ = self.process.communicate(timeout=20)
        return self.process.returncode, said, self.requeues.read_text()


def listener(code: int) -> str:
    """A program that ends with ``code`` when it gets a signal, and says which."""
    caught = " ".join(f"trap 'echo {name}; sleep 0.2; exit {code}' {name};" for name in ("USR1", "TERM"))
    return f"{caught} touch listening; while :; do sleep 0.05; done"


def test_slurms_script_is_bash_and_its_words_reach_the_program_unaltered(tmp_path: Path) -> None:
    job = nasty_job(tmp_path, "")
    subprocess.run(["bash", "-n"], input=snippet(Scheduler.SLURM, job), text=True, check=True)
    batch = Batch(tmp_path, 'pwd; printf "%s\\n" "$@"')
    assert batch.ended() == (0, f"{job.repo_root}\nrun\n--run\none\n", "")


@pytest.mark.parametrize("code", [code for code in ExitCode if code != ExitCode.INTERRUPTED])
def test_slurms_script_passes_on_an_exit_code_without_requeueing(tmp_path: Path, code: ExitCode) -> None:
    assert Batch(tmp_path, f"exit {code.value}").ended() == (code, "", "")


def test_slurms_script_requeues_a_run_that_was_interrupted(tmp_path: Path) -> None:
    assert Batch(tmp_path, "exit 75").ended() == (75, "", "requeue 42\n")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurms_notice_reaches_the_run_once_and_the_job_is_requeued(tmp_path: Path, number: signal.Signals) -> None:
    batch = Batch(tmp_path, listener(75))
    batch.send(number)
    assert batch.ended() == (75, number.name.removeprefix("SIG") + "\n", "requeue 42\n")


def test_a_run_that_ends_while_it_is_given_notice_is_not_requeued(tmp_path: Path) -> None:
    batch = Batch(tmp_path, listener(0))
    batch.send(signal.SIGUSR1)
    assert batch.ended() == (0, "USR1\n", "")


def test_a_run_told_before_it_listens_is_requeued(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "touch listening; exec sleep 20")
    batch.send(signal.SIGUSR1)
    assert batch.ended() == (75, "", "requeue 42\n")


def test_a_cancelled_job_is_told_once_and_not_requeued(tmp_path: Path) -> None:
    batch = Batch(tmp_path, listener(75), job_state="COMPLETING")
    batch.send(signal.SIGTERM, to_all=True)
    assert batch.ended() == (75, "TERM\n", "")


# --- on many nodes ----------------------------------------------------------------------------------------------------

THREE = Machines(nodes=3, gpus_per_node=8)


def test_slurms_script_asks_for_the_gpus_of_one_node_and_joins_nobody() -> None:
    script = snippet(Scheduler.SLURM, PLAIN._replace(machines=Machines(nodes=1, gpus_per_node=8)))
    assert {"#SBATCH --nodes=1", "#SBATCH --gpus-per-node=8"} <= set(script.splitlines())
    assert "\n/my/root/.venv/bin/tiw-fsm run --run default --nproc-per-node 8 &\n" in script
    assert "srun" not in script


def test_slurms_first_node_runs_and_the_others_join_it_where_no_other_job_is(tmp_path: Path) -> None:
    batch = Batch(tmp_path, 'echo "$@" > said-$1', machines=THREE)
    assert batch.ended() == (0, "", "")
    said = {name: (batch.root / f"said-{name}").read_text() for name in ("run", "join")}
    endpoint = f"{socket.gethostname()}:10042"
    assert said == {
        "run": f"run --run one --nproc-per-node 8 --nnodes 3 --rdzv-endpoint {endpoint}\n",
        "join": f"join {endpoint} --run one --nproc-per-node 8\n",
    }
    assert batch.step.read_text().startswith("--nodes=2 --ntasks=2 --relative=1 ")


def test_a_joiner_that_dies_joins_again_until_the_run_is_over(tmp_path: Path) -> None:
    batch = Batch(
        tmp_path,
        'echo $$ >> $1; case $1 in join) [ "$(wc -l < join)" = 3 ] || kill -9 $$;; '
        'run) until [ -e join ] && [ "$(wc -l < join)" = 3 ]; do sleep; done;; esac',
        machines=THREE,
    )
    assert batch.ended() == (0, "", "")
    assert len((batch.root / "run").read_text().splitlines()) == 1


@pytest.mark.parametrize("code", [ExitCode.PASSED, ExitCode.NOT_PASSED, ExitCode.INTERRUPTED])
def test_no_joiner_is_left_behind(tmp_path: Path, code: ExitCode) -> None:
    """One that hears of the end ends in its own time; of one that does not, the script makes an end."""
    hears = (
        f"case $1 in join) until [ -e over ]; do sleep; done; touch heard;; run) touch over; exit {code.value};; esac"
    )
    deaf = f"case $1 in join) exec python3 -c 'import signal; signal.pause()';; run) sleep; exit {code.value};; esac"
    for name, program in (("hears", hears), ("deaf", deaf)):
        (tmp_path / name).mkdir()
        batch = Batch(tmp_path / name, program, machines=THREE)
        assert batch.ended() == (code, "", "requeue 42\n" if code == ExitCode.INTERRUPTED else "")
        assert (batch.root / "heard").exists() == (name == "hears")


def test_slurms_notice_reaches_the_run_alone_which_tells_the_joiners(tmp_path: Path) -> None:
    run = "trap 'echo USR1; touch over; exit 75' USR1; touch listening; while :; do sleep; done"
    batch = Batch(tmp_path, f"case $1 in run) {run};; join) until [ -e over ]; do sleep; done;; esac", machines=THREE)
    batch.send(signal.SIGUSR1)
    assert batch.ended() == (75, "USR1\n", "requeue 42\n")


# --- Kubernetes and SkyPilot ------------------------------------------------------------------------------------------

MINE = PLAIN._replace(run="mine", machines=Machines(nodes=2, gpus_per_node=8))


def called(folder: Path, script: str, **environment: str) -> str:
    """What ``script`` calls in the end, by a ``tiw-fsm`` on its PATH that tells."""
    program = folder / "tiw-fsm"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    found = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)} | environment
    done = subprocess.run(["sh", "-c", script], env=found, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def kubernetes(machines: Machines) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(snippet(Scheduler.KUBERNETES, MINE._replace(machines=machines))))


def test_kubernetes_first_pod_runs_and_the_others_join_it_by_the_services_name(tmp_path: Path) -> None:
    service, job = kubernetes(Machines(nodes=2, gpus_per_node=8, image="world:1", volume="worlds"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert job["spec"]["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert (container["image"], container["resources"]) == ("world:1", {"limits": {"nvidia.com/gpu": 8}})
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if volume["name"] == "root"]
    assert claims == ["worlds"]
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
        "root": container["workingDir"],
        "memory": "/dev/shm",
    }
    shell, option, script = container["command"]
    assert (shell, option) == ("sh", "-c")
    endpoint = "tiw-fsm-mine-0.tiw-fsm-mine:29400"
    assert called(tmp_path, script, JOB_COMPLETION_INDEX="0") == (
        f"run --run mine --nproc-per-node 8 --nnodes 2 --rdzv-endpoint {endpoint}"
    )
    assert called(tmp_path, script, JOB_COMPLETION_INDEX="1") == f"join {endpoint} --run mine --nproc-per-node 8"
    assert script.count("exec tiw-fsm") == script.count("tiw-fsm run") + script.count("tiw-fsm join") == 2


def test_kubernetes_one_pod_is_a_plain_job(tmp_path: Path) -> None:
    (job,) = kubernetes(LEAST[Scheduler.KUBERNETES])
    assert not {"completionMode", "completions", "parallelism", "successPolicy"} & job["spec"].keys()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "resources" not in container
    assert called(tmp_path, container["command"][-1]) == "run --run mine"


def test_kubernetes_brings_back_what_goes_on_and_fails_what_would_come_out_the_same() -> None:
    (job,) = kubernetes(LEAST[Scheduler.KUBERNETES])
    rules = job["spec"]["podFailurePolicy"]["rules"]
    by_code = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    back = {ExitCode.HELD, ExitCode.INTERRUPTED}
    assert by_code == {code: "Ignore" if code in back else "FailJob" for code in ExitCode if code != ExitCode.PASSED}
    assert [rule["action"] for rule in rules if "onPodConditions" in rule] == ["Ignore"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_skypilots_first_machine_runs_and_the_others_join_it_again_and_again(tmp_path: Path) -> None:
    machines = Machines(nodes=2, gpus_per_node=8, accelerator="H100", volume="worlds")
    task = yaml.safe_load(snippet(Scheduler.SKYPILOT, MINE._replace(machines=machines)))
    assert (task["name"], task["num_nodes"]) == ("tiw-fsm-mine", 2)
    assert task["resources"] == {
        "accelerators": "H100:8",
        "use_spot": True,
        "job_recovery": {"recover_on_exit_codes": [75]},
    }
    ((root, volume),) = task["volumes"].items()
    assert volume == "worlds"
    script = task["run"].replace(f"cd {root}", f"cd '{tmp_path}'")
    told = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n"}
    assert called(tmp_path, script, SKYPILOT_NODE_RANK="0", **told) == (
        "run --run mine --nproc-per-node 8 --nnodes 2 --rdzv-endpoint 10.0.0.1:29400"
    )
    assert called(tmp_path, script, SKYPILOT_NODE_RANK="1", **told) == (
        "join 10.0.0.1:29400 --run mine --nproc-per-node 8"
    )
    assert "until tiw-fsm join" in script


def test_skypilots_one_machine_without_gpus_asks_for_none(tmp_path: Path) -> None:
    task = yaml.safe_load(snippet(Scheduler.SKYPILOT, MINE._replace(machines=Machines())))
    assert "accelerators" not in task["resources"]
    assert called(tmp_path, task["run"].replace("cd /tiw-fsm", "cd /")) == "run --run mine"


# --- systemd's own judgement ------------------------------------------------------------------------------------------


def systemd_units(folder: Path, text: str) -> list[Path]:
    """The units of a snippet, each in the file that its first line names."""
    units: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# ~/.config/systemd/user/"):
            name = line.rpartition("/")[2]
            units[name] = ""
        units[name] += line + "\n"
    for name, content in units.items():
        (folder / name).write_text(content)
    return [folder / name for name in units]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
@pytest.mark.parametrize("name", ["plain", "a b%c$HOME #f;g&h"])
def test_systemd_verifies_service_and_timer(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    program = root / "tiw-fsm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    job = Job([str(program)], root, "one", root / NASTY)
    units = systemd_units(tmp_path, snippet(Scheduler.SYSTEMD, job))
    assert [unit.name for unit in units] == ["tiw-fsm-one.service", "tiw-fsm-one.timer"]
    verify = ["systemd-analyze", "verify", "--user", "--man=no", *units]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze cannot verify here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    units[0].write_text(units[0].read_text().replace(str(program)[:10], "/nowhere"))  # it would notice
    assert subprocess.run(verify, env=environment, capture_output=True, check=False).returncode != 0


def test_systemd_restarts_what_goes_on_and_nothing_that_would_come_out_the_same() -> None:
    lines = snippet(Scheduler.SYSTEMD, PLAIN).splitlines()
    assert {"Restart=on-abnormal", "RestartForceExitStatus=74 75", "KillSignal=SIGTERM"} <= set(lines)
    assert "ExecStart=/my/root/.venv/bin/tiw-fsm run --run default --if-idle" in lines
