"""Starts the processes of one machine that train together, by torchrun's agent and its c10d rendezvous.

It stands between the controller and the ranks, or on a machine that has joined between ``tiw-fsm join`` and the ranks,
and dies with what started it, as they do with it. Nothing is restarted here: one dead rank is the end of all, and the
controller decides what follows. What it learns of that end it says once, in the controller's words: the first failing
rank's own error if there is one, else which rank was killed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from torch.distributed.elastic.rendezvous.api import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from tiw_fsm.engines.native import ranks
from tiw_fsm.engines.native.settings import REFUSED, Launch
from tiw_fsm.errors import UsageProblem
from tiw_fsm.system import killer, starter

GRACE = 3.0
"""Seconds that the other ranks have to end by themselves after the first one died."""
LOOKS = 0.05
"""Seconds between two looks at them."""
AGENT_LOOKS = 1.0
"""The agent's own: rarely, since it takes away what is looked at here."""
GOODBYE = 5.0
"""Seconds for which the agents wait for one another when all is over."""
SIGN_OF_LIFE = 1.0
"""Seconds between two that the controller gets while this machine waits for others, or for all to end."""
READ_SECONDS = 30.0
"""For which the first machine is waited for."""
TOLD = "tiw_fsm/told"
"""Key under which the first machine tells the others what they cannot know."""
PORT_TRIES = 50
"""Looks at a port that is taken: that of one that has just been killed is free again within seconds."""
EVER = timedelta(days=365)
JOINED = b"joined\n"
"""What ``tiw-fsm join`` is told when all machines are there."""
LOOPBACK = "127.0.0.1"


def launch(child: Path, result_file: Path, told: str) -> NoReturn:
    """Become the ranks' launcher, or, where one process is enough, that process itself.

    Args:
        child: the program that a rank is.
        result_file: the controller's; nothing is written there on a machine that has joined another.
        told: a ``Launch``, as JSON.
    """
    asked = Launch.model_validate_json(told)
    gpus = torch.cuda.device_count() if asked.device != "cpu" and torch.cuda.is_available() else 0
    try:
        number = asked.number(gpus)
        if number == 1 and asked.processes.endpoint is None:
            os.execv(sys.executable, starter.command(child, os.getppid(), sys.argv[2], sys.argv[3]))
        os.dup2(int(sys.argv[2]), 1)  # the one descriptor beside errors and input that ranks inherit
        code = _Machine(asked, number, child, result_file).run()
    except UsageProblem as exc:
        _say(asked, result_file, "usage", exc.problems)
        code = REFUSED
    os._exit(code)


def _say(asked: Launch, result_file: Path, status: str, content: Any) -> None:
    """Tell the controller, if it is on this machine; else people."""
    if asked.leads:
        result_file.write_text(json.dumps([status, content]))
    elif status not in ("lost", "died"):  # of these the first machine tells
        print(content if isinstance(content, str) else "\n".join(content), file=sys.stderr)


