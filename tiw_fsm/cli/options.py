"""What commands have in common: how an option is declared, and the folders that its values name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from tiw_fsm.config.flags import FLAGS, typed, unfit_paths
from tiw_fsm.errors import UsageProblem

if TYPE_CHECKING:
    from tiw_fsm.storage.store import Store


def argument(help: str, complete: Callable[..., list[str]] | None = None) -> Any:
    return typer.Argument(help=help, show_default=False, autocompletion=complete)


def option_from(least: int, help: str) -> Any:
    return typer.Option(help=help, show_default=False, min=least)


def option(help: str, name: str | None = None) -> Any:
    return typer.Option(name, help=help, show_default=False) if name else typer.Option(help=help, show_default=False)


def may_stand_alone(flag: str, instead: str, is_value: Callable[[str], bool]) -> type[TyperCommand]:
    """A command whose ``flag`` may stand alone, which typer knows no way to say: then its value is ``instead``.

    Args:
        is_value: whether the word behind the flag is its value.
    """

    class Bare(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            words = pairwise([*args, ""])
            alone = [f"{flag}={instead}" if word == flag and not is_value(after) else word for word, after in words]
            return super().parse_args(ctx, alone)

    return Bare


PLACES = ("repo_root", "state_dir")
"""Parameters that say where runs are."""


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Names of runs, for the shell; none where anything is wrong."""
    with suppress(Exception):
        from tiw_fsm.storage.state_folder import runs_in

        given = {name: Path(value) for name, value in context.params.items() if name in PLACES and value}
        folder = state_dir_of(given.get("repo_root", Path(".")), given.get("state_dir"))
        return [name for name in runs_in(folder) if name.startswith(incomplete) and name.isprintable()]
    return []


def complete_key(incomplete: str) -> list[str]:
    """Keys of the YAML files, for the shell, as they stand behind ``--set``."""
    with suppress(Exception):
        from tiw_fsm.config.files import keys  # brings pydantic

        return [f"{key}=" for key in keys() if key.startswith(incomplete) and "*" not in key]
    return []


Run = Annotated[str, typer.Option(help="Name of the run.", autocompletion=complete_run)]
RunName = Annotated[str, typer.Argument(help="Name of the run.", autocompletion=complete_run)]
RepoRoot = Annotated[Path, typer.Option(help="Working root: configs, data, results and reports lie under it.")]
StateDir = Annotated[Path | None, option("Where runs keep their state [default: state/ under the working root].")]
Set = Annotated[
    list[str] | None,
    typer.Option(help=FLAGS["set"].help, metavar="KEY=VALUE", show_default=False, autocompletion=complete_key),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]


def typed_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``given`` values that are flags to remember, and were typed; what ``--set`` chose, by key.

    Raises:
        UsageProblem: something behind ``--set`` is no ``KEY=VALUE``.
    """
    if not given["set"]:
        return typed({**given, "set": None})
    from tiw_fsm.config import chosen  # brings pydantic

    return typed({**given, "set": chosen.read(given["set"])})


def folder_of(run: str, repo_root: Path, state_dir: Path | None) -> Path:
    if not re.fullmatch(r"\w[\w.-]{0,99}", run, re.ASCII):
        raise UsageProblem(f"--run {run!r}: cannot be the name of a folder; use up to 100 letters, digits, - and _")
    return state_dir_of(repo_root, state_dir) / run


def state_dir_of(repo_root: Path, state_dir: Path | None) -> Path:
    given = {"--repo-root": repo_root, "--state-dir": state_dir or repo_root / "state"}
    if problems := unfit_paths(given) or unfit_paths({flag: path.resolve() for flag, path in given.items()}):
        raise UsageProblem(problems)
    return given["--state-dir"].resolve()


def places_typed(repo_root: Path, state_dir: Path | None) -> list[str]:
    """The flags that a command which is shown has to have, to be about the same run."""
    given = {"--repo-root": repo_root if repo_root != Path(".") else None, "--state-dir": state_dir}
    return [word for flag, path in given.items() if path for word in (flag, str(path))]


def store_of(run: str, repo_root: Path, state_dir: Path | None) -> Store:
    from tiw_fsm.storage.store import Store  # brings pydantic, which `tiw-fsm status` does without

    return Store(folder_of(run, repo_root, state_dir))


def store_to_write(run: str, repo_root: Path, state_dir: Path | None) -> Store:
    """As ``store_of``, where a run may leave its files below ``repo_root``.

    Raises:
        UsageProblem: nothing can be written there.
    """
    from tiw_fsm.system.writable import unwritable

    store = store_of(run, repo_root, state_dir)
    if state_dir is None:
        problem = unwritable(repo_root.resolve())
    else:
        problem = unwritable(state_dir.resolve(), "give another --state-dir")
    if problem:
        raise UsageProblem(problem)
    return store
