"""The native engine: our own PyTorch TinyWorlds, in a child process that lives as long as its controller needs it.

Requests go to the child's standard input as JSON lines. The child leaves each answer in a file and then says so on a
pipe of its own; on the same pipe it reports progress, for display only. The controller learns no fact from prose.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, ClassVar

from tiw_fsm.engines.native import child as child_program
from tiw_fsm.engines.native import starting
from tiw_fsm.engines.native.settings import Launch, NativeSettings
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
    TiwFsmError,
    UsageProblem,
    disk_errors,
)
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.system import child as child_process
from tiw_fsm.system import durable, short_log, starter
from tiw_fsm.system.child import Child
from tiw_fsm.tinyworlds import division
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.values.death import Killer
from tiw_fsm.values.frozen import FrozenModel

STOP, END = b'{"kind": "stop"}\n', b'{"kind": "end"}\n'
ANSWERED = b"answered\n"
GOODBYE = 5.0
"""Seconds for which machines that have joined are waited for when all is over."""


class NativeEngine:
    """Drives ``native/child.py``; starts it when needed, and anew after it died.

    Each new one is held to what the first one said of itself.
    """

    saves_within_chunk: ClassVar[bool] = False

    def __init__(
        self,
        python_exec: str,
        paths: StatePaths,
        max_silence: int,
        processes: NativeSettings | None = None,
        stages: Mapping[Stage, StageConfig] = MappingProxyType({}),
    ) -> None:
        self._python, self._paths, self._max_silence = python_exec, paths, max_silence
        self._processes, self._stages = processes or NativeSettings(), stages
        self._child: Child | None = None
        self._pipe: IO[bytes] | None = None
        self._ended_by_itself = False
        """The last child that died had ended, with whatever status, before it was told to, and not by a signal."""
        self._request: HelloRequest | None = None
        self._hello: Hello | None = None
        """What the newest child said of itself, of which the controller knows."""
        self._waiting = self._called_off = False
        """A start waits for other machines; it was asked to stop while it did."""
        self._shapes: dict[tuple[Stage, StageConfig], dict[str, tuple[int, ...]]] = {}

    def hello(self, request: HelloRequest) -> Hello:
        """As the protocol says. A child that is killed at its very start died like any other.

        Raises:
            UsageProblem: the interpreter cannot run it.
            EngineCrashed: it was killed.
        """
        if request.here is None:
            request = request.evolve(sharded=self._processes.sharded)
        self._request = request
        try:
            self._hello = self._start(request)
        except EngineCrashed as exc:
            if self._ended_by_itself and exc.killed_by == Killer.OWN:
                raise UsageProblem(
                    f"{self._python} cannot run the training process; name an interpreter that has torch and what else "
                    f"tiw_fsm needs with --python-exec. {exc}"
                ) from exc
            raise
        # The next ones are as many, and compute with as many threads, whatever CPUs they may use by then: the bits
        # depend on it.
        self._request = request.evolve(threads=self._hello.threads, counts=[self._hello.processes])
        return self._hello

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        return TrainResult.model_validate(self._ask(request, progress))

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        return InferenceResult.model_validate(self._ask(request, progress))

    def problems(self, stage: Stage, config: StageConfig, folder: Path, sha256: str | None) -> list[str]:
        if (stage, config) not in self._shapes:
            answer = self._ask(ShapesRequest(stage=stage, config=config), lambda done, total, loss: None)
            self._shapes[stage, config] = {name: tuple(shape) for name, shape in answer.items()}
        return checkpoint_checks.problems(folder, expect=self._shapes[stage, config], sha256=sha256)

    def pack(self, folder: Path, file: Path) -> None:
        """Write a checkpoint as one file that holds its weights and its config's plain values.

        Raises:
            UnreadableFile: its config cannot be read.
            DiskRefused: the disk did not take it.
        """
        request = PackRequest(folder=str(folder), config=checkpoint_checks.saved_config(folder), file=str(file))
        self._ask(request, lambda done, total, loss: None)

    def stop(self) -> None:
        self._called_off = self._waiting
        if self._child is None:
            return
        if self._waiting:
            self._child.end()
            return
        with suppress(OSError):  # the child is gone; whoever waits for its answer finds out
            self._child.tell(STOP)
            self._child.wake()

    def close(self) -> None:
        if self._child is not None and self._processes.nodes > 1:
            self._say_goodbye(self._child)
        self._let_go()

    def _say_goodbye(self, child: Child) -> None:
        """Let machines that have joined know that it is over, and no interruption."""
        with suppress(OSError):
            child.tell(END)
            until = time.monotonic() + GOODBYE
            while child.poll() is None and time.monotonic() < until:
                time.sleep(GOODBYE / 100)

    def _let_go(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _launch(self, request: HelloRequest) -> Launch | None:
        """How several processes are started; None where one is enough."""
        wanted, counts = self._processes, request.counts
        if request.here is not None:
            wanted, counts = NativeSettings(per_node=request.here), [request.here]
        if counts is None and wanted.meant_for is not None:
            tunings = [config.tuning for config in self._stages.values()]
            counts = division.counts(*(division.global_batch(tuning, wanted.meant_for) for tuning in tunings))
        if wanted.nodes == 1 and (wanted.per_node == 1 or counts == [1]):
            return None
        return Launch(
            processes=wanted,
            counts=counts,
            device=request.device,
            name=self._paths.folder.name,
            max_silence=self._max_silence,
        )

    def _start(self, request: HelloRequest) -> Hello:
        self._waiting = self._processes.nodes > 1
        try:
            return self._started(request)
        except EngineCrashed:
            if self._called_off:
                raise Interrupted("asked to stop before the training processes were there") from None
            raise
        finally:
            self._waiting = False

    def _started(self, request: HelloRequest) -> Hello:
        self._let_go()
        short_log.begin_anew_if_long(self._paths.child_log)
        launch = self._launch(request)
        spare = starting.taken(fits=launch is None and self._python == sys.executable)
        read_end, write_end = spare.pipe if spare else os.pipe()
        told = [str(write_end), str(self._paths.child_result), *([launch.model_dump_json()] if launch else [])]
        try:
            self._child = Child(
                starter.command(child_program.__file__, os.getpid(), *told, python=self._python),
                output=self._paths.child_log,
                max_silence=self._max_silence,
                environment=starting.environment(),
                pass_fds=[write_end],
                spare=spare,
            )
        finally:
            os.close(write_end)
            self._pipe = os.fdopen(read_end, "rb", buffering=0)  # what is heard must not hide from select
        if self._called_off:
            self._child.end()
        try:
            answer = self._exchange(request, lambda done, total, loss: None)
        except EngineCrashed:
            if spare is None:
                raise
            return self._started(request)  # why it cannot begin, one that was started for the purpose tells
        hello = Hello.model_validate(answer)
        return hello.evolve(meant_for=self._processes.meant_for or hello.processes)

    def _ask(self, request: FrozenModel, progress: Progress) -> Mapping[str, Any]:
        if self._child is None:
            assert self._request is not None, "hello comes first"
            known, self._hello = self._hello, self._start(self._request)
            if known is not None and not self._hello.alike(known):
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
        while (line := self._next_line()) not in (ANSWERED, b""):
            message = json.loads(line)
            if message is None:
                continue  # a sign of life
            if isinstance(message, str):
                raise DiskRefused(message)
            progress(*message)
        if not result_file.exists():
            raise self._died()
        with disk_errors("reading", result_file):
            status, content = json.loads(result_file.read_bytes())
        if line != ANSWERED:
            self._let_go()  # it has ended, and said why
        if status == "ok":
            return dict(content)
        if status in REFUSALS:
            raise REFUSALS[status](content)
        if status == "died":
            by = Killer(content["by"])
            raise EngineCrashed(f"{content['what']}{child_process.BY[by]}", killed_by=by)
        if status == "lost":
            raise EngineCrashed(content, killed_by=Killer.UNKNOWN)
        self._ended_by_itself = True
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
        self._ended_by_itself = child.ended_by_itself()
        self._let_go()
        return crashed


REFUSALS: dict[str, Callable[[Any], TiwFsmError]] = {
    "stopped": lambda content: Interrupted("asked to stop before the first update"),
    "absent": lambda content: Interrupted(f"{content}. Nothing was lost; the same command goes on from here."),
    "usage": UsageProblem,
    "changed": RunChanged,
    "damaged": StateDamaged,
    "not_permitted": NotPermitted,
    "disk": DiskRefused,
}
"""What an answer's status becomes where the child could not do what it was asked."""
