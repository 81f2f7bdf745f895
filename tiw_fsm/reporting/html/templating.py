"""The page's templates: loaded from beside this module, compiled once per process, when a page is first written."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiw_fsm.values.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment() -> Environment:
    """Everything put into a template is escaped and printable, and a name that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: object) -> object:
    return printable(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value


def render(template: str, **context: Any) -> str:
    """A template, filled in."""
    return environment().get_template(template).render(**context)
