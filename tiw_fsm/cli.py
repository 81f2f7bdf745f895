"""The command line. Commands parse, call, print and turn errors into exit codes; nothing is decided here."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tiw_fsm import __version__
from tiw_fsm.errors import ExitCode, Interrupted, RunHeld, TiwFsmError, UsageProblem
from tiw_fsm.paths import StatePaths
from tiw_fsm.scheduling import Scheduler
from tiw_fsm.state_folder import StateFolder
from tiw_fsm.wording import near, not_begun

if TYPE_CHECKING:
    from tiw_fsm.store import Store

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
    """Where people read. When nobody does any more it is silent; Rich would end the process, and that with 1."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # Python flushes it once more at its end


out, err = Terminal(highlight=False), Terminal(stderr=True, highlight=False)


class TrainStage(StrEnum):
    NONE = "none"
    ALL = "all"
    VIDEO = "video_tokenizer"
    LATENT = "latent_actions"
    DYNAMICS = "dynamics"


class EngineName(StrEnum):
    NATIVE = "native"
    CHECKOUT = "checkout"
    SIMULATED = "simulated"


def option(help: str, name: str | None = None) -> Any:
    return typer.Option(name, help=help, show_default=False) if name else typer.Option(help=help, show_default=False)


Run = Annotated[str, typer.Option(help="Name of the run.")]
RepoRoot = Annotated[Path, typer.Option(help="Working root: configs, data, results and reports lie under it.")]
StateDir = Annotated[Path | None, option("Where runs keep their state [default: state/ under the working root].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]
NOT_SAVED = ("run_name", "repo_root", "state_dir", "if_idle", "accept_changes", "require_exact")


def folder_of(run: str, repo_root: Path, state_dir: Path | None) -> Path:
    if not re.fullmatch(r"\w[\w.-]{0,99}", run, re.ASCII):
        raise UsageProblem(f"--run {run!r}: cannot be the name of a folder; use up to 100 letters, digits, - and _")
    return (state_dir or repo_root / "state").resolve() / run


def store_of(run: str, repo_root: Path, state_dir: Path | None) -> Store:
    from tiw_fsm.store import Store  # brings pydantic, which `tiw-fsm status` does without

    return Store(folder_of(run, repo_root, state_dir))


@app.command()
def run(
    run_name: Annotated[str, typer.Option("--run", help="Name of the run.")] = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    config_dir: Annotated[str | None, option("Folder of the YAML files [default: configs/].")] = None,
    engine: Annotated[EngineName | None, option("Who trains: native, checkout, simulated [default: native].")] = None,
    if_idle: Annotated[
        bool, typer.Option("--if-idle", help="Exit 0 silently if a runner is at work: for cron.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Take changed config, data, code or torch into the run.")
    ] = False,
    require_exact: Annotated[
        bool, typer.Option("--require-exact", help="Refuse to go on where the run would not be bitwise the same.")
    ] = False,
    train_stage: Annotated[TrainStage | None, option("Which stages to train [default: all].")] = None,
    video_checkpoint: Annotated[
        str | None, option("Checkpoint, or folder of them, to start the tokenizer from.")
    ] = None,
    latent_checkpoint: Annotated[str | None, option("The same for the latent actions.")] = None,
    dynamics_checkpoint: Annotated[str | None, option("The same for the dynamics.")] = None,
    run_root: Annotated[str | None, option("Where artifacts go [default: results/<run>].")] = None,
    training_config: Annotated[str | None, option("Another training.yaml.")] = None,
    video_config: Annotated[str | None, option("Another video_tokenizer.yaml.")] = None,
    latent_config: Annotated[str | None, option("Another latent_actions.yaml.")] = None,
    dynamics_config: Annotated[str | None, option("Another dynamics.yaml.")] = None,
    inference_config: Annotated[str | None, option("Another inference.yaml.")] = None,
    loop_config: Annotated[str | None, option("Another loop.yaml.")] = None,
    dataset: Annotated[str | None, option("TinyWorlds name or h5 file to train and judge on.")] = None,
    device: Annotated[str | None, option("auto, cpu or cuda [default: auto].")] = None,
    seed: Annotated[int | None, option("Seed of weights, batches, masks and clips.")] = None,
    python_exec: Annotated[str | None, option("Interpreter of the training process [default: this one].")] = None,
    torchrun: Annotated[str | None, option("torchrun of a checkout; the native engine needs none.")] = None,
    nproc_per_node: Annotated[int | None, option("Processes of a checkout; the native engine trains in one.")] = None,
    target_updates: Annotated[int | None, option("Updates per trained stage, instead of n_updates.")] = None,
    video_chunk: Annotated[int | None, option("Tokenizer updates between gates.")] = None,
    latent_chunk: Annotated[int | None, option("Latent action updates between gates.")] = None,
    dynamics_chunk: Annotated[int | None, option("Dynamics updates between gates.")] = None,
    init_learning_rate: Annotated[float | None, option("First peak learning rate of every stage.")] = None,
    init_grad_accum: Annotated[int | None, option("First gradient_accumulation_steps of every stage.")] = None,
    init_batch_size: Annotated[int | None, option("First batch_size_per_gpu of every stage.")] = None,
    init_log_interval: Annotated[int | None, option("First log_interval of every stage.")] = None,
    max_train_retries: Annotated[int | None, option("Rejected chunks in a row that a stage may have.")] = None,
    max_inference_retries: Annotated[int | None, option("Retunes after failed inference gates.")] = None,
    max_crashes: Annotated[int | None, option("Dead training processes in a row that a stage may have.")] = None,
    max_stalled_starts: Annotated[int | None, option("Starts in a row without progress.")] = None,
    retry_chunk: Annotated[int | None, option("Dynamics updates added by a retune.")] = None,
    retry_init_learning_rate: Annotated[float | None, option("Peak learning rate of the first retune.")] = None,
    retry_lr_decay: Annotated[float | None, option("Its factor from retune to retune.")] = None,
    retry_lr_floor: Annotated[float | None, option("The lowest it may fall.")] = None,
    max_mse: Annotated[float | None, option("Largest MSE that passes the inference gate.")] = None,
    allow_trivial: Annotated[
        bool | None,
        typer.Option("--allow-trivial/--no-allow-trivial", help="Judge without the baselines.", show_default=False),
    ] = None,
    generation_steps: Annotated[int | None, option("Inference steps.")] = None,
    context_window: Annotated[int | None, option("True frames an inference starts from.")] = None,
    prediction_horizon: Annotated[int | None, option("Frames decoded together in one inference step.")] = None,
    decode_steps: Annotated[int | None, option("MaskGIT decoding steps per prediction.")] = None,
    preload_ratio: Annotated[float | None, option("Share of the held-out rows inference draws from.")] = None,
    temperature: Annotated[float | None, option("Sampling temperature; 0 takes the likeliest token.")] = None,
    teacher_forced: Annotated[
        bool | None,
        typer.Option("--teacher-forced/--no-teacher-forced", help="Feed inference true frames.", show_default=False),
    ] = None,
) -> None:
    """Start a run, or resume it exactly where it stopped."""
    typed = {name: value for name, value in locals().items() if name not in NOT_SAVED and value is not None}
    from tiw_fsm.runner import run_once
    from tiw_fsm.settings import unwritable

    if state_dir is None and (problem := unwritable(repo_root.resolve())):
        raise UsageProblem(problem)
    code = run_once(
        store_of(run_name, repo_root, state_dir),
        typed,
        repo_root=repo_root,
        err=err,
        out=out,
        accept_changes=accept_changes,
        require_exact=require_exact,
    )
    raise typer.Exit(code)


@app.command()
def status(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 seconds, until the run ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where the run is and what happens next."""
    from tiw_fsm import status as module

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
    from tiw_fsm.history import taken
    from tiw_fsm.machine import mermaid

    store = store_of(run, repo_root, state_dir)
    found = store.load()
    print(mermaid(found.state, taken(store.journal())) if found else mermaid())
    if found is None:
        err.print(not_begun(run), soft_wrap=True)


@app.command()
def history(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    since: Annotated[str | None, option("Only from then on: 2026-01-31T12:00, or 2h for two hours ago.")] = None,
    state: Annotated[str | None, option("Only steps out of or into this state.")] = None,
    as_json: AsJson = False,
) -> None:
    """What happened, step by step, and how long each took."""
    from tiw_fsm import history as module
    from tiw_fsm.states import State

    if state is not None and state.upper() not in list(State):
        raise UsageProblem(f"--state {state} is none of {', '.join(State)}")
    journal = store_of(run, repo_root, state_dir).journal()
    found = module.entries(
        journal, since=module.moment(since) if since else None, state=state.upper() if state else None
    )
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        module.show(out, found)
        out.print(module.conclusion(journal, found, run), soft_wrap=True)


@app.command()
def report(
    run: Run = "default", repo_root: RepoRoot = Path("."), state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """The run as one HTML page that opens from disk; a run at work keeps it current by itself."""
    from tiw_fsm import page_file

    path = page_file.report(store_of(run, repo_root, state_dir))
    if as_json:
        print(json.dumps({"path": path and str(path)}))
        return
    said = f"{near(str(path))} is written: open it in a browser." if path else not_begun(run)
    out.print(said, soft_wrap=True)


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="A checkpoint, a folder of them or a run root.")] = None,
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    config_dir: Annotated[str | None, option("Folder of the YAML files [default: configs/].")] = None,
    dataset: Annotated[str | None, option("TinyWorlds name or h5 file to train and judge on.")] = None,
    engine: Annotated[EngineName | None, option("Who trains: native, checkout, simulated [default: native].")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether configs, data and checkpoints are ready, changing nothing; exits 2 if something is not."""
    from tiw_fsm import readiness

    flags = {"config_dir": config_dir, "dataset": dataset, "engine": engine}
    typed = {name: value for name, value in flags.items() if value is not None}
    found = readiness.findings(store_of(run, repo_root, state_dir), typed, repo_root, path)
    ready = readiness.show(out, found, "ready", "not ready", as_json=as_json)
    raise typer.Exit(ExitCode.PASSED if ready else ExitCode.USAGE)


@app.command()
def verify(
    run: Run = "default", repo_root: RepoRoot = Path("."), state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """Whether all that the run's state vouches for is there unaltered, and what to do if not; exits 4 if not."""
    from tiw_fsm import readiness, verification

    found = verification.findings(store_of(run, repo_root, state_dir))
    whole = readiness.show(out, found, "whole", "damaged", as_json=as_json)
    if not as_json:
        out.print(verification.conclusion(found, run), soft_wrap=True)
    raise typer.Exit(ExitCode.PASSED if whole else ExitCode.DAMAGED)


@app.command()
def schedule(
    scheduler: Annotated[Scheduler, typer.Argument(help="cron, systemd or slurm.", show_default=False)],
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
) -> None:
    """Print what cron, systemd or Slurm needs to keep this run going, wherever it is stopped."""
    from tiw_fsm import scheduling

    folder = folder_of(run, repo_root, state_dir)
    job = scheduling.Job(scheduling.this_program(), repo_root.resolve(), run, folder.parent)
    print(scheduling.snippet(scheduler, job), end="")
    err.print(scheduling.ADVICE[scheduler], soft_wrap=True, markup=False)
    if not StatePaths(folder).state.exists():
        err.print(f"{not_begun(run)} Start it once with the flags it shall have.", soft_wrap=True)


@app.command()
def record(
    path: Annotated[Path, typer.Argument(help="h5 file to write.")] = Path("data/crafter_frames.h5"),
    frames: Annotated[int, typer.Option(help="Frames to record.", min=1)] = 12_000,
    size: Annotated[int, typer.Option(help="Side of a frame in pixels.", min=8)] = 56,
    episode_length: Annotated[int, typer.Option(help="Frames per episode.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of worlds and moves.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Record again over an existing file.")] = False,
) -> None:
    """Record demo frames from a real game (Crafter), the same for the same seed."""
    if path.exists() and not force:
        out.print(f"{path} is already there; --force records it again.")
        return
    from rich.progress import Progress

    from tiw_fsm import recording

    with Progress(console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("recording", total=frames)
        recording.record(
            path,
            frames=frames,
            size=size,
            episode_length=episode_length,
            seed=seed,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out.print(f"recorded {frames} frames to {path}; `tiw-fsm run --dataset {path}` trains on them.", soft_wrap=True)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: errors become messages and exit codes here and nowhere else."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter shall not cost the answer
    try:
        app()
    except TiwFsmError as exc:
        if isinstance(exc, RunHeld) and "--if-idle" in sys.argv:
            sys.exit(ExitCode.PASSED)
        err.print(str(exc), style="yellow" if isinstance(exc, Interrupted) else "red", soft_wrap=True, markup=False)
        sys.exit(exc.exit_code)
    except Exception:
        traceback.print_exc()
        err.print("This is a bug in tiw-fsm: state is untouched. The traceback above is what to report.", style="red")
        sys.exit(ExitCode.BUG)
