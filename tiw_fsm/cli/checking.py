"""Commands that answer by an exit code whether all is well: ``check``, before a run, and ``verify``, after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tiw_fsm.cli.options import AsJson, RepoRoot, Run, Set, StateDir, may_stand_alone, option, store_of, typed_flags
from tiw_fsm.cli.terminal import err, out, print_json
from tiw_fsm.config.flags import FLAGS
from tiw_fsm.errors import ExitCode


def check(
    path: Annotated[
        Path | None, typer.Argument(help="A checkpoint, a folder of them, a run root or an export.")
    ] = None,
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    config_dir: Annotated[str | None, option("Folder of the YAML files [default: configs/].")] = None,
    dataset: Annotated[str | None, option("TinyWorlds name or h5 file to train and judge on.")] = None,
    engine: Annotated[str | None, option(FLAGS["engine"].help)] = None,
    set: Set = None,
    as_json: AsJson = False,
) -> None:
    """Whether configs, data and checkpoints are ready, changing nothing; exits 2 if something is not."""
    from tiw_fsm.run import check

    given = typed_flags({"config_dir": config_dir, "dataset": dataset, "engine": engine, "set": set})
    found = check.findings(store_of(run, repo_root, state_dir), given, repo_root, path)
    if as_json:
        print_json([each._asdict() for each in found])
    else:
        check.show(out, found, "ready", "not ready")
    ready = not any(each.problems for each in found)
    raise typer.Exit(ExitCode.PASSED if ready else ExitCode.USAGE)


BareReplay = may_stand_alone("--replay", "0", str.isdigit)  # then it asks for all that is kept
Replay = Annotated[
    int | None,
    typer.Option(
        help="Compute at least the last N updates of each stage once more, and compare; all that is kept without N.",
        metavar="[N]",
        show_default=False,
        min=0,
    ),
]


def verify(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    replay: Replay = None,
    stage: Annotated[
        Literal["video_tokenizer", "latent_actions", "dynamics", "inference"] | None,
        option("Replay it alone [default: the three stages and the last inference attempt]."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Whether all that the run's state vouches for is there unaltered, and what to do if not; exits 4 if not."""
    from tiw_fsm.run import check, verify
    from tiw_fsm.run import replay as replaying

    store = store_of(run, repo_root, state_dir)
    found = verify.findings(store)
    whole = not any(problems for _, problems in found)
    if not as_json:
        check.show(out, found, "whole", "damaged")
        out.print(verify.conclusion(found, run), soft_wrap=True)
    wanted = replay is not None or stage is not None
    replayed = replaying.findings(store, whole=whole, last=replay or 0, only=stage, console=err) if wanted else []
    if as_json:
        print_json([*(each._asdict() for each in found), *(each._asdict() for each in replayed)])
    elif wanted:
        replaying.show(out, replayed)
    same = not any(each.problems for each in replayed)
    raise typer.Exit(ExitCode.PASSED if whole and same else ExitCode.DAMAGED)
