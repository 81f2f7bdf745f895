"""The documents: what they say is so, and what the code has stands in them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tiw_fsm.cli import app
from tiw_fsm.config.loop import Budgets
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.states import State

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
DOCS = "\n".join(page.read_text() for page in PAGES)


def every_command(group: Any = None, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command, and those below one, by name."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield above + name, command
        if hasattr(command, "commands"):
            yield from every_command(command, f"{above}{name} ")


def commands() -> dict[str, list[str]]:
    """Every command with its flags."""
    return {
        name: [parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")]
        for name, command in every_command()
    }


@pytest.mark.parametrize("command", commands())
def test_every_command_and_flag_is_in_the_documents(command: str) -> None:
    assert f"tiw-fsm {command}" in DOCS
    missing = [flag for flag in commands()[command] if flag != "--help" and f"`{flag}`" not in DOCS]
    assert missing == []


@pytest.mark.parametrize("command", commands())
def test_the_reference_says_of_a_flag_what_its_help_says(command: str) -> None:
    reference = (
        (PROJECT / "docs/reference.md").read_text().partition(f"\n## `tiw-fsm {command}`\n")[2].partition("\n## ")[0]
    )
    found = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*) \|$", reference, re.MULTILINE))
    parameters = dict(every_command())[command].params
    helps = {parameter.opts[0]: parameter.help for parameter in parameters if parameter.opts[0] in commands()[command]}
    assert found.keys() == helps.keys() - {"--help"}
    assert [flag for flag, meaning in found.items() if not meaning.startswith(helps[flag])] == []


@pytest.mark.parametrize("exit_code", ExitCode)
def test_every_exit_code_is_in_the_reference(exit_code: ExitCode) -> None:
    assert re.search(rf"^\| {exit_code.value} \|", (PROJECT / "docs/reference.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_a_page_shows_exist(page: Path) -> None:
    """Every `tiw-fsm COMMAND --flag`, and every `make TARGET`, in a block or in the text."""
    text = page.read_text()
    below = "|".join(name for name in commands() if " " in name)
    for command, flags in re.findall(rf"tiw-fsm ({below}|\w+)((?: +--[\w-]+(?: [\w/.=]+)?)*)", text):
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
    shorter = {{"run": ["--engine", "simulated"], "record": ["--frames", "200"], "frames": ["--frames", "400"]}}
    sys.argv += shorter.get(sys.argv[1], [])
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
    assert len(typed) == 11
    for line in typed:
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert "PASSED" in done.stdout


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
