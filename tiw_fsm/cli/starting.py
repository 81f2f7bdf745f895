"""Commands that begin with nothing there: ``demo`` does all that the demo needs, ``init`` writes configs, ``download``
brings TinyWorlds' own frames and models."""

from __future__ import annotations

import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiw_fsm.cli.gathering import SEED
from tiw_fsm.cli.options import RepoRoot, StateDir, argument, complete_run, option, places_typed, store_to_write
from tiw_fsm.cli.terminal import err, out, stoppable_progress
from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.stages import STAGES

if TYPE_CHECKING:
    from tiw_fsm.data.hub import Remote, Repository
    from tiw_fsm.storage.store import Store

FRAMES = Path("data/planet_frames.h5")
"""Those that the demo's configs name."""
PRETRAINED = Path("results/pretrained")
"""Where models of others go: each suite a run root, as ``tiw-fsm check`` knows one."""


def init(
    folder: Annotated[Path | None, argument("Folder to write to [default: configs, or configs/PROFILE].")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="A small planet, for two CPU cores and minutes.")] = False,
    crafter: Annotated[bool, typer.Option("--crafter", help="The game Crafter, for a GPU and hours.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write commented configs that agree with each other: TinyWorlds' own sizes, or a profile's."""
    from tiw_fsm.config.profiles import PROFILES, write
    from tiw_fsm.system.writable import unwritable

    if demo and crafter:
        raise UsageProblem("--demo and --crafter are two profiles; give one of them")
    profile = PROFILES["demo" if demo else "crafter" if crafter else "tinyworlds"]
    folder = folder or profile.folder
    if problem := unwritable(folder.resolve(), "name another folder"):
        raise UsageProblem(problem)
    there = [name for name in profile.files if os.path.lexists(folder / name)]
    if there and not force:
        raise UsageProblem(
            f"{folder} has {', '.join(there)} already; --force writes over that, or name another folder: "
            "nothing was written"
        )
    write(profile, profile.files, folder)
    flags = [] if folder == PROFILES["tinyworlds"].folder else ["--config-dir", str(folder)]
    out.print(
        f"wrote {', '.join(profile.files)} to {folder}; `{profile.frames}` brings the frames that training.yaml names, "
        f"`{shlex.join(['tiw-fsm', 'run', *flags])}` trains on them.",
        soft_wrap=True,
    )


def demo(
    run_name: Annotated[str, typer.Option("--run", help="Name of the run.", autocompletion=complete_run)] = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
) -> None:
    """Train the demo's small world until it passes: write its configs and record its frames where they are missing,
    then start the run, or resume it."""
    from tiw_fsm.config.profiles import PROFILES
    from tiw_fsm.engines.native import starting
    from tiw_fsm.run.launch import run_once

    store, profile = store_to_write(run_name, repo_root, state_dir), PROFILES["demo"]
    before = store.load()
    if before and os.path.normpath(before.flags.get("config_dir", "configs")) != str(profile.folder):
        raise UsageProblem(f"run {run_name!r} is none of the demo's; name another with --run")
    typed = {"config_dir": str(profile.folder)}
    starting.end_unless_wanted(store.paths.folder, typed)
    prepare(store, repo_root)
    code = run_once(store, typed, repo_root=repo_root, err=err, out=out)
    if code == ExitCode.PASSED:
        named = [run_name] if run_name != "default" else []
        play = shlex.join(["tiw-fsm", "play", *named, *places_typed(repo_root, state_dir)])
        out.print(f"`{play}` opens the world, to walk about in it.", soft_wrap=True)
    raise typer.Exit(code)


def prepare(store: Store, repo_root: Path) -> None:
    """Frames and configs of the demo below ``repo_root``, where they are missing.

    Raises:
        UsageProblem: the game is not installed; nothing was written.
        RunHeld: another process is at it.
        Interrupted: asked to stop meanwhile; half a recording is removed.
    """
    from tiw_fsm.config.profiles import PROFILES, write
    from tiw_fsm.data import recording

    profile, frames = PROFILES["demo"], repo_root / FRAMES
    folder = repo_root / profile.folder
    missing = [name for name in profile.files if not os.path.lexists(folder / name)]
    if frames.exists() and not missing:
        return
    if not frames.exists():
        try:
            import_module("crafter")
        except ModuleNotFoundError as exc:
            raise UsageProblem(recording.NOT_INSTALLED) from exc
    interrupted = "interrupted while the demo's frames were recorded; run again to record them."
    with store.hold(), stoppable_progress("recording", interrupted) as show:
        if missing:
            write(profile, missing, folder)
            out.print(f"wrote {', '.join(missing)} to {folder}", soft_wrap=True)
        if not frames.exists():
            recorded = recording.record(frames, seed=SEED, on_progress=show)
            out.print(f"recorded {recorded.frames} frames of {recorded.world} to {frames}", soft_wrap=True)


def download(
    names: Annotated[list[str] | None, argument("Datasets: ZELDA, PONG, PICODOOM, POLE_POSITION, SONIC.")] = None,
    model: Annotated[list[str] | None, option("Pretrained models to start from, as sonic.")] = None,
    repo: Annotated[str | None, option("Another repository, as OWNER/NAME.")] = None,
    revision: Annotated[str | None, option("Branch, tag or commit of it [default: its newest].")] = None,
    endpoint: Annotated[str | None, option("Another hub's address [default: HF_ENDPOINT, or the public hub].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch over a file that is another than the hub's.")] = False,
    repo_root: RepoRoot = Path("."),
) -> None:
    """Fetch TinyWorlds' own frames or models from the hub, whole and checked; the same command goes on where it was
    stopped."""
    from tiw_fsm.data import hub
    from tiw_fsm.data.frames import KNOWN
    from tiw_fsm.system.writable import unwritable

    if bool(names) == bool(model):
        raise UsageProblem(f"give names of datasets ({', '.join(KNOWN)}), or --model SUITE: one of the two")
    if problem := unwritable(repo_root.resolve(), "give another --repo-root"):
        raise UsageProblem(problem)
    given = {"name": repo, "revision": revision, "endpoint": endpoint}
    if names:
        files = {name: hub.frames_file(name) for name in dict.fromkeys(names)}
        repository = hub.look("dataset", **given)
        for name, remote in [(name, repository.find(file)) for name, file in files.items()]:
            target = repo_root / "data" / remote.path
            fetch(repository, remote, target, force)
            dataset = name.upper() if name.upper() in KNOWN else f"data/{remote.path}"
            out.print(f"`{shlex.join(['tiw-fsm', 'run', '--dataset', dataset])}` trains on them.", soft_wrap=True)
        return
    repository = hub.look("model", **given)
    suites = {suite: hub.models(repository, suite.strip("/")) for suite in dict.fromkeys(model or ())}
    for suite, found in suites.items():
        folder = PRETRAINED / hub.local_name(suite.strip("/").replace("/", "-"))
        flags = []
        for stage, remotes in found.items():
            place = folder / stage / "checkpoints"
            for remote in remotes:
                fetch(repository, remote, repo_root / place / hub.local_path(remote, stage), force)
            flags += [f"--{STAGES[stage].flag}-checkpoint", str(place)]
        game = suite.partition("/")[0].upper()
        flags += ["--dataset", game] if game in KNOWN else []
        command = shlex.join(["tiw-fsm", "run", "--run", folder.name, *flags])
        out.print(f"`tiw-fsm check {folder}` looks at them; to train on from them:\n{command}", soft_wrap=True)


def fetch(repository: Repository, remote: Remote, target: Path, force: bool) -> None:
    """One file under a bar, and in a sentence what came of it."""
    from tiw_fsm.data import hub

    interrupted = f"interrupted while {target} was fetched; run again, and it goes on with what is here."
    with stoppable_progress(target.name, interrupted, of_bytes=True) as show:
        fetched = hub.fetch(repository, remote, target, force=force, on_progress=show)
    size = f"{remote.size:,} bytes, with the hash that {repository.words} tells"
    out.print(f"fetched {target}: {size}" if fetched else f"{target} is there already: {size}", soft_wrap=True)
