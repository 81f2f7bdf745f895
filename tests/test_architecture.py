"""The pages for those who will change the package, and what they are told to run."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "tiw_fsm"
ARCHITECTURE = (PROJECT / "docs/architecture.md").read_text()
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_api", PROJECT / "docs/generate_api.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_pages_are_what_the_package_says() -> None:
    on_disk = {path.name: path.read_text() for path in (PROJECT / "docs/api").glob("*.md")}
    assert on_disk == generator().pages(), "run python docs/generate_api.py"


def test_every_module_has_a_page_and_a_place_in_the_tree() -> None:
    assert generator().architecture() == ARCHITECTURE, "run python docs/generate_api.py"
    pages = "".join(path.read_text() for path in (PROJECT / "docs/api").glob("*.md"))
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PROJECT)
        dotted = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        assert re.search(rf"^::: {re.escape(dotted)}$", pages, re.MULTILINE), dotted
        named = path.relative_to(PACKAGE)
        assert f"`{named.parent}/`" in ARCHITECTURE or f"`{named}`" in ARCHITECTURE or named.name == "__init__.py"


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}), ids=str)
def test_every_folder_says_what_lives_there_and_what_does_not(folder: Path) -> None:
    text = (folder / "__init__.py").read_text()
    assert re.search(r"\b(not|no|nothing|never)\b", text, re.IGNORECASE), "what does not live there"


def test_what_the_journeys_name_exists() -> None:
    named = re.findall(r"`([\w/]+\.py):(\w+)`", ARCHITECTURE)
    assert len(named) > 40
    for path, name in named:
        defined = rf"^(?: *def|class) {name}\b|^{name}\b[^\n]* = "
        assert re.search(defined, (PACKAGE / path).read_text(), re.MULTILINE), f"{path}:{name}"


def test_the_order_of_imports_is_the_one_that_is_checked() -> None:
    (contract,) = (each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    told = ARCHITECTURE.partition("## What may import what")[2].split("```\n")[1].splitlines()
    assert told == contract["layers"]


def test_hosted_ci_tries_the_versions_that_are_claimed() -> None:
    workflow = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    tried = [f"3.{minor}" for minor in range(20) if _claimed(minor)]
    assert job["strategy"]["matrix"]["python-version"] == tried
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    for version in tried:
        assert f"Python {version}" in (PROJECT / "README.md").read_text()


def _claimed(minor: int) -> bool:
    lower, upper = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PYPROJECT["project"]["requires-python"]).groups()  # type: ignore[union-attr]
    return int(lower) <= minor < int(upper)


def test_pre_commit_does_what_make_check_does_and_fetches_nothing() -> None:
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    recipe = (PROJECT / "Makefile").read_text().partition("\ncheck: install\n")[2].partition("\n\n")[0]
    made = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe.splitlines()]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in repo["hooks"]] == made
