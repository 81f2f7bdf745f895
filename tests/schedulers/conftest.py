"""A run for each test, and what it comes to when nobody disturbs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.schedulers.long_run import FLAGS, LongRun


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """What the run comes to when nobody disturbs it."""
    run = LongRun(tmp_path_factory.mktemp("undisturbed"))
    done = run.call("run", *FLAGS)
    assert done.returncode == 0, done.stderr
    return run.outcome()


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[LongRun]:
    run = LongRun(tmp_path)
    yield run
    run.kill()
