"""A gymnasium environment, played by held random keys: the same for the same seed."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from tiw_fsm.data.intake.layouts import holds_pictures, picture
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import UNKNOWN, Picture, Shot, Source
from tiw_fsm.data.intake.spaces import numbering
from tiw_fsm.errors import TiwFsmError, UsageProblem
from tiw_fsm.values.printable import printable, quoted

ID = re.compile(r"(?:[A-Za-z_][\w.]*:)?(?:[\w-]+/)?[\w.-]+-v\d+")
"""The id of an environment: an optional module to import, an optional namespace, name and version."""
REGISTERED_BY = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "ALE": "ale_py", "MiniWorld": "miniworld"}
"""Packages that register their environments only once they are imported, by how the ids begin."""
LONGEST_HELD = 4
"""Steps that a key is held at most; each number from 1 on is as likely."""
RENDER = "render"
"""The key that takes what the environment draws for people, though its observations are pictures too."""
FROM_RENDER = "its observations are no pictures, so what it renders is taken"

SEVERAL = "has several observations that are pictures ({}), so what it renders is taken; --key names one of them"
NO_PICTURE = (
    "shows no picture, neither as an observation nor by rgb_array; wrap it in one that does with --wrapper module:Class"
)


def is_environment(name: str) -> bool:
    """Whether ``name`` looks like the id of an environment."""
    return ID.fullmatch(name) is not None and not os.path.exists(name)


def open_environment(name: str, options: Options) -> Source:
    """The pictures that an environment shows, and what was pressed.

    Raises:
        UsageProblem: it is not registered, a package is missing, it shows no picture, or fails.
    """
    import gymnasium

    with _playing(name), ExitStack() as unless_ready:
        with _own_modules():
            environment = _made(gymnasium, name)
            unless_ready.callback(_close, environment)
            environment = _wrapped(environment, options.wrappers)
        known = numbering(environment.action_space)
        observed, _ = environment.reset(seed=options.seed)
        several = _picture_keys(observed) if options.key is None else []
        render = options.key == RENDER or _observation(observed, options.key) is None
        if options.key not in (None, RENDER) and render:
            why = _float_of(observed.get(options.key) if isinstance(observed, dict) else None)
            there = f"; there are {', '.join(found)}" if (found := _picture_keys(observed)) else "; leave --key out"
            raise UsageProblem(
                f"{name}: {why}"
                if why
                else f"{name}: has no observation {quoted(options.key)} that is a picture{there}"
            )
        _shown(name, environment, observed, None if render else options.key, render=render)
        fps = environment.metadata.get("render_fps")
        keys = _key_names(environment) if known else None
        unless_ready.pop_all()
    return Source(
        name,
        _shots(name, environment, options, render=render),
        options.frames,
        fps=float(fps) if isinstance(fps, int | float) and fps > 0 else None,
        keys=keys,
        has_dones=True,
        notes=(
            *((SEVERAL.format(", ".join(several)) if several else FROM_RENDER,) if render and not options.key else ()),
            *(() if known else ("actions are left out: they are no whole numbers",)),
        ),
        close=partial(_close, environment),
    )


def _shots(name: str, environment: Any, options: Options, *, render: bool) -> Iterator[Shot]:
    with _playing(name):
        space, known = environment.action_space, numbering(environment.action_space)
        space.seed(options.seed)
        random = np.random.default_rng(options.seed)
        observed, _ = environment.reset(seed=options.seed)
        episode = row = held = 0
        action: Any = None
        for _ in range(options.frames):
            shown = _shown(name, environment, observed, options.key, render=render)
            ended = row + 1 == options.episode_length
            if row < 0 or ended:
                yield Shot(shown, episode)
                observed, _ = environment.reset()
                episode, row, held = episode + 1, 0, 0
                continue
            if held == 0:
                action, held = space.sample(), int(random.integers(1, LONGEST_HELD + 1))
            yield Shot(shown, episode, known(action) if known else UNKNOWN)
            observed, _, terminated, truncated, _ = environment.step(action)
            held -= 1
            row = -1 if terminated or truncated else row + 1


@contextmanager
def _playing(name: str) -> Iterator[None]:
    """Environments are the code of others, and may fail in any way.

    Raises:
        UsageProblem: it did.
    """
    try:
        yield
    except TiwFsmError:
        raise
    except ModuleNotFoundError as exc:
        raise UsageProblem(f"{name}: needs the package {exc.name}, which is not installed; install it") from exc
    except (Exception, SystemExit) as exc:
        raise UsageProblem(
            f"{name}: the environment failed ({type(exc).__name__}: {exc}); mend it, or try another"
        ) from exc


@contextmanager
def _own_modules() -> Iterator[None]:
    """Within the block modules of the working directory are found, as by ``python -m``."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # a module may put the path in order itself
            sys.path.remove(here)


