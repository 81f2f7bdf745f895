"""``tiw-fsm runs`` and ``tiw-fsm runs diff``: many runs in a few lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tests.test_cli import ABSENT, inspect
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.reporting import differences
from tiw_fsm.storage.store import Store


class Named(Simulation):
    """A run by a name of its own, beside others in the same root."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self.store = Store(root / "state" / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a passed run, a failed one, and folders of every other kind."""
    tmp_path = tmp_path_factory.mktemp("several")
    write_configs(tmp_path / "configs")
    Named(tmp_path, "good").run()
    failed = {"training.learning_rate": 0.001, "loop.inference.beat": ["copy_last"]}
    Named(tmp_path, "bad").run(Script(mse=[0.5]), max_inference_retries=1, set=failed)
    state = tmp_path / "state"
    for name in ("foreign", "half", "od\x1b[31md", "z"):
        (state / name).mkdir()
    (state / "half/lock").touch()
    (state / "README").touch()
    shutil.copytree(state / "bad", state / "damaged")
    for name in ("state.json", "state.prev.json"):
        (state / "damaged" / name).write_text("{}\n")
    return tmp_path


@pytest.fixture
def several(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "root")


def test_every_folder_has_a_line_whatever_lies_in_it(several: Path, tiw: Tiw) -> None:
    done = tiw(several, "runs")
    assert done.returncode == ExitCode.PASSED
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["run", "state", "updates", "verdict", "last", "commit"]
    assert [line.split()[0] for line in lines] == [
        *("bad", "damaged", "foreign", "good", "half", "od\\x1b[31md", "z"),
    ]
    told = dict(zip((line.split()[0] for line in lines), lines, strict=True))
    assert "FAILED" in told["bad"]
    assert "60 of 60  failed, MSE 0.5000, skill -" in told["bad"]
    assert "PASSED" in told["good"]
    assert "ago" in told["good"]
    assert "state.json is damaged" in told["damaged"]
    assert "no run" in told["foreign"]
    assert "not begun" in told["half"]


def test_as_json_it_is_a_list_with_the_fields_of_the_reference(several: Path, tiw: Tiw) -> None:
    found = json.loads(tiw(several, "runs", "--json").stdout)
    assert [run["run"] for run in found] == sorted(run["run"] for run in found)
    page = (Path(__file__).parents[2] / "docs/reference.md").read_text()
    told = page.partition("\n## `tiw-fsm runs`\n")[2].partition("| field | meaning |")[2].partition("\n## ")[0]
    assert {
        field.strip("`")
        for row in told.splitlines()
        if row.startswith("| `")
        for field in row[2:].split(" |")[0].split(", ")
    } == found[0].keys()
    (good,) = (run for run in found if run["run"] == "good")
    assert (good["outcome"], good["alive"], good["completed"], good["target"]) == ("passed", False, 50, 50)
    assert (good["attempt"], good["passed"], good["problem"]) == (1, True, None)


def test_a_run_at_work_is_told_from_one_that_stopped(several: Path, tiw: Tiw) -> None:
    with Store(several / "state/good").hold():
        found = {run["run"]: run["alive"] for run in json.loads(tiw(several, "runs", "--json").stdout)}
    assert [name for name, alive in found.items() if alive] == ["good"]


@pytest.mark.parametrize("package", ["torch", "pydantic", "numpy"])
def test_it_does_without_what_takes_long(several: Path, package: str) -> None:
    done = inspect(several, "runs", ABSENT.format(package))
    assert done.returncode == 0, done.stderr


def test_where_there_is_none_it_says_where_it_looked_and_how_to_begin(tmp_path: Path, tiw: Tiw) -> None:
    done = tiw(tmp_path, "runs", "--state-dir", "nowhere")
    assert (done.returncode, done.stdout) == (ExitCode.PASSED, "")
    assert f"There is no run in {tmp_path}/nowhere: `tiw-fsm run` begins one." in done.stderr
    (tmp_path / "nowhere").mkdir()
    assert tiw(tmp_path, "runs", "--json", "--state-dir", "nowhere").stdout == "[]\n"