class _Machine:
    """The ranks of this machine, from the rendezvous to their end."""

    def __init__(self, asked: Launch, number: int, child: Path, result_file: Path) -> None:
        self.asked, self.number, self.result_file = asked, number, result_file
        self.several = asked.processes.endpoint is not None
        self.address, self.port = _address(asked.processes.endpoint)
        self.own_address = self.address
        self.memory = killer.MemoryKills(os.getpid())
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self.entrypoint = starter.command(child, os.getpid(), "1", str(result_file))

    def run(self) -> int:
        """From beginning to end; the exit status."""
        try:
            if not self.asked.leads:
                self.own_address = _towards(self.address, self.port)
                self._hear_the_first()
            self.meeting = _Meeting(self._rendezvous(), self.asked.leads, self.own_address)
            if self.asked.leads and self.several:
                self._tell_the_others()
        except _PortTaken as exc:
            _say(self.asked, self.result_file, "usage", [str(exc)])
            return 1
        except (RendezvousError, RuntimeError, OSError) as exc:
            logging.getLogger(__name__).info("no rendezvous", exc_info=exc)
            _say(self.asked, self.result_file, "absent", f"{self.address}:{self.port} does not answer")
            return 1
        os.environ[ranks.SILENCE] = str(self.asked.max_silence)
        # In a thread, where it leaves signals alone, of which it warns: they mean here what the controller says.
        logging.getLogger("torch.distributed.elastic.multiprocessing").setLevel(logging.ERROR)
        agent = threading.Thread(target=self._agent, daemon=True)
        agent.start()
        dead = self._watched(agent)
        agent.join(GRACE)
        if self.result is not None and not self.result.is_failed():
            return 0
        if isinstance(self.error, RendezvousError):
            _say(self.asked, self.result_file, "absent", self._nobody())
        elif self.asked.leads and not self.result_file.exists():
            _say(self.asked, self.result_file, *self._why(dead))
        return 1

    def _nobody(self) -> str:
        """Why this machine is alone."""
        if isinstance(self.error, RendezvousTimeoutError):
            together = f"{self.asked.processes.nodes} machines, this one among them,"
            return f"{together} did not come together within {self.asked.max_silence} s"
        return f"{self.address}:{self.port} no longer answers"

    def _tell_the_others(self) -> None:
        """What machines that join cannot know."""
        told = self.asked.model_dump(include={"name", "max_silence"}) | {"nodes": self.asked.processes.nodes}
        _connected(self.address, self.port, READ_SECONDS).set(TOLD, json.dumps(told))

    def _hear_the_first(self) -> None:
        """What the first machine tells.

        Raises:
            UsageProblem: it has another run.
            RuntimeError: it does not answer.
        """
        told = json.loads(_connected(self.address, self.port, READ_SECONDS).get(TOLD))
        if told["name"] != self.asked.name:
            raise UsageProblem(
                f"at {self.address}:{self.port} is run {told['name']!r}, not {self.asked.name!r}; give that one's name "
                "with --run, or the right address"
            )
        several = self.asked.processes.evolve(nodes=told["nodes"])
        self.asked = self.asked.evolve(processes=several, max_silence=told["max_silence"])

    def _rendezvous(self) -> RendezvousHandler:
        """The handler; a port that was in use a moment ago is tried again.

        Raises:
            _PortTaken: something else listens there.
            RendezvousError: the first machine does not answer.
        """
        for left in reversed(range(PORT_TRIES)):
            try:
                return get_rendezvous_handler(
                    RendezvousParameters(
                        backend="c10d",
                        endpoint=f"{self.address}:{self.port}",
                        run_id=self.asked.name,
                        min_nodes=self.asked.processes.nodes,
                        max_nodes=self.asked.processes.nodes,
                        local_addr=self.own_address,
                        is_host=self.asked.leads,
                        join_timeout=self.asked.max_silence,
                    )
                )
            except RendezvousConnectionError as exc:
                if not (self.asked.leads and "EADDRINUSE" in str(exc.__cause__)):
                    raise
                if not left:
                    raise _PortTaken(
                        f"--rdzv-endpoint {self.address}:{self.port}: something else listens on this port; give another"
                    ) from exc
                time.sleep(LOOKS * 2)
        raise AssertionError

    def _agent(self) -> None:
        spec = WorkerSpec(
            role="rank",
            local_world_size=self.number,
            entrypoint=self.entrypoint[0],
            args=tuple(self.entrypoint[1:]),
            rdzv_handler=self.meeting,
            max_restarts=0,
            monitor_interval=AGENT_LOOKS,
            local_addr=self.own_address,
        )
        try:
            self.result = LocalElasticAgent(spec, _InTheLog(), exit_barrier_timeout=GOODBYE).run()
        except Exception as exc:
            self.error = exc

    def _watched(self, agent: threading.Thread) -> list[os.waitid_result]:
        """Wait until all ranks have ended. After a death the others get a while, and are then killed.

        So they are when the first machine's launcher has ended: those that are about to find one another never would.

        Returns:
            The ranks that died by themselves.
        """
        dead: dict[int, os.waitid_result] = {}
        until, spoken = float("inf"), 0.0
        while agent.is_alive() and time.monotonic() < until:  # it may itself hang by a machine that does not answer
            if (self.meeting.word is None or dead) and time.monotonic() - spoken > SIGN_OF_LIFE:
                os.write(1, b"null\n")
                spoken = time.monotonic()
            dead |= {pid: how for pid, how in _ended().items() if how.si_status and pid not in dead}
            if (dead or self.meeting.over.is_set()) and until == float("inf"):
                until = time.monotonic() + GRACE
                self._tell(dead)
            time.sleep(LOOKS)
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return list(dead.values())

    def _tell(self, dead: dict[int, os.waitid_result]) -> None:
        """Leave word of a rank that was killed where the first machine's launcher finds it."""
        if self.meeting.word is not None and (killed := _killed(dead.values())) is not None:
            with suppress(RuntimeError):
                ranks.leave_word(self.meeting.word, *self._of_killed(killed))

    def _of_killed(self, number: signal.Signals) -> tuple[str, dict[str, str]]:
        by = killer.judge(-number, "", self.memory.seen())
        where = f" on {socket.gethostname()}" if self.several else ""
        return "died", {"by": by.value, "what": f"one of its processes{where} was ended by {number.name}"}

    def _why(self, dead: Sequence[os.waitid_result]) -> tuple[str, Any]:
        """What ended them all: the word that was left first, else what was seen here.

        Where one was ended by SIGKILL, an error of the others comes of that, whoever told of it first.
        """
        until, killed = time.monotonic() + GRACE, _killed(dead)
        while self.meeting.word is not None:
            with suppress(RuntimeError):
                left = ranks.word_left(self.meeting.word)
                if left is not None and not (killed is signal.SIGKILL and left[0] == "error"):
                    return left
            if not self.several or time.monotonic() > until:
                break
            time.sleep(LOOKS)
        if killed is not None:
            return self._of_killed(killed)
        if self.error is not None and not isinstance(self.error, DistError):
            return "error", f"torchrun's agent: {self.error!r}"
        return "lost", f"one of its processes no longer answered; see {self.result_file.parent}"


