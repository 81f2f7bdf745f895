"""Writes docs/api/, a page per folder of the package as Markdown sources for mkdocstrings, and architecture.md's tree.

``python docs/generate_api.py`` writes them; a test compares. Their text is the docstrings', so that there is
nothing to keep up to date but the names of the modules.
"""

from __future__ import annotations

import ast
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "tiw_fsm"
PAGES = PROJECT / "docs/api"
NOTE = "<!-- Written by docs/generate_api.py. -->"
ARCHITECTURE = PROJECT / "docs/architecture.md"
TREE = ("<!-- tree, written by docs/generate_api.py -->\n", "<!-- end of the tree -->\n")


def pages() -> dict[str, str]:
    """Name → content of every page: one for the top of the package, one for each folder, and their index."""
    folders = sorted({path.parent for path in PACKAGE.rglob("*.py")})
    written = {f"{_name(folder)}.md": _page(folder) for folder in folders}
    lines = [
        f"| [`{_dotted(folder)}`]({_name(folder)}.md) | {_summary(folder / '__init__.py')} |" for folder in folders
    ]
    index = [NOTE, "", "# API pages", "", "| module | |", "| --- | --- |", *lines, ""]
    return written | {"index.md": "\n".join(index)}


def architecture() -> str:
    """docs/architecture.md with the tree as it is now."""
    before, _, rest = ARCHITECTURE.read_text().partition(TREE[0])
    return before + TREE[0] + tree() + TREE[1] + rest.partition(TREE[1])[2]


def tree() -> str:
    """A line for each folder and module: its name, and the first sentence of its docstring."""
    lines = [_line(path) for path in _modules(PACKAGE)]
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}):
        lines += ["", f"**`{folder.relative_to(PACKAGE)}/`** {_summary(folder / '__init__.py')}", ""]
        lines += [_line(path) for path in _modules(folder)]
    return "\n".join([*lines, ""])


def _modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def _line(path: Path) -> str:
    return f"- `{path.relative_to(PACKAGE)}`: {_summary(path).split('. ')[0].rstrip('.')}"


def _page(folder: Path) -> str:
    lines = [NOTE, "", f"# {_dotted(folder)}", "", f"::: {_dotted(folder)}"]
    for path in _modules(folder):
        lines += ["", f"## {path.stem}", "", f"::: {_dotted(folder)}.{path.stem}"]
    return "\n".join(lines) + "\n"


def _dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(PROJECT).parts)


def _name(folder: Path) -> str:
    return "_".join(folder.relative_to(PACKAGE).parts) or "tiw_fsm"


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`")


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for path in set(PAGES.glob("*.md")) - {PAGES / name for name in pages()}:
        path.unlink()
    for name, content in pages().items():
        (PAGES / name).write_text(content)
    ARCHITECTURE.write_text(architecture())
