"""A run that takes long enough for a scheduler, and a test, to interrupt it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.waiting import wait_for

PROJECT = Path(__file__).parent.parent.parent
FLAGS = ("--max-mse", "0.9", "--allow-trivial", "--target-updates", "400")
CHUNKS = dict.fromkeys(("video_tokenizer", "latent_actions", "dynamics"), 100)


class LongRun:
    """A working root, and a ``tiw-fsm`` in it that runs this checkout's package, as an installed one would.

    Args:
        loop: what its loop.yaml says beside.
    """

    def __init__(self, root: Path, loop: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.root = root
        write_configs(root / "configs", {"loop": LENIENT | {"chunks": CHUNKS, **loop}})
        write_frames(root / "frames.h5")
        self.program = root / "bin" / "tiw-fsm"
        self.program.parent.mkdir()
        self.program.write_text(
            f"#!{sys.executable}\n"
            f"import os, sys\nos.environ.update(PYTHONPATH={str(PROJECT)!r}, OMP_NUM_THREADS='1')\n"
            f"sys.path.insert(0, {str(PROJECT)!r})\nfrom tiw_fsm.__main__ import main\nmain()\n"
        )
        self.program.chmod(0o755)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *arguments], cwd=self.root, capture_output=True, text=True, check=False)

    def snippet(self, scheduler: str, *flags: str) -> str:
        return self.call("schedule", scheduler, "--repo-root", str(self.root), *flags).stdout

    def begin(self, *flags: str) -> None:
        """The first start, by hand, which saves the flags; told to stop when it has begun to train."""
        process = subprocess.Popen([self.program, "run", *FLAGS, *flags], cwd=self.root, stderr=subprocess.DEVNULL)
        wait_for("the first checkpoint", lambda: self.generation() >= 3, 120)
        process.terminate()
        assert process.wait(60) == 75

    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.root / "state/default/state.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def generation(self) -> int:
        return int(self.state().get("generation", 0))

    def ended(self) -> bool:
        return self.state().get("state") in ("PASSED", "FAILED")

    def events(self) -> list[str]:
        lines = (self.root / "state/default/journal.jsonl").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]

    def outcome(self) -> tuple[str, list[str]]:
        """The state it ended in, and the SHA-256 of each stage's weights and optimizer."""
        found = json.loads(self.call("status", "--json").stdout)
        return found["state"], [stage["checkpoint"]["sha256"] for stage in found["stages"].values()]

    def runners(self, command: str = "run") -> list[int]:
        """Processes that run it now, or join it, by their command lines."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if words[1:3] == [str(self.program).encode(), command.encode()]:
                found.append(int(path.parent.name))
        return found

    def kill(self, command: str = "run") -> None:
        """Kill whoever runs it, or joins it, outright."""
        for process in self.runners(command):
            os.kill(process, signal.SIGKILL)


def one_after_the_other(run: LongRun) -> bool:
    """Whether the journal counts its generations without a gap or a repeat, as it would not with two at work."""
    lines = (run.root / "state/default/journal.jsonl").read_text().splitlines()
    return [json.loads(line)["generation"] for line in lines] == list(range(1, len(lines) + 1))
