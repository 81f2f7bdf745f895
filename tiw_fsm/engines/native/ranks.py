"""One process among those that train together, or the only one: what it hears from the first, and what it tells all.

The first rank has the controller's ear: it reads requests and answers them. What concerns all is passed on to all, and
what one of them refuses, all refuse. Everything that is said here is JSON, and goes over gloo, beside the gradients.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from tiw_fsm.tinyworlds.peers import ALONE, Peers

T = TypeVar("T")
SILENCE = "TIW_FSM_MAX_SILENCE"
"""Name of the variable in a rank's environment that tells for how many seconds another may be silent."""
ARRIVAL = timedelta(minutes=5)
"""For which ranks that have been started wait for one another: one that died meanwhile never comes."""
BEATS = 6
"""Signs of life that the first rank gives the others within the time that is too long."""
SOONER = 0.9
"""Of that time: the others shall find out before the controller takes this rank for one that hangs."""
WORD, STOP = "word", "stop"
"""Keys of the store: why all ended, and that a machine which has joined was asked to stop."""
PEER_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|timed out waiting|pair closure|socket|tcpstore",
    re.IGNORECASE,
)
"""How torch says that another process no longer answers."""


class Agreed(Exception):
    """A refusal that all ranks share, so that they can go on together.

    Attributes:
        status, content: as the controller is answered.
    """

    def __init__(self, status: str, content: Any) -> None:
        super().__init__(content)
        self.status, self.content = status, content


Judge = Callable[[Exception], tuple[str, Any]]
"""What an error means to the controller: a status and a content."""


class Ranks:
    """The only rank there is."""

    size, rank = 1, 0
    on_this_machine, here = 1, 0
    """The same of the ranks on this machine alone."""
    peers: Peers = ALONE
    every: float | None = None
    """Seconds after which the others want a sign of life from an idle first rank."""

    def tell(self, line: bytes) -> None:
        """Pass a request on to the others."""

    def beat(self) -> None:
        """Let the others know that the first rank is alive, and busy or idle."""

    def hear(self) -> bytes:
        """The next request that the first rank passes on."""
        raise AssertionError("there is no other")

    def gathered(self, own: Any) -> list[Any]:
        """What every rank has to say, in their order."""
        return [own]

    def together(self, do: Callable[[], T], judge: Judge) -> T:
        """What every rank does without the others, and none but all of them may refuse.

        Raises:
            Agreed: one of them, the first in their order, could not do it.
        """
        return do()

    def first_alone(self, do: Callable[[], Any], judge: Judge) -> Any:
        """What the first rank does for all, as JSON; they learn what came of it.

        Raises:
            Agreed: it could not.
        """
        return do()

    def fail(self, exc: Exception, judge: Judge) -> None:
        """After an error in what they do together: the end of all. Returns where there is but one."""

    def share(self, sharded: bool) -> None:
        """Say how the model is held."""

    def asked_elsewhere(self) -> bool:
        """Whether another machine was asked to stop."""
        return False

    def ask_elsewhere(self) -> None:
        """Say that this machine was asked to stop."""


class ManyRanks(Ranks):
    """One of several."""

    def __init__(self) -> None:
        silence = float(os.environ[SILENCE])
        self.every: float | None = silence / BEATS
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.here, self.on_this_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        timeout = timedelta(seconds=silence * SOONER)
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timeout,
        )
        arrived = [f"arrived/{rank}" for rank in range(self.size)]
        self._store.set(arrived[self.rank], "")
        self._store.wait(arrived, min(timeout, ARRIVAL))
        # Ranks that share a GPU cannot use NCCL.
        nccl = torch.cuda.is_available() and torch.cuda.device_count() >= self.on_this_machine
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timeout,
        )
        control = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(control, dist.ProcessGroup)
        self._control = control

    def share(self, sharded: bool) -> None:
        from tiw_fsm.tinyworlds.process_group import Replicated, Sharded

        self.peers = (Sharded if sharded else Replicated)(self._control)

    def tell(self, line: bytes) -> None:
        self._cast(line)

    def beat(self) -> None:
        self._cast(b"")

    def hear(self) -> bytes:
        while not (line := self._cast(b"")):
            pass
        return line

    def _cast(self, line: bytes) -> bytes:
        """The first rank's ``line``, whoever asks."""
        length = torch.tensor(len(line))
        dist.broadcast(length, 0, group=self._control)
        content = torch.frombuffer(bytearray(line), dtype=torch.uint8) if line else torch.empty(0, dtype=torch.uint8)
        if self.rank:
            content = torch.empty(int(length), dtype=torch.uint8)
        if len(content):
            dist.broadcast(content, 0, group=self._control)
        return content.numpy().tobytes()

    def gathered(self, own: Any) -> list[Any]:
        said = json.dumps(own).encode()
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor(len(said)), group=self._control)
        longest = max(int(length) for length in lengths)
        everyones = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        padded = torch.frombuffer(bytearray(said.ljust(longest)), dtype=torch.uint8)
        dist.all_gather(everyones, padded, group=self._control)
        return [json.loads(content.numpy().tobytes()) for content in everyones]

    def together(self, do: Callable[[], T], judge: Judge) -> T:
        done: T | None = None
        found: tuple[str, Any] = "ok", None
        try:
            done = do()
        except Exception as exc:
            found = judge(exc)
        self._refuse([tuple(each) for each in self.gathered(found)])
        return done  # type: ignore[return-value]

    def first_alone(self, do: Callable[[], Any], judge: Judge) -> Any:
        found: tuple[str, Any] = "ok", None
        if self.rank == 0:
            try:
                found = "ok", do()
            except Exception as exc:
                found = judge(exc)
        status, content = json.loads(self._cast(json.dumps(found).encode() if self.rank == 0 else b""))
        self._refuse([(status, content)])
        return content

    def _refuse(self, found: list[tuple[str, Any]]) -> None:
        for status, content in found:
            if status != "ok":
                raise Agreed(status, content)

    def fail(self, exc: Exception, judge: Judge) -> NoReturn:
        traceback.print_exception(exc, file=sys.stderr)
        if not PEER_LOST.search(str(exc)):  # else another one failed first, and knows better why
            status, content = judge(exc)
            where = f"process {self.rank} of {self.size}, on {socket.gethostname()}"
            leave_word(self._store, status, f"{where}: {content}" if isinstance(content, str) else content)
        sys.stderr.flush()
        os._exit(1)

    def asked_elsewhere(self) -> bool:
        return bool(self._store.check([STOP]))

    def ask_elsewhere(self) -> None:
        self._store.set(STOP, "")


def leave_word(store: Store, status: str, content: Any) -> None:
    """Say why all end, unless somebody has said so before."""
    store.compare_set(WORD, "", json.dumps([status, content]))


def word_left(store: Store) -> tuple[str, Any] | None:
    """Why all ended, if somebody has said so."""
    if not store.check([WORD]):
        return None
    status, content = json.loads(store.get(WORD))
    return status, content
