"""Commands that bring frames: ``record``, of a game of ours, and ``frames``, of anything else."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiw_fsm.cli.options import AsJson, argument, option, option_from
from tiw_fsm.cli.terminal import out, print_json, stoppable_progress
from tiw_fsm.data.intake.options import Episodes, Fit, Options
from tiw_fsm.errors import UsageProblem
from tiw_fsm.reporting.wording import duration
from tiw_fsm.values.printable import printable

if TYPE_CHECKING:
    from tiw_fsm.data.intake.making import Made

SEED = 5
"""Of a recording's world and keys, if not told otherwise."""
INTERRUPTED = "interrupted: {} is as it was before; the same command begins again"
MOST_FPS = 1000


def record(
    path: Annotated[Path | None, argument("h5 file to write [default: data/GAME_frames.h5].")] = None,
    game: Annotated[str, typer.Option(help="planet: small, wraps around; crafter: the real game.")] = "planet",
    frames: Annotated[int | None, option_from(1, "Frames to record [default: 10240; crafter: 16384].")] = None,
    size: Annotated[
        int | None, option_from(8, "Side of a frame in pixels, an odd number of tiles of 8 [default: 56; crafter: 72].")
    ] = None,
    map_size: Annotated[int | None, option_from(1, "Side of the planet in cells [default: 16].")] = None,
    episode_length: Annotated[int | None, option_from(2, "Frames per episode [default: 32; crafter: 100].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of world and keys.", min=0, max=2**32 - 1)] = SEED,
    force: Annotated[bool, typer.Option("--force", help="Record again over an existing file.")] = False,
) -> None:
    """Record demo frames from a game, the same for the same seed."""
    path = path or Path(f"data/{game}_frames.h5")
    if os.path.exists(path) and not force:  # of a name that is too long it says no, where Path raises
        out.print(f"{path} is already there; --force records it again.")
        return
    from tiw_fsm.data import recording

    with stoppable_progress("recording", INTERRUPTED.format(path)) as show:
        recorded = recording.record(
            path,
            game=game,
            frames=frames,
            size=size,
            episode_length=episode_length,
            map_size=map_size,
            seed=seed,
            on_progress=show,
        )
    command = shlex.join(["tiw-fsm", "run", "--dataset", str(path)])
    out.print(
        f"recorded {recorded.frames} frames, {recorded.distinct} of them different, of {recorded.world} to {path}; "
        f"`{command}` trains on them.",
        soft_wrap=True,
    )


