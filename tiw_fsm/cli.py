"""The command line. Commands parse, call, print and turn errors into exit codes; nothing is decided here."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from typer.core import TyperCommand

from tiw_fsm.config.flags import FLAGS, Flag, typed, unfit_paths
from tiw_fsm.errors import ExitCode, Interrupted, RunHeld, TiwFsmError, UsageProblem, refusal
from tiw_fsm.reporting.wording import near, not_begun
from tiw_fsm.scheduling.snippets import Scheduler
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.storage.state_folder import StateFolder
from tiw_fsm.system import killer
from tiw_fsm.values.printable import printable
from tiw_fsm.version import __version__

if TYPE_CHECKING:
    from tiw_fsm.storage.store import Store

app = typer.Typer(
    name="tiw-fsm",
    help="Train a TinyWorlds world model until it passes its inference gate, resuming wherever it was stopped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Terminal(Console):
    """Where people read. When nobody does any more it is silent; Rich would end the process, and that with 1.

    A path or an error may have anything in it: nothing but Rich itself tells the terminal what to do.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # Python flushes it once more at its end


out, err = Terminal(highlight=False), Terminal(stderr=True, highlight=False)


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


def remembered(flag: Flag) -> inspect.Parameter:
    """A flag that runs remember, as a parameter that typer makes an option of."""
    names = (f"{flag.option}/--no-{flag.option[2:]}",) if flag.kind is bool else (flag.option,)
    kind: Any = Literal[flag.choices] if flag.choices else flag.kind  # typer reads the values at run time
    annotation = Annotated[kind | None, typer.Option(*names, help=flag.help, show_default=False)]
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def run(
    run_name: Annotated[str, typer.Option("--run", help="Name of the run.")] = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    if_idle: Annotated[
        bool, typer.Option("--if-idle", help="Exit 0 silently if a runner is at work: for cron.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Take changed config, data, code or torch into the run.")
    ] = False,
    require_exact: Annotated[
        bool, typer.Option("--require-exact", help="Refuse to go on where the run would not be bitwise the same.")
    ] = False,
    **flags: Any,
) -> None:
    """Start a run, or resume it exactly where it stopped."""
    from tiw_fsm.config.settings import unwritable
    from tiw_fsm.run.launch import run_once

    store = store_of(run_name, repo_root, state_dir)
    if state_dir is None and (problem := unwritable(repo_root.resolve())):
        raise UsageProblem(problem)
    code = run_once(
        store,
        typed(flags),
        repo_root=repo_root,
        err=err,
        out=out,
        accept_changes=accept_changes,
        require_exact=require_exact,
    )
    raise typer.Exit(code)


@app.command()
def join(
    endpoint: Annotated[str, argument("HOST:PORT of the first machine, as its --rdzv-endpoint says.")],
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    nproc_per_node: Annotated[str, typer.Option(help="Processes on this machine: a number, or auto, one a GPU.")] = "1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where GPUs are looked for.")] = "auto",
    python_exec: Annotated[Path | None, option("Interpreter of the training processes [default: this one].")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a first machine that does not answer.")] = 1800,
) -> None:
    """Take part in a run of many machines, on a further one of them, until the run has ended."""
    from tiw_fsm.config import processes
    from tiw_fsm.engines.native import joining, settings
    from tiw_fsm.fsm.states import TERMINAL

    problems: list[str] = []
    per_node = processes.per_node({"nproc_per_node": nproc_per_node}, None, problems)
    try:
        address = settings.endpoint(endpoint)
    except ValueError as exc:
        problems.append(str(exc))
    if problems:
        raise UsageProblem(problems)
    store = store_of(run, repo_root, state_dir)

    def has_ended() -> bool:
        try:
            found = store.load()
        except TiwFsmError:  # the run's own start will say so
            return False
        return found is not None and found.state in TERMINAL

    interpreter = str(python_exec or sys.executable)
    joining.join(joining.Joiner(address, store.paths, per_node, device, interpreter, patience, has_ended))
    err.print(f"run {run} has ended: tiw-fsm status --run {run}", soft_wrap=True)


own = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
run.__signature__ = inspect.Signature([*own, *map(remembered, FLAGS.values())])  # type: ignore[attr-defined]
run.__annotations__ = {parameter.name: parameter.annotation for parameter in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
app.command()(run)


@app.command()
def status(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 seconds, until the run ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where the run is and what happens next."""
    from tiw_fsm.reporting import status as module

    folder = StateFolder(folder_of(run, repo_root, state_dir))
    if watch:
        module.watch(out, lambda: module.status(folder), every=2.0)
        return
    found = module.status(folder)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        module.show(out, found)


@app.command()
def graph(run: Run = "default", repo_root: RepoRoot = Path("."), state_dir: StateDir = None) -> None:
    """The state machine as Mermaid, from the live table, with the run's state and the ways it took."""
    from tiw_fsm.reporting.journal import taken
    from tiw_fsm.reporting.mermaid import mermaid

    store = store_of(run, repo_root, state_dir)
    found = store.load()
    print(mermaid(found.state, taken(store.lines())) if found else mermaid())
    if found is None:
        err.print(not_begun(run), soft_wrap=True)


@app.command()
def history(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    since: Annotated[str | None, option("Only from then on: 2026-01-31T12:00, or 2h for two hours ago.")] = None,
    state: Annotated[str | None, option("Only steps out of or into this state.")] = None,
    all_steps: Annotated[
        bool, typer.Option("--all", help="Every step, not the last 200 alone; --json has all.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What happened, step by step, and how long each took."""
    from tiw_fsm.fsm.states import State
    from tiw_fsm.reporting import history as module

    if state is not None and state.upper() not in list(State):
        raise UsageProblem(f"--state {state} is none of {', '.join(State)}")
    store = store_of(run, repo_root, state_dir)
    begun = store.load()
    moment = module.moment(since) if since else None
    state = state and state.upper()
    every = module.entries(store.lines(), since=moment, state=state)
    if as_json:
        module.write_json(every, sys.stdout.write)
        return
    shown = module.show(out, every if all_steps else module.latest(store, since=moment, state=state))
    out.print(module.conclusion(begun.generation if begun else 0, shown, run), soft_wrap=True)


@app.command()
def report(
    run: Run = "default", repo_root: RepoRoot = Path("."), state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """The run as one HTML page that opens from disk; a run at work keeps it current by itself."""
    from tiw_fsm.reporting.html import writer

    path = writer.write_now(store_of(run, repo_root, state_dir))
    if as_json:
        print(json.dumps({"path": path and str(path)}))
        return
    sentence = f"{near(str(path))} is written: open it in a browser." if path else not_begun(run)
    out.print(sentence, soft_wrap=True)


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="A checkpoint, a folder of them or a run root.")] = None,
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    config_dir: Annotated[str | None, option("Folder of the YAML files [default: configs/].")] = None,
    dataset: Annotated[str | None, option("TinyWorlds name or h5 file to train and judge on.")] = None,
    engine: Annotated[str | None, option(FLAGS["engine"].help)] = None,
    as_json: AsJson = False,
) -> None:
    """Whether configs, data and checkpoints are ready, changing nothing; exits 2 if something is not."""
    from tiw_fsm.run import check

    given = typed({"config_dir": config_dir, "dataset": dataset, "engine": engine})
    found = check.findings(store_of(run, repo_root, state_dir), given, repo_root, path)
    ready = check.show(out, found, "ready", "not ready", as_json=as_json)
    raise typer.Exit(ExitCode.PASSED if ready else ExitCode.USAGE)


class BareReplay(TyperCommand):
    """``--replay`` may stand alone, which typer knows no way to say: then it asks for all that is kept."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = pairwise([*args, ""])
        told = ["--replay=0" if word == "--replay" and not after.isdigit() else word for word, after in words]
        return super().parse_args(ctx, told)


Replay = Annotated[
    int | None,
    typer.Option(
        help="Compute at least the last N updates of each stage once more, and compare; all that is kept without N.",
        metavar="[N]",
        show_default=False,
        min=0,
    ),
]


@app.command(cls=BareReplay)
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
        check.show(out, found, "whole", "damaged", as_json=False)
        out.print(verify.conclusion(found, run), soft_wrap=True)
    wanted = replay is not None or stage is not None
    replayed = replaying.findings(store, whole=whole, last=replay or 0, only=stage, console=err) if wanted else []
    if as_json:
        print(json.dumps([*(each._asdict() for each in found), *(each._asdict() for each in replayed)], indent=1))
    elif wanted:
        replaying.show(out, replayed)
    same = not any(each.problems for each in replayed)
    raise typer.Exit(ExitCode.PASSED if whole and same else ExitCode.DAMAGED)


@app.command()
def schedule(
    scheduler: Annotated[
        Scheduler, typer.Argument(help="cron, systemd, slurm, kubernetes or skypilot.", show_default=False)
    ],
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    nodes: Annotated[
        int | None, option_from(1, "Machines to train on: slurm, kubernetes, skypilot [default: 1].")
    ] = None,
    gpus_per_node: Annotated[
        int | None, option_from(1, "GPUs of each, with a process for each [default: none, and one process].")
    ] = None,
    accelerator: Annotated[str | None, option("Kind of GPU, by skypilot's name for it: H100.")] = None,
    image: Annotated[str | None, option("Image that has tiw-fsm on its PATH: kubernetes.")] = None,
    volume: Annotated[
        str | None, option("kubernetes' claim, or skypilot's volume, with the working root [default: tiw-fsm].")
    ] = None,
) -> None:
    """Print what cron, systemd, Slurm, Kubernetes or SkyPilot needs to keep this run going, wherever it is stopped."""
    from tiw_fsm.scheduling.job import Job, Machines, this_program
    from tiw_fsm.scheduling.snippets import KINDS, snippet

    folder = folder_of(run, repo_root, state_dir)
    machines = Machines(nodes, gpus_per_node, accelerator, image, volume)
    print(snippet(scheduler, Job(this_program(), repo_root.resolve(), run, folder.parent, machines)), end="")
    err.print(KINDS[scheduler].advice, soft_wrap=True, markup=False)
    if not StatePaths(folder).state.exists():
        err.print(f"{not_begun(run)} Start it once with the flags it shall have.", soft_wrap=True)


@app.command()
def record(
    path: Annotated[Path | None, argument("h5 file to write [default: data/GAME_frames.h5].")] = None,
    game: Annotated[str, typer.Option(help="planet: small, wraps around; crafter: the real game.")] = "planet",
    frames: Annotated[int | None, option_from(1, "Frames to record [default: 10240; crafter: 16384].")] = None,
    size: Annotated[int | None, option_from(8, "Side of a frame in pixels [default: 56; crafter: 72].")] = None,
    map_size: Annotated[int | None, option_from(1, "Side of the planet in cells [default: 16].")] = None,
    episode_length: Annotated[int | None, option_from(2, "Frames per episode [default: 32; crafter: 100].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of world and keys.", min=0, max=2**32 - 1)] = 5,
    force: Annotated[bool, typer.Option("--force", help="Record again over an existing file.")] = False,
) -> None:
    """Record demo frames from a game, the same for the same seed."""
    path = path or Path(f"data/{game}_frames.h5")
    if path.exists() and not force:
        out.print(f"{path} is already there; --force records it again.")
        return
    from rich.progress import Progress

    from tiw_fsm.data import recording

    with Progress(console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("recording", total=frames)
        recorded = recording.record(
            path,
            game=game,
            frames=frames,
            size=size,
            episode_length=episode_length,
            map_size=map_size,
            seed=seed,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out.print(
        f"recorded {recorded.frames} frames, {recorded.distinct} of them different, of {recorded.world} to {path}; "
        f"`tiw-fsm run --dataset {path}` trains on them.",
        soft_wrap=True,
    )


@app.command()
def play(
    run: Annotated[str, typer.Argument(help="Name of the run.")] = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    terminal: Annotated[bool, typer.Option("--terminal", help="Play in this terminal instead of a browser.")] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto, cpu or cuda.")] = "auto",
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes one that is free.", min=0, max=65535)] = 8008,
    host: Annotated[
        str, typer.Option(help="Address to listen at; on another than loopback the page wants the token printed.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
) -> None:
    """Play a run's world model with the keyboard, in a browser or in the terminal."""
    from tiw_fsm.api import open_run
    from tiw_fsm.play import launch

    folder = folder_of(run, repo_root, state_dir)
    played = open_run(run, state_dir=folder.parent)
    if terminal:
        launch.play_in_terminal(played, device=device, out=out)
    else:
        launch.play_in_browser(played, device=device, host=host, port=port, browser=not no_browser, out=out)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@contextmanager
def permission_told() -> Iterator[None]:
    """What the system does not permit is no bug, wherever it is met: whose the file is has to be said."""
    try:
        yield
    except PermissionError as exc:
        if exc.filename is None:
            raise
        raise refusal("using", Path(os.fsdecode(exc.filename)), exc) from exc


def main() -> None:
    """Entry point: errors become messages and exit codes here and nowhere else."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter shall not cost the answer
    try:
        with permission_told():
            app()
    except TiwFsmError as exc:
        if isinstance(exc, RunHeld) and "--if-idle" in sys.argv:
            sys.exit(ExitCode.PASSED)
        err.print(str(exc), style="yellow" if isinstance(exc, Interrupted) else "red", soft_wrap=True, markup=False)
        sys.exit(exc.exit_code)
    except Exception as exc:
        if killer.is_shortage(exc):
            err.print(f"memory does not suffice: {exc!r}; {killer.REMEDY}, and run again.", style="red", soft_wrap=True)
            sys.exit(ExitCode.DISK)
        traceback.print_exc()
        err.print("This is a bug in tiw-fsm: state is untouched. The traceback above is what to report.", style="red")
        sys.exit(ExitCode.BUG)
