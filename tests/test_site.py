"""The documents as a site: it builds without a complaint, has every page, and asks nobody else for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
EXTERNAL = re.compile(r"""<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"' >]+""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(build, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path) -> None:
    home = (site / "index.html").read_text()
    pages = {page.stem for page in (PROJECT / "docs").glob("*.md")} | {"contributing", "changelog", "api/index"}
    assert {page for page in pages if not (site / f"{page}.html").exists()} == set()
    assert {page for page in pages if f'href="{page}.html"' not in home} == set()


def test_the_pages_of_the_code_have_its_docstrings(site: Path) -> None:
    assert "Go on until the run ends" in (site / "api/run.html").read_text()


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    found = {page.name: EXTERNAL.findall(page.read_text()) for page in site.rglob("*.html")}
    assert len(found) > 40
    assert {name: loads for name, loads in found.items() if loads} == {}