def test_diff_says_what_was_told_and_what_came_of_it(several: Path, tiw: Tiw) -> None:
    found = json.loads(tiw(several, "runs", "diff", "good", "bad", "--json").stdout)
    assert found["runs"] == ["good", "bad"]
    assert found["config"] == {
        "training.learning_rate": [0.003, 0.001],
        "loop.budgets.max_inference_retries": [2, 1],
        "loop.inference.beat": [["copy_last", "mean_frame", "blurred_last"], ["copy_last"]],
    }
    result = found["result"]
    assert result["state"] == ["PASSED", "FAILED"]
    assert result["mse"] == [0.01, 0.5]
    assert result["dynamics.updates"] == [20, 30]
    assert result["dynamics.loss"] == [2.0, 2.0]
    assert (result["retunes"], result["attempts"]) == ([0, 1], [1, 2])
    shown = tiw(several, "runs", "diff", "good", "bad").stdout
    assert "training.learning_rate              0.003" in shown
    assert "\nmse " in shown


def test_a_setting_of_one_stage_stands_under_its_name(several: Path, tiw: Tiw) -> None:
    Named(several, "third").run(set={"dynamics.n_updates": 30}, seed=4)
    found = json.loads(tiw(several, "runs", "diff", "good", "third", "--json").stdout)
    assert found["config"] == {"dynamics.n_updates": [20, 30], "inference.seed": [0, 4], "loop.seed": [0, 4]}


def test_runs_that_were_told_the_same_have_no_difference(several: Path, tiw: Tiw) -> None:
    Named(several, "twin").run()
    assert "(no difference)" in tiw(several, "runs", "diff", "good", "twin").stdout


MISTAKES = {
    ("diff", "good", "good"): (ExitCode.USAGE, "good and good are the same run; name two"),
    ("diff", "good", "none"): (ExitCode.USAGE, "The run has not begun: `tiw-fsm run --run none` begins it."),
    ("diff", "good", "damaged"): (ExitCode.DAMAGED, "state.json is damaged"),
    ("diff", "good", "../x"): (ExitCode.USAGE, "cannot be the name of a folder"),
    ("--json", "diff", "good", "bad"): (ExitCode.USAGE, "give the flags behind `runs diff`"),
    ("dif",): (ExitCode.USAGE, "No such command 'dif'"),
    ("diff", "good"): (ExitCode.USAGE, "Missing argument"),
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_sentence(several: Path, tiw: Tiw, words: tuple[str, ...]) -> None:
    done = tiw(several, "runs", *words)
    code, sentence = MISTAKES[words]
    assert done.returncode == code
    assert sentence in done.stderr


def test_a_digest_that_a_run_has_not_taken_yet_stands_as_nothing() -> None:
    """It was killed before it had read its frames."""
    found = {"runs": ["good", "begun"], "config": {"fingerprint.data": ["0123456789abcdef", None]}, "result": {}}
    assert differences.table(found)[1].split() == ["fingerprint.data", "0123456789ab…", "—"]


def test_a_run_without_its_configuration_says_so(several: Path, tiw: Tiw) -> None:
    (several / "state/bad/config.json").unlink()
    done = tiw(several, "runs", "diff", "good", "bad")
    assert done.returncode == ExitCode.DAMAGED
    assert "config.json cannot be used: it is gone. The next start of this run writes it anew" in done.stderr


def test_status_of_a_run_that_never_ran_names_those_that_did(several: Path, tiw: Tiw) -> None:
    done = tiw(several, "status", "--run", "goood")
    assert done.returncode == ExitCode.PASSED
    assert "`tiw-fsm run --run goood` begins it. Runs that have begun: bad, damaged, good." in done.stdout
    elsewhere = tiw(several / "state", "status").stdout
    assert f"None has begun in {several / 'state/state'}; of runs elsewhere --repo-root says where." in elsewhere
