"""What commands have in common: how an option is declared, and the folders that its values name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiw_fsm.config.flags import unfit_paths
from tiw_fsm.errors import UsageProblem

if TYPE_CHECKING:
    from tiw_fsm.storage.store import Store


def argument(help: str) -> Any:
    return typer.Argument(help=help, show_default=False)


def option_from(least: int, help: str) -> Any:
    return typer.Option(help=help, show_default=False, min=least)


def option(help: str, name: str | None = None) -> Any:
    return typer.Option(name, help=help, show_default=False) if name else typer.Option(help=help, show_default=False)


Run = Annotated[str, typer.Option(help="Name of the run.")]
RepoRoot = Annotated[Path, typer.Option(help="Working root: configs, data, results and reports lie under it.")]
StateDir = Annotated[Path | None, option("Where runs keep their state [default: state/ under the working root].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]


def folder_of(run: str, repo_root: Path, state_dir: Path | None) -> Path:
    if not re.fullmatch(r"\w[\w.-]{0,99}", run, re.ASCII):
        raise UsageProblem(f"--run {run!r}: cannot be the name of a folder; use up to 100 letters, digits, - and _")
    given = {"--repo-root": repo_root, "--state-dir": state_dir or repo_root / "state"}
    if problems := unfit_paths(given) or unfit_paths({flag: path.resolve() for flag, path in given.items()}):
        raise UsageProblem(problems)
    return given["--state-dir"].resolve() / run


def store_of(run: str, repo_root: Path, state_dir: Path | None) -> Store:
    from tiw_fsm.storage.store import Store  # brings pydantic, which `tiw-fsm status` does without

    return Store(folder_of(run, repo_root, state_dir))


def store_to_write(run: str, repo_root: Path, state_dir: Path | None) -> Store:
    """As ``store_of``, where a run may leave its files below ``repo_root``.

    Raises:
        UsageProblem: nothing can be written there.
    """
    from tiw_fsm.config.settings import unwritable

    store = store_of(run, repo_root, state_dir)
    if state_dir is None and (problem := unwritable(repo_root.resolve())):
        raise UsageProblem(problem)
    return store
