"""Shared fixtures: a working root with tiny configs, runs on the simulated engine, the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import yaml
from rich.console import Console
from run_folder import RunFolder

from tiw_fsm.config.settings import load_settings
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import ExitCode
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.display import Display
from tiw_fsm.run.log import make_log

if TYPE_CHECKING:
    from bench import Bench  # these two are of the torture bench
    from checkout_runs import MakeCheckout  # of tests/checkout
    from launch import Launcher

TINY: dict[str, dict[str, Any]] = {
    "training": {
        "dataset": "frames.h5",
        "patch_size": 8,
        "context_length": 4,
        "frame_size": 16,
        "latent_dim": 3,
        "num_bins": 4,
        "n_actions": 4,
        "embed_dim": 24,
        "num_heads": 2,
        "hidden_dim": 24,
        "num_blocks": 1,
        "device": "cpu",
    },
    "video_tokenizer": {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "n_updates": 20,
        "learning_rate": 0.003,
        "log_interval": 5,
    },
    "latent_actions": {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "n_updates": 10,
        "learning_rate": 0.003,
        "log_interval": 5,
    },
    "dynamics": {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "n_updates": 20,
        "learning_rate": 0.003,
        "log_interval": 5,
    },
    "inference": {"generation_steps": 4, "temperature": 0.0},
    "loop": {
        "chunks": {"video_tokenizer": 10, "latent_actions": 10, "dynamics": 10},
        "checkpoint_interval": 5,
        "inference": {"clips": 2},
        "retune": {"chunk": 10},
    },
}
FIGURES: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="run the whole torture bench, with about this many random kills")
    parser.addoption("--checkout", metavar="PATH", help="run the engines' suite over the TinyWorlds checkout there")
    parser.addoption("--checkout-python", metavar="PATH", help="its interpreter [default: its .venv/bin/python]")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several workers, which have no terminal
        session.config.workeroutput["figures"] = dict(FIGURES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker is done."""
    FIGURES.update(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the torture bench tried."""
    if FIGURES:
        terminalreporter.write_sep("-", "torture")
        for name, number in FIGURES.items():
            terminalreporter.write_line(f"{number:>12,}  {name}")


@pytest.fixture
def figures() -> Counter[str]:
    """Where a part of the torture bench counts what it tried."""
    return FIGURES


Amount = Callable[[int, float], int]


@pytest.fixture
def amount(request: pytest.FixtureRequest) -> Amount:
    """How much of something to try: so much in the short form; with --kills, so much for each kill asked for."""
    kills = request.config.getoption("--kills")
    return lambda short, per_kill: short if kills is None else round(kills * per_kill)


@pytest.fixture
def whole_bench(request: pytest.FixtureRequest) -> bool:
    """Whether the whole torture bench was asked for, and not its short form."""
    return request.config.getoption("--kills") is not None


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts the command line in milliseconds, with faults where a test wants them."""
    from launch import Launcher

    if reason := Launcher.unavailable():
        pytest.skip(reason)
    with Launcher(tmp_path_factory.mktemp("launcher")) as launcher:
        yield launcher


@pytest.fixture(scope="session")
def simulated(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run of the simulated engine to disturb."""
    from bench import SIMULATED, Bench

    return Bench(launcher, tmp_path_factory.mktemp("simulated"), SIMULATED)


@pytest.fixture(scope="session")
def native(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run of the native engine to disturb."""
    from bench import NATIVE, Bench

    return Bench(launcher, tmp_path_factory.mktemp("native"), NATIVE)


LENIENT = {"gates": {stage: {"from_update": 10_000} for stage in ("video_tokenizer", "latent_actions", "dynamics")}}
"""Stage gates that let any finite chunk through that does not double its loss."""


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def write_configs(folder: Path, changes: Mapping[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in merged(TINY, changes or {}).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def write_frames(path: Path, *, episodes: int = 20, length: int = 24, size: int = 16, seed: int = 0) -> None:
    """A bright square that walks over a dark field, by seeded steps: learnable, and no two episodes alike."""
    rng = np.random.default_rng(seed)
    frames = np.full((episodes * length, size, size, 3), 30, np.uint8)
    for episode in range(episodes):
        y, x = rng.integers(0, size - 4, 2)
        for t in range(length):
            dy, dx = rng.integers(-2, 3, 2)
            y, x = np.clip([y + dy, x + dx], 0, size - 4)
            frames[episode * length + t, y : y + 4, x : x + 4] = (220, 180, 60)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames)
        file.create_dataset("episode", data=np.repeat(np.arange(episodes), length))
        file.attrs["stride"] = 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working root with tiny configs, lenient stage gates and tiny frames."""
    write_configs(tmp_path / "configs", {"loop": LENIENT})
    write_frames(tmp_path / "frames.h5")
    return tmp_path


class Simulation(RunFolder):
    """Runs on the simulated engine, in this process."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.engine = SimulatedEngine()

    def run(self, script: Script | None = None, **flags: Any) -> ExitCode:
        """One start. Flags are those of the command line."""
        self.engine = SimulatedEngine(script)
        return self.run_with(self.engine, **flags)

    def run_with(self, engine: SimulatedEngine, *, accept_changes: bool = False, **typed: Any) -> ExitCode:
        console = Console(quiet=True)
        with self.store.hold():
            before, _ = self.store.resume()
            flags = {"engine": "simulated", **(before.flags if before else {}), **typed}
            with Display(console) as display:
                return Controller(
                    load_settings(flags, run="default", repo_root=self.root),
                    flags,
                    self.store,
                    before,
                    make_engine=lambda settings, store: engine,
                    display=display,
                    log=make_log(console, self.store.paths.log),
                    accept_changes=accept_changes,
                ).run()


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    write_configs(tmp_path / "configs")
    return Simulation(tmp_path)


os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from threads, and lose much to a busy neighbour


def process_state(pid: int) -> str | None:
    """Linux' letter for what a process does, None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that it has not waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


Tiw = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tiw() -> Tiw:
    """The command line as a real process."""

    def call(root: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tiw_fsm", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"COLUMNS": "200"},
        )

    return call


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that a miniature checkout's scripts save."""
    from miniature import make_templates

    folder = tmp_path_factory.mktemp("templates")
    make_templates(folder / "stages", folder)
    return folder / "stages"


@pytest.fixture
def checkout(tmp_path: Path, tiw: Tiw, templates: Path) -> MakeCheckout:
    """Makes a miniature checkout that speaks a dialect of TinyWorlds."""
    from checkout_runs import Checkout
    from miniature import make_checkout

    def make(spoken: str = "newest", changes: dict[str, Any] | None = None) -> Checkout:
        make_checkout(tmp_path, spoken, templates, changes)
        return Checkout(tmp_path, tiw)

    return make