def frames(
    sources: Annotated[
        list[str],
        argument("Videos, a folder of them or of pictures, .npy, .npz, .h5, .zarr, minari:ID, or an environment's id."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="h5 file to write.", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the square frames in pixels.", min=8, max=1024)] = Options.size,
    fit: Annotated[
        Fit,
        typer.Option(help="What becomes of a picture that is no square: its middle, black bars, or other proportions."),
    ] = Options.fit,
    fps: Annotated[float | None, option("Frames to take of each second of a video [default: all].")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many-th frame.", min=1)] = Options.stride,
    start: Annotated[str | None, option("Begin there: seconds or m:ss of a video, a row of anything else.")] = None,
    end: Annotated[str | None, option("End there, likewise.")] = None,
    key: Annotated[str | None, option("The array, dataset or observation that holds the pictures.")] = None,
    episodes: Annotated[
        Episodes | None,
        option("What begins another: a file, what is recorded, a scene cut, nothing [default: as the source says]."),
    ] = None,
    episode_length: Annotated[int | None, option_from(2, "Frames of an episode at most [default: any].")] = None,
    frames: Annotated[int, typer.Option(help="Frames to play of an environment.", min=1)] = Options.frames,
    seed: Annotated[
        int, typer.Option(help="Seed of an environment and its keys.", min=0, max=2**32 - 1)
    ] = Options.seed,
    wrapper: Annotated[list[str] | None, option("module:Class to wrap an environment in; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make frames to train on of a video, pictures, arrays, a recording or an environment; the same for the same."""
    if output.parts[:1] == ("~",):  # --output=~/x.h5, of which the shell makes nothing
        output = output.expanduser()
    from tiw_fsm.data import writing
    from tiw_fsm.data.intake import kinds

    if output.suffix.lower() not in kinds.H5:
        raise UsageProblem(f"--output {printable(str(output))}: has to end in .h5")
    writing.require_file(output)
    if output.exists() and not force:
        raise UsageProblem(f"{output} is already there; --force writes over it, or name another file with --output")
    options = Options(
        size=size,
        fit=fit,
        fps=fps,
        stride=stride,
        start=_moment("--start", start) or 0.0,
        end=_moment("--end", end),
        clock=":" in f"{start}{end}",
        key=key,
        episodes=episodes,
        frames=frames,
        episode_length=episode_length,
        seed=seed,
        wrappers=tuple(wrapper or ()),
    )
    if options.end is not None and options.end <= options.start:
        raise UsageProblem(f"--end {end}: has to lie behind --start {start or 0}; correct one of them")
    if fps is not None and not 0 < fps <= MOST_FPS:
        raise UsageProblem(f"--fps {fps:g}: has to be above 0 and at most {MOST_FPS}; correct it")
    if episodes == "one" and episode_length is not None:
        raise UsageProblem(
            f"--episode-length {episode_length}: with --episodes one there are none; leave one of them out"
        )
    from tiw_fsm.data.intake import making

    with stoppable_progress("reading", INTERRUPTED.format(output)) as show, _standard_output_kept():
        made = making.make(output, sources, options, show)
    if as_json:
        print_json(_plain(made))
    else:
        _tell(made, fit)


@contextmanager
def _standard_output_kept() -> Iterator[None]:
    """Within the block what others' code prints goes to standard error: standard output is for what was made."""
    if sys.stdout is None or sys.stderr is None:
        yield
        return
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _moment(flag: str, text: str | None) -> float | None:
    """Seconds, or a row: 90, 1:30 and 0:01:30 are the same.

    Raises:
        UsageProblem: it is none.
    """
    if text is None:
        return None
    total = 0.0
    try:
        for part in text.split(":"):
            total = total * 60 + float(part)
    except ValueError:
        total = -1.0
    if not 0 <= total < 1e9 or text.count(":") > 2:
        raise UsageProblem(f"{flag} {text}: is no time; give seconds (90) or minutes and seconds (1:30)")
    return total


def _plain(made: Made) -> dict[str, object]:
    told = made._asdict() | {"path": str(made.path), "sheet": str(made.sheet), "seconds": made.seconds}
    return told | {"bytes": made.path.stat().st_size}


def _tell(made: Made, fit: str) -> None:
    width, height = made.source_size
    kept = {
        "crop": "the middle of {} by {}; `--fit pad` keeps all of it",
        "pad": "{} by {} between black bars",
        "stretch": "{} by {}, in other proportions",
    }
    of = f" ({kept[fit].format(width, height)})" if width != height else f" (from {width} by {height})"
    play = f"; {duration(made.seconds)} of play, {made.fps:g} frames a second" if made.seconds and made.fps else ""
    held_out = f"{made.held_out} of them" if made.episodes > 1 else "the last tenth of the rows"
    actions = f"; {made.actions} different actions" if made.actions else ""
    size = made.path.stat().st_size / 1e6
    typed = shlex.quote(str(made.path))
    needs = "" if made.size == Options.size else f"with `frame_size: {made.size}` in training.yaml, "
    out.print(
        f"made {made.rows} frames of {made.size} by {made.size} pixels{of}{play}; {made.episodes} "
        f"episode{'s' if made.episodes > 1 else ''}, {held_out} held out{actions}; {size:.1f} MB in {made.path}",
        *(f"note: {note}" for note in made.notes),
        f"contact sheet: {made.sheet}",
        f"next: {needs}`tiw-fsm check --dataset {typed}`, then `tiw-fsm run --dataset {typed}`",
        sep="\n",
        soft_wrap=True,
    )
