"""The start of a gateway of several processes, in the one that becomes their supervisor."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from proxy import garbage
from proxy.app import RunningGateway
from proxy.lifecycle import run
from proxy.limits import LISTEN_BACKLOG
from proxy.processes.control import ControlGateway, ControlProcess, Inner
from proxy.processes.demo import run_demo
from proxy.processes.reading import Reading
from proxy.processes.serving import Place, ServingProcess
from proxy.processes.sockets import Listeners, Reserved, reserve
from proxy.processes.supervisor import CONTROL, DEMO, SIGNALS, Supervisor
from proxy.reload import StartError, loaded
from proxy.ruleset import RuleSet
from proxy.settings import Address, Demo, Settings, parse_address
from proxy.source import Source

log = logging.getLogger(__name__)

# A path of a Unix socket has at most 107 bytes on Linux.
_PATH_MAX: Final = 90


class Telling(NamedTuple):
    """How the operator is told something. fail: a mistake, which ends the process."""

    started: Callable[[RunningGateway], None]
    stopping: Callable[[], None]
    fail: Callable[[str], None]


def serve_with_processes(settings: Settings, processes: int, rules: RuleSet, source: Source, tell: Telling) -> int:
    """Serve until interrupted; the exit code. processes: those that serve clients. StartError as
    `RunningGateway.serve`.
    """
    try:
        found = loaded(settings, rules)
    except ValueError as error:
        raise StartError(str(error)) from None
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return _supervise(Reading(source, found), processes, tell)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _supervise(reading: Reading, processes: int, tell: Telling) -> int:
    settings = reading.found.settings
    reserved = _reserved(settings, processes)
    folder = _folder()
    try:
        inner = _inner(folder / "control")
        parts = _Parts(reading, reserved, inner, folder, tell)
        garbage.work()
        supervisor = Supervisor(
            [*parts.slots, *([DEMO] if settings.demo is not None else [])],
            parts.become,
            reading=reading,
            say_stopping=tell.stopping,
            clear_up=lambda: shutil.rmtree(folder, ignore_errors=True),
        )
        return supervisor.run()
    except Exception:
        log.exception("the supervisor of this gateway has failed; the other processes let streams finish and end")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Parts:
    """What the supervisor has and its children take from it."""

    reading: Reading
    reserved: Reserved
    inner: socket.socket
    folder: Path
    tell: Telling

    def __post_init__(self) -> None:
        self.slots = {f"serving-{index + 1}": index for index in range(len(self.reserved.clients))}

    def become(self, name: str, end: socket.socket, heirs: int) -> None:
        """Be the process of this name until it ends."""
        try:
            if name == CONTROL:
                self._control(end, heirs)
            elif name == DEMO:
                self._demo(end)
            else:
                self._serving(self.slots[name], end)
        except StartError as error:
            self.tell.fail(str(error))

    def _control(self, end: socket.socket, heirs: int) -> None:
        self._keep(self.reserved.operators, self.reserved.workers, [self.inner])

        async def program() -> None:
            gateway = ControlGateway(self.reading, self.reserved, Inner(self.inner, self.folder), heirs)

            def started() -> None:
                garbage.work()
                if not heirs:
                    self.tell.started(gateway)

            await ControlProcess(gateway, end, started).run()

        run(program)

    def _serving(self, slot: int, end: socket.socket) -> None:
        reserved = self.reserved
        self._keep(reserved.clients[slot])
        advertised = self.reading.found.settings.advertised_address() or reserved.listen
        here = reserved.clients[slot]
        control = str(self.folder / "control")
        place = Place(slot, len(reserved.clients), advertised, reserved.listen.host, here, control)

        async def program() -> None:
            await ServingProcess(self.reading, place, end).run()

        run(program)

    def _demo(self, end: socket.socket) -> None:
        from proxy.demo.worker import DemoWorker  # late: for those who try it

        self._keep(self.reserved.fleet)
        settings = self.reading.found.settings.demo or Demo()

        async def program() -> None:
            worker = DemoWorker(settings.models, chunks_per_second=settings.chunks_per_second)
            await run_demo(worker, self.reserved.fleet, end)

        run(program)

    def _keep(self, *own: Listeners) -> None:
        """Close what is another process's: nobody may go on listening for it once all of the gateway has ended."""
        kept = [each for listeners in own for each in listeners]
        for listener in (*self.reserved.all(), self.inner):
            if listener not in kept:
                listener.close()


def _reserved(settings: Settings, processes: int) -> Reserved:
    listen, clients = _reserve(parse_address(settings.listen), processes, "listen")
    admin, operators = _reserve(parse_address(settings.admin), 1, "admin")
    accepts = settings.worker_listener_address()
    workers: list[Listeners] = [[]]
    if accepts is not None:
        accepts, workers = _reserve(accepts, 1, "accept-workers")
    demo: Address | None = None
    fleet: list[Listeners] = [[]]
    if settings.demo is not None:
        demo, fleet = _reserve(Address("127.0.0.1", 0), 1, "demo")
    return Reserved(listen, admin, accepts, clients, operators[0], workers[0], demo, fleet[0])


def _reserve(address: Address, count: int, name: str) -> tuple[Address, list[Listeners]]:
    try:
        return reserve(address, count)
    except OSError as error:
        raise StartError(f"cannot listen on {address} (--{name}): {error.strerror}") from None


def _folder() -> Path:
    """A new one that nobody else can look into."""
    try:
        made = Path(tempfile.mkdtemp(prefix="gateway-"))
    except OSError as error:
        raise StartError(f"several processes need a folder for temporary files: {error}") from None
    if len(os.fsencode(made)) <= _PATH_MAX:
        return made
    made.rmdir()
    return Path(tempfile.mkdtemp(prefix="gateway-", dir="/tmp"))


def _inner(path: Path) -> socket.socket:
    """Where the serving processes find control, whichever process that is."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen(LISTEN_BACKLOG)
    made.settimeout(0.0)
    return made
