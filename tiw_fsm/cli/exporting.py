"""``export``: a passed world as a folder for others, or its rollouts as a film."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tiw_fsm.cli.options import AsJson, RepoRoot, StateDir, folder_of, may_stand_alone
from tiw_fsm.cli.terminal import err, out

BareVideo = may_stand_alone("--video", "", lambda word: bool(Path(word).suffix))


def export(
    run: Annotated[str, typer.Argument(help="Name of the run.")] = "default",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make [default: exports/RUN].", show_default=False)
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(
            help="Film the rollouts instead, as .mp4 or .gif; exports/RUN.mp4 without FILE.",
            metavar="[FILE]",
            show_default=False,
        ),
    ] = None,
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where a film is rolled out.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Make it again over an export, or a film, that is there.")] = (
        False
    ),
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Export a world that its gate has not passed, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a folder of a passed run's world: weights, sizes, starts, checkpoints, pictures and a model card."""
    from rich.progress import Progress

    from tiw_fsm.api import open_run

    state_folder = folder_of(run, repo_root, state_dir)
    exported = open_run(run, state_dir=state_folder.parent)
    place = repo_root / "exports"
    with Progress(console=err, disable=not err.is_terminal) as bar:
        if video is not None:
            from tiw_fsm.export import film

            task = bar.add_task("rolling out", total=None)
            path = Path(video) if video else place / f"{run}.mp4"
            clips = film.write(
                exported,
                path,
                force=force,
                allow_failed=allow_failed,
                device=device,
                each_step=lambda done, total: bar.update(task, completed=done, total=total),
            )
            told = {"run": run, "film": str(path), "clips": clips, "bytes": path.stat().st_size}
            said = f"Filmed {clips} rollouts of run {run}, true above imagined: {path}"
        else:
            from tiw_fsm.export import folder

            task = bar.add_task("exporting", total=None)
            made = folder.export(
                exported,
                output or place / run,
                force=force,
                allow_failed=allow_failed,
                each_file=lambda name: bar.update(task, description=f"exporting {name}"),
            )
            shown = output or place / run
            told = {"run": run, "folder": str(shown), "passed": made.config.passed, "files": made.sums}
            told |= {"bytes": made.bytes, "starts": made.starts}
            said = folder.conclusion(made, shown)
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        out.print(said, soft_wrap=True, markup=False)