def _made(gymnasium: Any, name: str) -> Any:
    for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(variable, "dummy")  # what is drawn by pygame needs no screen
    module, named = name.rpartition(":")[::2]
    begins = re.match(r"[A-Za-z]*", named)
    package = module or REGISTERED_BY.get(begins[0] if begins else "")
    try:
        if package:
            importlib.import_module(package)
        try:
            return gymnasium.make(named, render_mode="rgb_array", disable_env_checker=True)
        except TypeError as exc:
            if "render_mode" not in str(exc):
                raise
            return gymnasium.make(named, disable_env_checker=True)  # it shows what it observes, and no more
    except (gymnasium.error.DependencyNotInstalled, gymnasium.error.UnregisteredEnv) as exc:
        advice = "install the package that has it, or put its module in front: module:Name-v0"
        raise UsageProblem(f"{name}: {exc} ({advice})") from exc


def _wrapped(environment: Any, wrappers: tuple[str, ...]) -> Any:
    for wrapper in wrappers:
        module, _, attribute = wrapper.partition(":")
        try:
            environment = getattr(importlib.import_module(module), attribute)(environment)
        except AttributeError as exc:
            raise UsageProblem(f"--wrapper {wrapper}: there is no such class; give module:Class") from exc
    return environment


def _close(environment: Any) -> None:
    with suppress(Exception, SystemExit):  # what fails in the end costs no frame
        environment.close()


def _observation(observed: Any, key: str | None) -> Picture | None:
    """The picture in an observation: itself, what ``key`` names of a dictionary, or the only one there."""
    if isinstance(observed, dict):
        if key is not None:
            return _observation(observed.get(key), None)
        found = [each for each in map(_array_picture, observed.values()) if each is not None]
        return found[0] if len(found) == 1 else None
    return _array_picture(observed) if key is None else None


def _array_picture(observed: Any) -> Picture | None:
    return picture(observed) if isinstance(observed, np.ndarray) else None


def _shown(name: str, environment: Any, observed: Any, key: str | None, *, render: bool) -> Picture:
    rendered = None
    try:
        if render:
            rendered = environment.render()
        shown = _array_picture(rendered) if render else _observation(observed, key)
    except NotImplementedError:  # gymnasium's own answer of one that draws nothing
        shown = None
    if shown is None:
        raise UsageProblem(f"{name}: {_why_no_picture(observed, rendered)}")
    return shown.copy()


def _why_no_picture(observed: Any, rendered: Any) -> str:
    if len(keys := _picture_keys(observed)) > 1:
        return f"has several observations that are pictures ({', '.join(keys)}); name one with --key"
    shown = (*(observed.values() if isinstance(observed, dict) else (observed,)), rendered)
    return next(filter(None, map(_float_of, shown)), NO_PICTURE)


def _float_of(shown: Any) -> str | None:
    """Why what would be a picture is none: its numbers are no bytes."""
    if (
        not isinstance(shown, np.ndarray)
        or shown.dtype == np.uint8
        or not holds_pictures((1, *shown.shape), shown.dtype)
    ):
        return None
    return (
        f"shows pictures of {shown.dtype} numbers, and which are black and white cannot be known before all are seen; "
        "wrap it in one that gives uint8, 0 to 255, with --wrapper module:Class"
    )


def _picture_keys(observed: Any) -> list[str]:
    found = observed.items() if isinstance(observed, dict) else ()
    return [printable(str(key)) for key, each in found if _array_picture(each) is not None]


def _key_names(environment: Any) -> tuple[str, ...]:
    """Names of the actions where the environment has some: an enum, or what Atari's say of themselves."""
    inner = environment.unwrapped
    actions = getattr(inner, "actions", None)
    if isinstance(actions, type) and issubclass(actions, Enum):
        numbered = {each.value: each.name for each in actions}
        names = tuple(numbered.get(number, "") for number in range(len(numbered)))
    elif hasattr(inner, "get_action_meanings"):
        names = tuple(name.lower() for name in inner.get_action_meanings())
    else:
        return ()
    return names if len(names) == getattr(environment.action_space, "n", None) and all(names) else ()
