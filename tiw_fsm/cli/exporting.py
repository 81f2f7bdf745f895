"""``export``: a passed world as a folder for others, or its rollouts as a film."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tiw_fsm.cli.options import AsJson, RepoRoot, RunName, StateDir, folder_of, may_stand_alone
from tiw_fsm.cli.terminal import out, print_json, progress
from tiw_fsm.errors import UsageProblem

if TYPE_CHECKING:
    from tiw_fsm.api import Run
    from tiw_fsm.values.plain import JsonObject


def _names_a_film(word: str) -> bool:
    """Whether it ends as films and pictures do, be it one that cannot be made; ``run.v2`` is the name of a run."""
    return (mimetypes.guess_type(word)[0] or "").startswith(("video/", "image/"))


BareVideo = may_stand_alone("--video", "", _names_a_film)


def export(
    run: RunName = "default",
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
    if video is not None and output is not None:
        raise UsageProblem("--output names the folder of an export, --video a film, as --video FILE; give one of them")
    from tiw_fsm.api import open_run

    state_folder = folder_of(run, repo_root, state_dir)
    exported, place = open_run(run, state_dir=state_folder.parent), repo_root / "exports"
    if video is None:
        told, said = _folder(exported, output or place / run, force, allow_failed)
    else:
        told, said = _film(exported, Path(video) if video else place / f"{run}.mp4", force, allow_failed, device)
    if as_json:
        print_json({"run": run, **told})
    else:
        out.print(said, soft_wrap=True)


def _folder(run: Run, path: Path, force: bool, allow_failed: bool) -> tuple[JsonObject, str]:
    """Make the folder; what there is to say of it, to scripts and to people."""
    from tiw_fsm.export import folder

    with progress("exporting") as show:
        made = folder.export(
            run,
            path,
            force=force,
            allow_failed=allow_failed,
            each_file=lambda name: show(0, None, f"exporting {name}"),
        )
    told = {"folder": str(path), "passed": made.config.passed, "files": made.sums}
    return told | {"bytes": made.bytes, "starts": made.starts}, folder.conclusion(made, path)


def _film(run: Run, path: Path, force: bool, allow_failed: bool, device: str) -> tuple[JsonObject, str]:
    """Make the film; what there is to say of it, to scripts and to people."""
    from tiw_fsm.export import film

    with progress("rolling out") as show:
        clips = film.write(run, path, force=force, allow_failed=allow_failed, device=device, each_step=show)
    told = {"film": str(path), "clips": clips, "bytes": path.stat().st_size}
    return told, f"Filmed {clips} rollouts of run {run.store.paths.folder.name}, true above imagined: {path}"
