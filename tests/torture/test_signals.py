"""Asked to stop by any of the signals that ask for it, at any moment, a run saves, exits with 75 and loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.amounts import Amount, whole_too
from tests.support.configs import LENIENT
from tests.support.processes import children
from tests.support.torture.bench import SIMULATED, Bench, Setup
from tests.support.torture.launch import Ended, Launcher, Started
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.states import State

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
LONG_INFERENCE = Setup(
    ("run", "--max-mse", "0.9", "--allow-trivial"),
    {"loop": LENIENT, "inference": {"generation_steps": 14}, "video_tokenizer": {"n_updates": 100}},
    frames=True,
)
"""With an inference that takes long enough to be met, on the native engine and real frames."""
GAP = 0.02
"""Seconds between two signals at once: the system keeps but one of a kind that is not delivered yet."""
PROMPT = 20.0
"""Seconds within which a run has ended after a signal, on a busy machine; the promise is an update plus 2 s."""


def heeds_signals(run: Started) -> bool:
    """Whether a process has said what to do with SIGUSR1: Linux shows the mask of the signals it catches."""
    status = Path(f"/proc/{run.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def in_state(bench: Bench, *states: State) -> bool:
    run = bench.store.load()
    return run is not None and run.state in states


MOMENTS: dict[str, Callable[[Bench, Started], bool]] = {
    "start-up": lambda bench, run: heeds_signals(run),
    "while torch is imported": lambda bench, run: bool(children(run.pid)),
    "training": lambda bench, run: in_state(bench, State.TRAIN_VIDEO, State.TRAIN_LATENT),
    "inference": lambda bench, run: in_state(bench, State.INFER),
}


def stopped(bench: Bench, moment: str, number: signal.Signals, *, group: bool, twice: bool) -> Ended:
    """A run from the beginning that is sent a signal at a moment, once or twice, alone or with all its group."""
    bench.begin()
    run = bench.start()
    while not MOMENTS[moment](bench, run):
        time.sleep(0.001)
    run.kill(number, group=group)
    if twice:
        time.sleep(GAP)
        run.kill(number, group=group)
    return run.wait(PROMPT)


def troubles(bench: Bench, ended: Ended) -> list[str]:
    """What is wrong with how a run ended that was asked to stop, and with how it goes on."""
    if ended.code != ExitCode.INTERRUPTED:
        return [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-400:]!r}"]
    unsaid = [f"process {line['facts']['died']['pid']} died without warning" for line in died(bench)]
    return [*unsaid, *bench.ends_otherwise(), *(f"then {line['facts']['died']}" for line in died(bench))]


def died(bench: Bench) -> list[dict[str, Any]]:
    """Journal lines that tell of a runner that ended without having said so."""
    return [line for line in bench.store.journal() if "died" in line["facts"]]


@pytest.fixture(scope="module")
def inferring(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(launcher, tmp_path_factory.mktemp("inferring"), LONG_INFERENCE)


CASES = [(moment, number) for moment in MOMENTS for number in SIGNALS]


def in_short_form(n: int) -> bool:
    """Whether the short form tries case number ``n``: one signal for each moment."""
    return n % len(SIGNALS) == (n // len(SIGNALS) + 2) % len(SIGNALS)


@pytest.mark.parametrize(
    ("moment", "number"), [case if in_short_form(n) else whole_too(*case) for n, case in enumerate(CASES)]
)
def test_a_signal_at_any_moment_saves_and_exits_75(
    inferring: Bench, figures: Counter[str], moment: str, number: signal.Signals
) -> None:
    """Sent in turn to the process alone and to its group."""
    n = CASES.index((moment, number))
    ended = stopped(inferring, moment, number, group=n % 2 == 0, twice=False)
    if moment in ("training", "inference"):
        assert "asked to stop: what is in hand is finished and saved first" in ended.stderr
    assert troubles(inferring, ended) == []
    figures["signals"] += 1


@pytest.mark.parametrize("moment", ["training", whole_too("inference")])
def test_two_signals_at_once_are_one_request_and_saved(inferring: Bench, figures: Counter[str], moment: str) -> None:
    """As `timeout` sends them, to the process and to its group; that a later one ends at once is tested elsewhere."""
    assert troubles(inferring, stopped(inferring, moment, signal.SIGINT, group=True, twice=True)) == []
    figures["signals"] += 2


@pytest.mark.whole
def test_a_second_signal_that_ends_at_once_each_time_would_be_noticed(inferring: Bench) -> None:
    hasty = inferring.in_variant("signals_apart")
    assert troubles(hasty, stopped(hasty, "inference", signal.SIGTERM, group=True, twice=True)) != []


@pytest.mark.whole
def test_signals_at_random_instants_in_saves_and_commits_lose_nothing(
    launcher: Launcher, tmp_path: Path, amount: Amount, figures: Counter[str]
) -> None:
    """The simulated engine does little else than save and commit."""
    bench, chance = Bench(launcher, tmp_path, SIMULATED), random.Random(0)
    for _ in range(amount(8, 2)):
        bench.begin()
        run = bench.start()
        while not heeds_signals(run):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.2))
        for _ in range(chance.randint(1, 2)):
            run.kill(chance.choice(SIGNALS), group=chance.random() < 0.5)
            figures["signals"] += 1
        ended = run.wait(PROMPT)
        assert ended.code in (ExitCode.INTERRUPTED, ExitCode.PASSED), ended
        assert bench.ends_otherwise() == []


@pytest.mark.whole
def test_a_signal_that_is_not_heeded_would_be_noticed(inferring: Bench) -> None:
    deaf = inferring.in_variant("hangup_unheeded")
    assert troubles(deaf, stopped(deaf, "training", signal.SIGHUP, group=False, twice=False)) != []


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path, launcher: Launcher) -> None:
    bench = Bench(launcher, tmp_path, SIMULATED)
    bench.begin()
    command = [sys.executable, "-m", "tiw_fsm", *SIMULATED.arguments, "--max-mse", "0.9", "--allow-trivial"]
    ignoring = subprocess.Popen(
        command,
        cwd=bench.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    while bench.store.load() is None:
        time.sleep(0.001)
    os.kill(ignoring.pid, signal.SIGHUP)
    assert ignoring.wait(PROMPT) == ExitCode.PASSED
