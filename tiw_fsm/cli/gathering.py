"""Commands that bring frames: ``record``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiw_fsm.cli.options import argument, option_from
from tiw_fsm.cli.terminal import out, progress

SEED = 5
"""Of a recording's world and keys, if not told otherwise."""


def record(
    path: Annotated[Path | None, argument("h5 file to write [default: data/GAME_frames.h5].")] = None,
    game: Annotated[str, typer.Option(help="planet: small, wraps around; crafter: the real game.")] = "planet",
    frames: Annotated[int | None, option_from(1, "Frames to record [default: 10240; crafter: 16384].")] = None,
    size: Annotated[int | None, option_from(8, "Side of a frame in pixels [default: 56; crafter: 72].")] = None,
    map_size: Annotated[int | None, option_from(1, "Side of the planet in cells [default: 16].")] = None,
    episode_length: Annotated[int | None, option_from(2, "Frames per episode [default: 32; crafter: 100].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of world and keys.", min=0, max=2**32 - 1)] = SEED,
    force: Annotated[bool, typer.Option("--force", help="Record again over an existing file.")] = False,
) -> None:
    """Record demo frames from a game, the same for the same seed."""
    path = path or Path(f"data/{game}_frames.h5")
    if path.exists() and not force:
        out.print(f"{path} is already there; --force records it again.")
        return
    from tiw_fsm.data import recording

    with progress("recording") as show:
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
    out.print(
        f"recorded {recorded.frames} frames, {recorded.distinct} of them different, of {recorded.world} to {path}; "
        f"`tiw-fsm run --dataset {path}` trains on them.",
        soft_wrap=True,
    )
