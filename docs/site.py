"""A hook of mkdocs: the pages that lie in the project's root, as pages of the site, and the links to and from them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parent.parent
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""By their names in the project's root: their names in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, with their links as from ``docs/``."""
    for name, page in ROOT_PAGES.items():
        text = re.sub(r"(\]\()(?:docs/|(?!\w+:|#))", _from_docs, (PROJECT / name).read_text())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page to those of the root, as the site names them. Others out of ``docs/`` lose their target."""
    for name, renamed in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({renamed}")
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)


def _from_docs(match: re.Match[str]) -> str:
    return match[1] if match[0].endswith("docs/") else f"{match[1]}../"
