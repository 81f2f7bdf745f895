"""The command line as users and scripts meet it."""

from __future__ import annotations

import enum
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from tests.support.configs import merged, write_configs
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.cli import app
from tiw_fsm.config.loop import Budgets
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.run_state import Inexact
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting.status import INEXACT_KEYS, STAGE_KEYS, status
from tiw_fsm.storage.state_folder import Document, StateFolder, written
from tiw_fsm.values.plain import JsonObject

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
DOCS = "\n".join(page.read_text() for page in PAGES)


def commands() -> dict[str, list[str]]:
    """Every command with its flags."""
    group = typer.main.get_command(app)
    return {
        name: [parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")]
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("command", commands())
def test_every_command_and_flag_is_in_the_documents(command: str) -> None:
    assert f"tiw-fsm {command}" in DOCS
    missing = [flag for flag in commands()[command] if flag != "--help" and f"`{flag}`" not in DOCS]
    assert missing == []


@pytest.mark.parametrize("command", commands())
def test_the_reference_says_of_a_flag_what_its_help_says(command: str) -> None:
    reference = (
        (PROJECT / "docs/reference.md").read_text().partition(f"## `tiw-fsm {command}`")[2].partition("\n## ")[0]
    )
    found = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*) \|$", reference, re.MULTILINE))
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    helps = {parameter.opts[0]: parameter.help for parameter in parameters if parameter.opts[0] in commands()[command]}
    assert found.keys() == helps.keys() - {"--help"}
    assert [flag for flag, meaning in found.items() if not meaning.startswith(helps[flag])] == []


@pytest.mark.parametrize("exit_code", ExitCode)
def test_every_exit_code_is_in_the_readme(exit_code: ExitCode) -> None:
    assert re.search(rf"^\| {exit_code.value} \|", (PROJECT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_a_page_shows_exist(page: Path) -> None:
    """Every `tiw-fsm COMMAND --flag`, and every `make TARGET`, in a block or in the text."""
    text = page.read_text()
    for command, flags in re.findall(r"tiw-fsm (\w+)((?: +--[\w-]+(?: [\w/.]+)?)*)", text):
        assert set(re.findall(r"--[\w-]+", flags)) <= {*commands().get(command, ()), "--help"}, (command, flags)
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.MULTILINE)) <= targets


def test_every_page_is_in_the_readmes_index() -> None:
    linked = re.findall(r"\]\(docs/([\w-]+\.md)", (PROJECT / "README.md").read_text().partition("## Documentation")[2])
    assert {page.name for page in PAGES[1:]} == set(linked)


def blocks(page: str, language: str) -> str:
    """What a page has its reader type, or store, in a language."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", (PROJECT / page).read_text(), re.MULTILINE | re.DOTALL))


SHORTER = """#!{python}
import sys
from tiw_fsm.__main__ import main
if __name__ == "__main__":
    sys.argv += {{"run": ["--engine", "simulated"], "record": ["--frames", "200"]}}.get(sys.argv[1], [])
    main()
"""
"""A `tiw-fsm` that does the same in less time."""


def test_what_getting_started_has_the_newcomer_type_works(tmp_path: Path) -> None:
    """The frames of one's own, then every `tiw-fsm` in its order; nobody kills the run or watches it."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    program = tmp_path / ".venv/bin/tiw-fsm"
    program.parent.mkdir(parents=True)
    program.write_text(SHORTER.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "data").mkdir()
    subprocess.run([sys.executable, "-c", blocks("docs/getting-started.md", "python")], cwd=tmp_path, check=True)
    typed = [line for line in blocks("docs/getting-started.md", "bash").splitlines() if line.startswith(".venv")]
    assert len(typed) == 8
    for line in typed:
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert "PASSED" in done.stdout


INSPECT = "import sys; from tiw_fsm.cli import app; app(sys.argv[1:], standalone_mode=False); "
ABSENT = "assert '{}' not in sys.modules"
DOES_WITHOUT = [
    *((command, "torch") for command in ("status", "graph", "check", "history", "verify", "report", "schedule cron")),
    ("status", "pydantic"),
    ("status", "numpy"),
    ("schedule cron", "pydantic"),
]
"""What a command that answers at once, and often, does not wait for."""


def inspect(root: Path, command: str, code: str) -> subprocess.CompletedProcess[str]:
    """A command, and ``code`` afterwards in its process."""
    arguments = [sys.executable, "-c", INSPECT + code, *command.split()]
    return subprocess.run(arguments, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize(("command", "package"), DOES_WITHOUT)
def test_commands_that_inspect_never_import_what_takes_long(simulation: Simulation, command: str, package: str) -> None:
    simulation.run()
    done = inspect(simulation.root, command, ABSENT.format(package))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", sorted({package for _, package in DOES_WITHOUT}))
def test_an_import_of_it_by_a_command_would_be_noticed(simulation: Simulation, package: str) -> None:
    done = inspect(simulation.root, "status", f"import {package}; {ABSENT.format(package)}")
    assert "AssertionError" in done.stderr


def test_status_tells_all_that_the_state_holds_of_what_it_shows(simulation: Simulation) -> None:
    """Status reads the state as JSON, without its types: what the types know, and what is null, must not get lost."""
    simulation.run(Script(mse=[0.5, 0.01]))
    found, run = status(StateFolder(simulation.store.paths.folder)), simulation.state
    document = run.model_dump(mode="json")
    assert found["inference"] == {key: document["inference"][key] for key in ("attempts", "best")}
    assert found["fingerprint"] == document["fingerprint"]
    assert set(INEXACT_KEYS) == Inexact.model_fields.keys()
    for key in document.keys() & found.keys() - {"inference", "fingerprint", "stages"}:
        assert found[key] == document[key], key
    for stage, progress in document["stages"].items():
        assert found["stages"][stage].items() >= {key: progress[key] for key in STAGE_KEYS}.items()


def test_whoever_looks_at_a_run_is_not_taken_for_its_runner(simulation: Simulation) -> None:
    simulation.run()
    with open(simulation.store.paths.lock, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as a status at the same instant has it
        assert not status(StateFolder(simulation.store.paths.folder))["alive"]
        fcntl.flock(other, fcntl.LOCK_EX)
        assert status(StateFolder(simulation.store.paths.folder))["alive"]


class Ending(StateFolder):
    """A run that ends just when somebody has read its state."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ended = self.paths.state.read_bytes()
        self.paths.state.write_bytes(self.paths.previous.read_bytes())
        self._runner = os.open(self.paths.lock, os.O_RDONLY)
        fcntl.flock(self._runner, fcntl.LOCK_EX)

    def document(self) -> Document | None:
        found = super().document()
        if self._ended:
            self.paths.state.write_bytes(self._ended)
            os.close(self._runner)
            self._ended = b""
        return found


def test_a_run_that_ends_while_status_looks_has_not_died(simulation: Simulation) -> None:
    simulation.run()
    found = status(Ending(simulation.store.paths.folder))
    assert (found["alive"], found["outcome"], found["stopped"]["why"]) == (False, "passed", "the run has ended")


STRANGE: dict[str, JsonObject] = {
    "no configuration": {"loop": None},
    "a budget that is none": {"loop": {"budgets": 5}},
    "a word for a list": {"reports": 5},
    "a word for a checkpoint": {"stages": {"dynamics": {"checkpoint": "x"}}},
    "no tuning": {"stages": {"dynamics": {"tuning": None}}},
    "more than a number can be": {"stages": {"dynamics": {"target": math.inf}}},
    "an empty attempt": {"inference": {"attempts": [{}]}},
}


@pytest.mark.parametrize("what", STRANGE)
def test_status_of_a_state_that_holds_something_else_says_so(simulation: Simulation, tiw: Tiw, what: str) -> None:
    simulation.run()
    found = simulation.store.document()
    assert found is not None
    strange = merged(found.state, STRANGE[what])
    simulation.store.paths.state.write_bytes(written(strange, found.journal))
    done = tiw(simulation.root, "status")
    assert (done.returncode, "`tiw-fsm verify" in done.stderr) == (ExitCode.DAMAGED, True)
    assert "state.json is damaged" in tiw(simulation.root, "verify").stdout.replace("\n", " ")


@pytest.mark.parametrize("strange", [{"bytes": "x", "sha256": ""}, {"bytes": -5, "sha256": ""}, None])
def test_a_state_that_names_no_journal_is_damaged_and_the_one_before_it_counts(
    simulation: Simulation, tiw: Tiw, strange: Any
) -> None:
    simulation.run()
    paths = simulation.store.paths
    before = simulation.store.previous()
    assert before is not None
    document = json.loads(paths.state.read_bytes())
    vouched = {**document, "journal": strange}
    del vouched["checksum"]
    digest = hashlib.sha256(json.dumps(vouched, sort_keys=True).encode()).hexdigest()
    paths.state.write_text(json.dumps({**vouched, "checksum": digest}))
    assert json.loads(tiw(simulation.root, "status", "--json").stdout)["generation"] == before.generation
    assert "does not say on which journal it stands" in tiw(simulation.root, "verify").stdout.replace("\n", " ")
    assert tiw(simulation.root, "run").returncode == ExitCode.PASSED


@pytest.mark.parametrize("word", [{"time": "now"}, {"time": [], "exit_code": {}, "message": None}])
def test_a_word_of_a_refused_start_that_is_none_is_not_told(simulation: Simulation, tiw: Tiw, word: JsonObject) -> None:
    simulation.run()
    simulation.store.paths.refused.write_text(json.dumps(word))
    done = tiw(simulation.root, "status")
    assert (done.returncode, "refused" in done.stdout) == (ExitCode.PASSED, False)


def test_a_terminal_that_lacks_letters_gets_its_answer_all_the_same(
    simulation: Simulation, tiw: Tiw, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation.run()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = tiw(simulation.root, "status")
    assert (done.returncode, "PASSED" in done.stdout, "█" in done.stdout) == (ExitCode.PASSED, True, False)


@pytest.fixture
def nobody() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def unread(root: Path, nobody: int, *arguments: str) -> int:
    """How a command ends whose words nobody reads."""
    command = [sys.executable, "-m", "tiw_fsm", *arguments]
    return subprocess.run(command, cwd=root, stdout=nobody, stderr=nobody, timeout=60).returncode


def test_a_run_whose_words_nobody_reads_goes_on_to_its_end(simulation: Simulation, nobody: int) -> None:
    """As when the `tee` behind it, or the journal it speaks to, is gone."""
    write_configs(simulation.root / "configs", {"loop": {"on_finish": "touch told"}})
    assert unread(simulation.root, nobody, "run", "--engine", "simulated") == ExitCode.PASSED
    assert simulation.state.state is State.PASSED
    assert (simulation.root / "told").exists()
    assert unread(simulation.root, nobody, "history") == ExitCode.PASSED


def test_status_of_a_run_that_never_began_answers(tmp_path: Path, tiw: Tiw) -> None:
    done = tiw(tmp_path, "status", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (ExitCode.PASSED, None)


@pytest.mark.parametrize("reader", ["status", "history", "graph", "report", "verify", "schedule cron"])
def test_a_reader_of_a_run_that_never_began_says_how_to_begin_it_and_leaves_nothing(
    tmp_path: Path, tiw: Tiw, reader: str
) -> None:
    done = tiw(tmp_path, *reader.split(), "--run", "mine")
    assert done.returncode == ExitCode.PASSED
    assert "`tiw-fsm run --run mine` begins it" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


STATUS = {
    "run",
    "state",
    "outcome",
    "reason",
    "alive",
    "runner",
    "stopped",
    "next",
    "command",
    "refused",
    "stages",
    "inference",
    "retunes",
    "budgets",
    "used",
    "interruptions",
    "recent_interruptions",
    "checkpoint_age_seconds",
    "inexact",
    "fingerprint",
    "reports",
    "generation",
    "created_at",
    "updated_at",
}
STATUS_OF_A_STAGE = {
    "target",
    "completed",
    "checkpoint",
    "accepted",
    "retries",
    "crashes",
    "tuning",
    "verdict",
    "picture",
    "updates_per_second",
    "eta_seconds",
}
"""What scripts may rely on, as docs/status.md has it."""


def test_status_as_json_has_the_fields_scripts_rely_on(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.5, 0.01]))
    found = json.loads(tiw(simulation.root, "status", "--json").stdout)
    assert found.keys() == STATUS
    assert (found["state"], found["outcome"], found["alive"]) == ("PASSED", "passed", False)
    assert list(found["stages"]) == ["video_tokenizer", "latent_actions", "dynamics"]
    for stage in found["stages"].values():
        assert stage.keys() == STATUS_OF_A_STAGE
        assert {"path", "update", "sha256"} == stage["checkpoint"].keys()
        assert Path(stage["checkpoint"]["path"]).is_absolute()
    first, second = found["inference"]["attempts"]
    assert {"mse", "max_mse", "baselines", "skill", "conditions", "passed", "png"} <= first.keys()
    assert (first["passed"], second["passed"]) == (False, True)
    assert {"copy_last", "mean_frame", "blurred_last"} == first["baselines"].keys()


def test_status_says_what_happens_next(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run(Script(mse=[0.5]))
    done = tiw(simulation.root, "status")
    assert "max_inference_retries is used up in GATE; raise it and run again" in done.stdout


def test_every_field_of_the_status_is_documented() -> None:
    documented = set(
        re.findall(r"^\| `(?:stages\.<stage>\.)?(\w+)", (PROJECT / "docs/status.md").read_text(), re.MULTILINE)
    )
    assert documented == STATUS | STATUS_OF_A_STAGE


def test_status_says_who_runs_it_and_how_fast_and_afterwards_why_nobody_does(root: Path, tiw: Tiw) -> None:
    command = [sys.executable, "-m", "tiw_fsm", "run", "--target-updates", "100000"]
    run = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while (found := json.loads(tiw(root, "status", "--json").stdout)).get("generation", 0) < 6:
            assert run.poll() is None
    finally:
        run.kill()
        run.wait()
    assert (found["alive"], found["runner"]["pid"], found["stopped"]) == (True, run.pid, None)
    progress = found["stages"]["video_tokenizer"]
    assert progress["updates_per_second"] > 0
    assert progress["eta_seconds"] > 0
    dead = tiw(root, "status").stdout
    assert f"process {run.pid} on " in dead
    assert "died without warning" in dead
    assert "tiw-fsm run --run default" in dead
    with open(root / "state/default/lock") as lock:  # as a new start does, seconds before it says who it is
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = json.loads(tiw(root, "status", "--json").stdout)
        assert (begun["alive"], begun["runner"], begun["stopped"]) == (True, None, None)
        assert "(running again)" in tiw(root, "status").stdout


def test_status_reads_a_copied_state_folder(simulation: Simulation, tiw: Tiw, tmp_path: Path) -> None:
    simulation.run()
    shutil.copytree(simulation.root / "state", tmp_path / "elsewhere/state")
    found = json.loads(tiw(tmp_path / "elsewhere", "status", "--json").stdout)
    assert (found["state"], found["alive"]) == ("PASSED", False)


def test_watching_ends_with_the_run(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    assert "[PASSED]" in tiw(simulation.root, "status", "--watch").stdout


def test_graph_marks_the_state_the_run_is_in(simulation: Simulation, tiw: Tiw) -> None:
    simulation.run()
    assert "class PASSED current" in tiw(simulation.root, "graph").stdout


def test_the_simulated_engine_runs_from_the_command_line(tmp_path: Path, tiw: Tiw) -> None:
    write_configs(tmp_path / "configs")
    done = tiw(tmp_path, "run", "--engine", "simulated")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert "PASSED: the inference gate passed" in done.stdout
    assert "skill" in done.stdout
    again = tiw(tmp_path, "run")
    assert (again.returncode, again.stdout) == (ExitCode.PASSED, done.stdout)


def test_check_finds_a_trained_run_ready_and_says_why_a_damaged_one_is_not(root: Path, tiw: Tiw) -> None:
    assert tiw(root, "run", "--max-mse", "0.9", "--allow-trivial").returncode == ExitCode.PASSED
    assert tiw(root, "check").returncode == ExitCode.PASSED
    ready = tiw(root, "check", "results/default")
    assert (ready.returncode, ready.stdout.count("ready")) == (ExitCode.PASSED, 3)
    model = root / "results/default/dynamics/checkpoints/dynamics_step_19/model_state_dict.pt"
    model.write_bytes(model.read_bytes()[:-50])
    for arguments in (["check"], ["check", "results/default"]):
        damaged = tiw(root, *arguments)
        assert damaged.returncode == ExitCode.USAGE
        assert "not ready" in damaged.stdout
        assert "model_state_dict.pt" in damaged.stdout


def test_on_finish_is_told_the_outcome_once_and_cannot_change_it(tmp_path: Path, tiw: Tiw) -> None:
    command = 'echo "$TIW_RUN $TIW_OUTCOME $TIW_EXIT_CODE $TIW_MSE" >> told; test -f "$TIW_REPORT"; exit 7'
    write_configs(tmp_path / "configs", {"loop": {"on_finish": command}})
    done = tiw(tmp_path, "run", "--engine", "simulated")
    assert done.returncode == ExitCode.PASSED
    assert "on_finish ended with 7" in done.stderr
    assert tiw(tmp_path, "run").returncode == ExitCode.PASSED
    assert (tmp_path / "told").read_text() == "default passed 0 0.01\n"


def test_the_conformance_table_names_tests_that_exist() -> None:
    table = (PROJECT / "docs/conformance.md").read_text()
    tests = set(
        re.findall(r"def test_(\w+)", "".join(path.read_text() for path in Path(__file__).parent.rglob("*.py")))
    )
    named = re.findall(
        r"`(\w+(?:_\w+){3,})(…?)`", "".join(row.rpartition("|")[0].rpartition("|")[2] for row in table.splitlines())
    )
    assert len(named) > 40
    missing = [name for name, more in named if not any(t == name or (more and t.startswith(name)) for t in tests)]
    assert missing == []


@pytest.fixture
def tinyworlds_device(monkeypatch: pytest.MonkeyPatch) -> enum.Enum:
    """An enum of TinyWorlds' own module, which is not there when the checkpoint is read."""
    package, module = types.ModuleType("utils"), types.ModuleType("utils.config")
    module.DeviceType = enum.Enum("DeviceType", {"CUDA": "cuda"}, module="utils.config")  # type: ignore[attr-defined, misc]
    monkeypatch.setitem(sys.modules, "utils", package)
    monkeypatch.setitem(sys.modules, "utils.config", module)
    device: enum.Enum = module.DeviceType["CUDA"]
    return device


def save_as_tinyworlds_does(folder: Path, **config: object) -> None:
    """Three files, no manifest, and a state.pt with a class of TinyWorlds' own in it."""
    folder.mkdir(parents=True)
    weight = torch.nn.Parameter(torch.ones(30, 30))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save({"weight": weight.detach()}, folder / "model_state_dict.pt")
    torch.save(optimizer.state_dict(), folder / "optim_state_dict.pt")
    torch.save({"config": config, "step": 99}, folder / "state.pt")


def test_check_judges_a_run_root_of_tinyworlds_itself(tmp_path: Path, tiw: Tiw, tinyworlds_device: enum.Enum) -> None:
    for stage in ("video_tokenizer", "latent_actions", "dynamics"):
        folder = tmp_path / "old" / stage / "checkpoints" / f"{stage}_step_99"
        save_as_tinyworlds_does(folder, frame_size=64, device=tinyworlds_device)
    assert tiw(tmp_path, "check", "old").returncode == ExitCode.PASSED


def test_check_says_when_models_were_not_made_for_each_other_or_one_is_missing(tmp_path: Path, tiw: Tiw) -> None:
    for stage, size in (("video_tokenizer", 64), ("dynamics", 128)):
        save_as_tinyworlds_does(tmp_path / "old" / stage / "checkpoints" / f"{stage}_step_99", frame_size=size)
    done = tiw(tmp_path, "check", "old", "--json")
    assert done.returncode == ExitCode.USAGE
    said = " ".join(problem for finding in json.loads(done.stdout) for problem in finding["problems"])
    assert "frame_size differs: video_tokenizer 64, dynamics 128" in said
    assert "inference needs all three models" in said


# --- the documents ----------------------------------------------------------------------------------------------


def test_the_reference_of_the_configs_is_what_the_code_says() -> None:
    printed = subprocess.run([sys.executable, PROJECT / "docs/generate.py"], capture_output=True, text=True, check=True)
    assert (PROJECT / "docs/configs.md").read_text() == printed.stdout


def test_every_state_event_and_budget_is_explained() -> None:
    text = (PROJECT / "docs/machine.md").read_text()
    for name in [*State, *Event, *Budgets.model_fields]:
        assert f"`{name}`" in text or name in re.findall(r"\b[A-Z_]+\b", text), name


def test_every_message_that_is_explained_is_one_that_the_code_can_say() -> None:
    """Of each heading the words between the dots; what the operating system says is not ours."""
    code = " ".join(path.read_text() for path in (PROJECT / "tiw_fsm").rglob("*.py"))
    said = re.sub(r'"\s*f?"', "", code)  # sentences go over several lines
    said = re.sub(r"\{[^{}]*\}", "…", said)
    headings = re.findall(r"^## (.*)$", (PROJECT / "docs/faq.md").read_text(), re.MULTILINE)
    assert len(headings) > 10
    for heading in headings:
        if "No space left on device" not in heading:
            for part in filter(None, (part.strip(" 0123456789") for part in heading.split("…"))):
                assert part in said, heading


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
