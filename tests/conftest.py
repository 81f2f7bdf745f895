"""Shared fixtures: a working root with tiny configs, runs on the simulated engine, the command line as a process."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.amounts import FIGURES, Amount
from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.native_runs import PASSING, make_passed, make_root
from tests.support.processes import Tiw
from tests.support.run_folder import RunFolder
from tests.support.simulation import Simulation

if TYPE_CHECKING:
    from tests.support.checkout.checkout_runs import MakeCheckout
    from tests.support.torture.bench import Bench
    from tests.support.torture.launch import Launcher


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="run everything whole, with about this many random kills")
    parser.addoption("--torture-seed", type=int, default=0, help="of the random kills")
    parser.addoption("--torture-record", type=Path, metavar="FILE", help="go on with the random kills told of there")
    parser.addoption("--torture-life", type=int, help="repeat this one of the randomly killed runs, and no other")
    parser.addoption("--checkout", metavar="PATH", help="run the engines' suite over the TinyWorlds checkout there")
    parser.addoption("--checkout-python", metavar="PATH", help="its interpreter [default: its .venv/bin/python]")


def pytest_configure(config: pytest.Config) -> None:
    """Have the package compiled once for the thousands of processes that tests start, also where
    PYTHONDONTWRITEBYTECODE keeps those from doing it. What was compiled is known by the source's content."""
    if not hasattr(config, "workerinput"):
        package = Path(__file__).parents[1] / "tiw_fsm"
        compileall.compile_dir(package, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


LONG = (
    "torture/",
    "run/",
    "engines/",
    "test_",
    "tracking/",
    "export/",
    "play/",
    "cli/test_starting",
    "data/test_recording",
)
"""What takes long comes first, so that workers have all done about as much when nothing is left."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((n for n, prefix in enumerate(LONG) if name.startswith(prefix)), len(LONG))

    items.sort(key=place)
    if config.getoption("--kills") is None:
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(pytest.mark.skip(reason="one example of many: make test-whole"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several workers, which have no terminal
        session.config.workeroutput["figures"] = dict(FIGURES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker is done."""
    FIGURES.update(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the torture bench tried."""
    told = [f"{number:>12,}  {name}" for name, number in FIGURES.items()]
    if record := terminalreporter.config.getoption("--torture-record"):
        from tests.support.torture.record import Record

        told += [f"{record}: {sentence}" for sentence in Record(record).told()]
    if told:
        terminalreporter.write_sep("-", "torture")
    for line in told:
        terminalreporter.write_line(line)


@pytest.fixture
def figures() -> Counter[str]:
    """Where a part of the torture bench counts what it tried."""
    return FIGURES


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
    from tests.support.torture.launch import Launcher

    if reason := Launcher.unavailable():
        pytest.skip(reason)
    with Launcher(tmp_path_factory.mktemp("launcher")) as launcher:
        yield launcher


@pytest.fixture(scope="session")
def simulated(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run of the simulated engine to disturb."""
    from tests.support.torture.bench import SIMULATED, Bench

    return Bench(launcher, tmp_path_factory.mktemp("simulated"), SIMULATED)


@pytest.fixture(scope="session")
def native(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run of the native engine to disturb."""
    from tests.support.torture.bench import NATIVE, Bench

    return Bench(launcher, tmp_path_factory.mktemp("native"), NATIVE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working root with tiny configs, lenient stage gates and tiny frames."""
    write_configs(tmp_path / "configs", {"loop": LENIENT})
    write_frames(tmp_path / "frames.h5")
    return tmp_path


@pytest.fixture(scope="session")
def passed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working root of a native run that has passed, and whose world obeys; tests must leave it as it is."""
    return make_passed(tmp_path_factory.mktemp("passed") / "root")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a run in ``make_root`` that passes without anybody interrupting it, and without trackers."""
    root = make_root(tmp_path_factory.mktemp("undisturbed") / "root")
    command = [sys.executable, "-m", "tiw_fsm", "run", *PASSING]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=300)
    return {stage: p.checkpoint.sha256 for stage, p in RunFolder(root).state.stages.items() if p.checkpoint}


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    write_configs(tmp_path / "configs")
    return Simulation(tmp_path)


os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from threads, and lose much to a busy neighbour


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
    from tests.support.checkout.miniature import make_templates

    folder = tmp_path_factory.mktemp("templates")
    make_templates(folder / "stages", folder)
    return folder / "stages"


@pytest.fixture
def checkout(tmp_path: Path, tiw: Tiw, templates: Path) -> MakeCheckout:
    """Makes a miniature checkout that speaks a dialect of TinyWorlds."""
    from tests.support.checkout.checkout_runs import Checkout
    from tests.support.checkout.miniature import make_checkout

    def make(spoken: str = "newest", changes: dict[str, Any] | None = None) -> Checkout:
        make_checkout(tmp_path, spoken, templates, changes)
        return Checkout(tmp_path, tiw)

    return make