class _PortTaken(Exception):
    pass


class _Meeting(RendezvousHandler):
    """torchrun's rendezvous, but that the machine with the controller has rank 0, and that no round follows.

    The ranks use the store of that machine's launcher, as the rendezvous does: with it their meeting is over.
    """

    def __init__(self, inner: RendezvousHandler, leads: bool, own_address: str) -> None:
        self._inner, self._leads, self._own_address = inner, leads, own_address
        self.word: TCPStore | None = None
        """Where ranks and launchers leave word of an end."""
        self.over = threading.Event()

    def next_rendezvous(self) -> RendezvousInfo:
        found = self._inner.next_rendezvous()
        assert isinstance(found.store, PrefixStore)
        store = found.store.underlying_store
        assert isinstance(store, TCPStore)
        if self._leads:
            found.store.set("leads", str(found.rank))
        else:
            found.store.set("joins", self._own_address)
            os.write(1, JOINED)
        if self._leads and found.world_size > 1:
            # Not by its name, which may well stand for its loopback here.
            self._own_address = _towards(found.store.get("joins").decode(), store.port)
        os.environ |= _interface(self._own_address)
        first = int(found.store.get("leads"))
        rank = {0: first, first: 0}.get(found.rank, found.rank)
        self.word = _connected(store.host, store.port, GRACE)
        threading.Thread(
            target=self._wait_for_the_end, args=[_connected(store.host, store.port, GRACE)], daemon=True
        ).start()
        return RendezvousInfo(found.store, rank, found.world_size, RendezvousStoreInfo(store.host, store.port))

    def _wait_for_the_end(self, store: TCPStore) -> None:
        with suppress(RuntimeError):
            store.wait(["never"], EVER)  # the connection ends with the process at its other end
        self.over.set()

    def num_nodes_waiting(self) -> int:
        return 0

    def get_backend(self) -> str:
        return self._inner.get_backend()

    @property
    def use_agent_store(self) -> bool:
        return self._inner.use_agent_store

    def is_closed(self) -> bool:
        return self._inner.is_closed()

    def set_closed(self) -> None:
        self._inner.set_closed()  # type: ignore[no-untyped-call]

    def get_run_id(self) -> str:
        return self._inner.get_run_id()

    def shutdown(self) -> bool:
        return self._inner.shutdown()


class _InTheLog(LogsSpecs):
    """Ranks write where their launcher does."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def root_log_dir(self) -> str:
        return ""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nowhere = dict.fromkeys(envs, "")
        return LogsDest(nowhere, nowhere, {}, {}, nowhere)


# --- processes --------------------------------------------------------------------------------------------------


def _children() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def _ended() -> dict[int, os.waitid_result]:
    """Children that have ended and that nobody has asked after yet; they are left so."""
    found = {}
    for pid in _children():
        with suppress(ChildProcessError):
            how = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if how is not None:
                found[pid] = how
    return found


def _killed(dead: Any) -> signal.Signals | None:
    """The signal that ended one of them, if one did."""
    by = [how.si_status for how in dead if how.si_code in (os.CLD_KILLED, os.CLD_DUMPED)]
    return signal.Signals(by[0]) if by else None


# --- addresses --------------------------------------------------------------------------------------------------


def _address(endpoint: str | None) -> tuple[str, int]:
    if endpoint is None:
        return LOOPBACK, 0
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


def _towards(address: str, port: int) -> str:
    """This machine's own address on the way to another's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((address, port))
        found: str = way.getsockname()[0]
    return found


def _connected(address: str, port: int, seconds: float) -> TCPStore:
    """A store that is there, or that comes within so many ``seconds``; nor may an answer take longer."""
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=seconds))


def _interface(address: str) -> dict[str, str]:
    """Which network interface gloo is to use, where nobody has said: the one with this machine's own ``address``."""
    if "GLOO_SOCKET_IFNAME" in os.environ or sys.platform != "linux":
        return {}
    import fcntl
    import struct

    wanted = socket.inet_aton(socket.gethostbyname(address))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                found = fcntl.ioctl(asked, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                if found[20:24] == wanted:
                    return {"GLOO_SOCKET_IFNAME": name}
    return {}
