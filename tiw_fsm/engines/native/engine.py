"""The native engine: our own PyTorch TinyWorlds, in a child process that lives as long as its controller needs it.

Requests go to the child's standard input as JSON lines. The child leaves each answer in a file and then says so on a
pipe of its own; on the same pipe it reports progress, for display only. The controller learns no fact from prose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from tiw_fsm.engines.native import child as child_program
from tiw_fsm.engines.protocol import (
    Hello,
    HelloChanged,
    HelloRequest,
    InferRequest,
    PackRequest,
    Progress,
    ShapesRequest,
    TrainRequest,
    TrainResult,
)
from tiw_fsm.errors import (
    DiskRefused,
    EngineCrashed,
    Interrupted,
    NotPermitted,
    RunChanged,
    StateDamaged,
    UsageProblem,
    disk_errors,
)
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.system import durable
from tiw_fsm.system.child import Child
from tiw_fsm.tinyworlds import determinism
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.values.death import Killer
from tiw_fsm.values.frozen import FrozenModel

STOP = b'{"kind": "stop"}\n'


class NativeEngine:
    """Drives ``native/child.py``; starts it when needed, and anew after it died.

    Each new one is held to what the first one said of itself.
    """

    saves_within_chunk: ClassVar[bool] = False

    def __init__(self, python_exec: str, paths: StatePaths, max_silence: float) -> None:
        self._python = python_exec
        self._paths = paths
        self._max_silence = max_silence
        self._child: Child | None = None
        self._pipe: IO[bytes] | None = None
        self._failed_by_itself = False
        """The last child that died had ended with an error, not by a signal."""
        self._request: HelloRequest | None = None
        self._hello: Hello | None = None
        """What the newest child said of itself, of which the controller knows."""
        self._shapes: dict[tuple[Stage, StageConfig], dict[str, tuple[int, ...]]] = {}

    def hello(self, request: HelloRequest) -> Hello:
        """As the protocol says. A child that is killed at its very start died like any other.

        Raises:
            UsageProblem: the interpreter cannot run it.
            EngineCrashed: it was killed.
        """
        self._request = request
        try:
            self._hello = self._start(request)
        except EngineCrashed as exc:
            if self._failed_by_itself and exc.killed_by == Killer.OWN:
                raise UsageProblem(
                    f"{self._python} cannot run the training process; name an interpreter that has torch and what else "
                    f"tiw_fsm needs with --python-exec. {exc}"
                ) from exc
            raise
        # The next ones compute with as many threads, whatever CPUs they may use by then: the bits depend on it.
        self._request = request.evolve(threads=self._hello.threads)
        return self._hello

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        return TrainResult.model_validate(self._ask(request, progress))

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        return InferenceResult.model_validate(self._ask(request, progress))

    def problems(self, stage: Stage, config: StageConfig, folder: Path, sha256: str | None) -> list[str]:
        if (stage, config) not in self._shapes:
            answer = self._ask(ShapesRequest(stage=stage, config=config), lambda done, total, loss: None)
            self._shapes[stage, config] = {name: tuple(shape) for name, shape in answer.items()}
        return checkpoints.problems(folder, expect=self._shapes[stage, config], sha256=sha256)

    def pack(self, folder: Path, file: Path) -> None:
        """Write a checkpoint as one file that holds its weights and its config's plain values.

        Raises:
            UnreadableFile: its config cannot be read.
            DiskRefused: the disk did not take it.
        """
        request = PackRequest(folder=str(folder), config=checkpoints.saved_config(folder), file=str(file))
        self._ask(request, lambda done, total, loss: None)

    def stop(self) -> None:
        if self._child is not None:
            try:
                self._child.tell(STOP)
                self._child.wake()
            except OSError:
                return  # the child is gone; whoever waits for its answer finds out

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _start(self, request: HelloRequest) -> Hello:
        self.close()
        read_end, write_end = os.pipe()
        command = [self._python, "-P", child_program.__file__]
        try:
            self._child = Child(
                [*command, str(os.getpid()), str(write_end), str(self._paths.child_result)],
                output=self._paths.child_log,
                max_silence=self._max_silence,
                environment=_environment(),
                pass_fds=[write_end],
            )
        finally:
            os.close(write_end)
            self._pipe = os.fdopen(read_end, "rb", buffering=0)  # what is heard must not hide from select
        return Hello.model_validate(self._exchange(request, lambda done, total, loss: None))

    def _ask(self, request: FrozenModel, progress: Progress) -> Mapping[str, Any]:
        if self._child is None:
            assert self._request is not None, "hello comes first"
            known, self._hello = self._hello, self._start(self._request)
            if known is not None and self._hello != known:
                raise HelloChanged(self._hello)
        return self._exchange(request, progress)

    def _exchange(self, request: FrozenModel, progress: Progress) -> Mapping[str, Any]:
        """Send a request, relay progress until the child has answered, and read its answer."""
        assert self._child is not None
        assert self._pipe is not None
        result_file = self._paths.child_result
        with disk_errors("removing", result_file):
            durable.unlink(result_file)
        try:
            self._child.tell(request.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            raise self._died() from None
        while (line := self._next_line()) not in (b"answered\n", b""):
            message = json.loads(line)
            if isinstance(message, str):
                raise _refused(message)
            progress(*message)
        if not result_file.exists():
            raise self._died()
        with disk_errors("reading", result_file):
            status, content = json.loads(result_file.read_bytes())
        if status == "ok":
            return dict(content)
        if status == "stopped":
            raise Interrupted("asked to stop before the first update")
        if status == "usage":
            raise UsageProblem(content)
        if status == "changed":
            raise RunChanged(content)
        if status == "damaged":
            raise StateDamaged(content)
        if status == "not_permitted":
            raise NotPermitted(content)
        if status == "disk":
            raise _refused(content)
        self._failed_by_itself = True
        raise EngineCrashed(content, killed_by=Killer.MEMORY if status == "out_of_memory" else Killer.OWN)

    def _next_line(self) -> bytes:
        """The next line from the child; empty when it has ended.

        Raises:
            EngineCrashed: it hangs, and was ended.
        """
        assert self._child is not None
        assert self._pipe is not None
        if not self._child.speaks(self._pipe):
            raise self._died()
        return self._pipe.readline()

    def _died(self) -> EngineCrashed:
        child = self._child
        assert child is not None
        message = f"the child {child.how_it_ended()}\n{child.last_words().strip()}"
        crashed = EngineCrashed(message, killed_by=child.killed_by())
        self._failed_by_itself = child.failed_by_itself()
        self.close()
        return crashed


def _environment() -> dict[str, str]:
    """The child's: ours, but that no module is looked for in the working directory, which an empty entry names too."""
    path = os.pathsep.join(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    return os.environ | determinism.ENVIRONMENT | {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}


def _refused(what: str) -> DiskRefused:
    return DiskRefused(f"{what}. Nothing committed was lost; mend the disk and run again.")
