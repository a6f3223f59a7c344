"""The process that has the fleet: it finds workers, registers, and gives leases to those that serve clients."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, cast

from aiohttp import web

from proxy.app import RunningGateway
from proxy.backends.assembly import Backends
from proxy.backends.control import end_tasks
from proxy.fleet.facts import Kind, WorkerReport
from proxy.fleet.shared import SharedFleet
from proxy.http import HttpServer, port_of
from proxy.lifecycle import Traffic
from proxy.limits import LISTEN_BACKLOG
from proxy.processes.channel import Channel, Message
from proxy.processes.child import count, keep_counting, log_failure, open_line
from proxy.processes.hub import Doing, Hub, Peer
from proxy.processes.reading import Reading, with_digest
from proxy.processes.recording import OtherRecordings
from proxy.processes.sockets import Reserved
from proxy.processes.supervised import Supervised
from proxy.processes.turns import OwnTurns
from proxy.processes.view import Shown, View
from proxy.processes.wire import facts_of
from proxy.reload import Loaded
from proxy.server.gateway import Gateway
from proxy.server.listeners import ClosePort
from proxy.settings import Address
from proxy.together import Together
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)

# How long a new control waits for the serving processes to tell what they have of the one before.
_HEIRS_SECONDS: Final = 1.0
# How long the other processes may take to read settings and rules.
_READ_SECONDS: Final = 30.0
# Workers that only the control before knew of have so long to be named again, by themselves or by a controller.
_GRACE_SECONDS: Final = 90.0


class Inner(NamedTuple):
    """What outlives control. listener: where the serving processes find it; folder: of what it keeps."""

    listener: socket.socket
    folder: Path


class ControlGateway(RunningGateway):
    """A gateway whose clients are served by other processes.

    reading: what is in force; reserved: where it listens; inner: as `Inner`; heirs: how many serving
    processes there are already, with what they have of an earlier control.
    """

    _new_fleet = SharedFleet
    _operators: web.AppRunner

    def __init__(self, reading: Reading, reserved: Reserved, inner: Inner, heirs: int) -> None:
        super().__init__(reading.found.settings, reading.found.rules, reading.source)
        self._now.generation = reading.generation
        self._digest = ""
        self._reserved, self._inner, self._heirs = reserved, inner, heirs
        self._open: list[Callable[[], Awaitable[None] | None]] = []
        self.listen = reserved.listen
        self.serving_processes = len(reserved.clients)
        fleet = cast("SharedFleet", self.fleet)
        shown = Shown(
            lambda: self.backends.public_names(),
            lambda: self.backends.offered(),
            lambda model, kind: self.backends.in_service(model, kind),
            lambda: {} if self._ports is None else self._ports.ports(),
        )
        doing = Doing(lambda address: self.backends.trouble(address), lambda *asked: self.backends.operate(*asked))
        self.hub = Hub(fleet, View(fleet, shown), doing, lambda: self._now.generation)

    async def _listen_to_clients(self, stack: AsyncExitStack) -> Callable[[int], Awaitable[ClosePort]]:
        await self.hub.listen(self._inner.listener)
        stack.push_async_callback(self.hub.close)
        return self._open_everywhere

    def _all_processes(self) -> Together:
        self.supervised = Supervised(self.metrics, lambda: self._now.looked)
        supervised = self.supervised
        return Together(
            supervised.gathered,
            lambda: supervised.processes,
            self,
            OtherRecordings(lambda: self.hub),
            OwnTurns(lambda: self.hub.turns),
        )

    def _kept_workers(self) -> str:
        return str(self._inner.folder / "workers.json")

    async def _start_demo(self, stack: AsyncExitStack) -> None:
        """Another process has it."""
        settings, reserved = self.settings.demo, self._reserved.demo
        if settings is not None and reserved is not None:
            from proxy.demo.worker import DemoWorker  # late: for those who try it

            worker = DemoWorker(settings.models)
            worker.address = f"http://{reserved}"
            self.demo.append(worker)

    async def _bind(self, server: HttpServer, address: Address) -> Address:
        sites = [await server.listen_on(listener) for listener in self._reserved.workers]
        self._open += [partial(server.leave, site) for site in sites]
        return Address(address.host, port_of(sites[-1]))

    async def _bind_operators(self, runner: web.AppRunner, address: Address) -> Address:
        """Nobody is answered before there is something to tell."""
        self._operators = runner
        return self._reserved.admin

    async def _open_everywhere(self, port: int) -> ClosePort:
        """OSError where somebody else listens there."""
        return await self.hub.open_port(self.listen.host, port)

    async def _first_look(self, backends: Backends) -> None:
        """What an earlier control knew holds until the look says otherwise, so that nothing is withdrawn meanwhile."""
        peers = await self.hub.heirs(self._heirs, _HEIRS_SECONDS) if self._heirs else []
        for peer in peers:
            try:
                self._take_over(peer.state or {}, backends)
                self._now.looked = True
            except Exception:  # noqa: PERF203  the next control would get the same and fail in the same way
                log.exception("what process %s knows of an earlier control cannot be taken over", peer.name)
        self.hub.open()
        for listener in self._reserved.operators:
            site = web.SockSite(self._operators, listener, backlog=LISTEN_BACKLOG)
            await site.start()
            self._open.append(site.stop)
        await super()._first_look(backends)
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._let_go, self._inherited(peers))

    def _take_over(self, state: JsonObject, backends: Backends) -> None:
        fleet, now = cast("SharedFleet", self.fleet), time.monotonic()
        for address, facts in cast("list[tuple[str, Json]]", state["remembered"]):
            fleet.remember(address, facts_of(facts))
        for told in cast("list[JsonObject]", state["workers"]):
            address = cast("str", told["address"])
            models = tuple(facts_of(each) for each in cast("list[Json]", told["models"]))
            if told["up"]:
                fleet.report(WorkerReport(address, models), now)
            else:
                fleet.fail(address, cast("str", told["reason"]), now)
            if told["drained"]:
                fleet.drain(address, now)
        out = cast("list[tuple[str, Kind]]", state["out_of_service"])
        backends.adopt_out_of_service((model, kind) for model, kind in out)
        for model, port in cast("dict[str, int]", state["ports"]).items():
            if self._ports is not None:
                self._ports.adopt(model, port, self.hub.adopt_port(port))

    def _inherited(self, peers: list[Peer]) -> set[str]:
        states = [peer.state for peer in peers if peer.state is not None]
        return {cast("str", told["address"]) for state in states for told in cast("list[JsonObject]", state["workers"])}

    def _let_go(self, inherited: set[str]) -> None:
        for address in inherited:
            if not self.backends.sources(address):
                log.info("worker %s: dropped, nobody has named it again", address)
                self.fleet.forget(address, time.monotonic())

    def _read(self) -> Loaded:
        found, self._digest = with_digest(super()._read)
        return found

    async def agree(self) -> tuple[str, ...]:
        """All have read the same, the supervisor too, which makes the next ones."""
        digest = self._digest
        try:
            first = self.supervised.ask("prepare", seconds=_READ_SECONDS)
            supervisor, others = await asyncio.gather(first, self.hub.ask("prepare", seconds=_READ_SECONDS))
        except asyncio.TimeoutError:
            return (f"the supervisor has not read the files within {_READ_SECONDS:g} s",)
        problems = [_disagreement(name, digest, read) for name, read in {"supervisor": supervisor, **others}.items()]
        return tuple(problem for problem in problems if problem)

    async def follow(self) -> None:
        """What was agreed on is in force in all processes; the supervisor is first, so that no new one has the old."""
        try:
            (is_done,) = await self.supervised.ask("commit", self._digest, self._now.generation)
        except asyncio.TimeoutError:
            is_done = False
        if not is_done:
            log.error(
                "the supervisor has not put in force what it has read: reload again, before a process is replaced"
            )
        self.hub.changed()
        self.hub.push()
        await self.hub.ask("commit", self._digest, self._now.generation)

    async def leave_addresses(self) -> None:
        """Listen nowhere any more: another gateway may begin before this one has ended."""
        for close in self._open:
            closing = close()
            if closing is not None:
                await closing
        self._open = []

    def clear_up(self) -> None:
        """Do what the supervisor would do last."""
        shutil.rmtree(self._inner.folder, ignore_errors=True)

    def _fleet_event(self, name: str, text: str, /, **labels: str) -> None:
        super()._fleet_event(name, text, **labels)
        if name == "selection":
            self.hub.active()

    async def _ensure_ports(self) -> None:
        await super()._ensure_ports()
        self.hub.changed()

    def _begin_to_stop(self) -> None:
        super()._begin_to_stop()
        self.hub.announce("stopping")

    def _refuse(self) -> None:
        super()._refuse()
        self.hub.announce("refuse")

    def _requests(self, own: Gateway) -> Traffic:
        return _Everywhere(own, self.hub)


def _disagreement(name: str, digest: str, read: Json) -> str:
    """Why what a process has read cannot be put in force; "" where it can."""
    if not isinstance(read, list):
        return f"process {name} has not read the files within {_READ_SECONDS:g} s"
    if read[1]:
        return f"process {name}: {read[1]}"
    return "" if read[0] == digest else f"process {name} has read other files than control: they change; ask again"


class _Everywhere:
    """The requests under way in all processes."""

    def __init__(self, own: Gateway, hub: Hub) -> None:
        self._each: tuple[Traffic, ...] = (own, hub)

    async def drain(self, seconds: float) -> int:
        """See `Traffic`."""
        return sum(await asyncio.gather(*(each.drain(seconds) for each in self._each)))

    async def cut(self) -> int:
        """See `Traffic`."""
        return sum(await asyncio.gather(*(each.cut() for each in self._each)))


class ControlProcess:
    """Serves until the supervisor says that it is to end, or is gone.

    end: of the line to the supervisor; started: called once the gateway serves.
    """

    def __init__(self, gateway: ControlGateway, end: socket.socket, started: Callable[[], None]) -> None:
        self._gateway, self._end, self._started = gateway, end, started
        self._line = gateway.supervised.line = Channel(self._told, self._lost)
        self._stop = asyncio.Event()
        self._starting: asyncio.Task[object] | None = None
        self._serves = self._is_alone = False
        self._early: list[str] = []

    async def run(self) -> None:
        """From the first word with the supervisor to the last."""
        snapshots = self._gateway.supervised.snapshots
        counting = asyncio.create_task(keep_counting(self._line, snapshots), name="counting")
        counting.add_done_callback(log_failure)
        try:
            await open_line(self._line, self._end)
            await self._serve()
        finally:
            self._stop.set()
            await end_tasks([counting])
            await count(self._line, snapshots)
            await self._line.finish()
            if self._is_alone:
                self._gateway.clear_up()

    async def _serve(self) -> None:
        if self._stop.is_set():
            return
        self._starting = asyncio.current_task()
        try:
            async with self._gateway.serve():
                self._starting, self._serves = None, True
                # Who reads that it has started may end it at once: the supervisor has to know it before.
                self._line.send("ready")
                self._line.flush()
                self._started()
                for why in self._early[:1]:
                    self._gateway.reload_soon(why)
                await self._stop.wait()
                if self._is_alone:
                    await self._gateway.leave_addresses()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise

    def _told(self, message: Message) -> None:
        if message[0] == "stop":
            self._end_soon()
        elif message[0] != "reload":
            self._gateway.supervised.told(message)
        elif self._serves:
            self._gateway.reload_soon(str(message[1]))
        else:
            self._early.append(str(message[1]))

    def _lost(self) -> None:
        if not self._stop.is_set():
            log.error("the supervisor of this gateway is gone: withdrawing and ending")
            self._is_alone = True
            self._end_soon()

    def _end_soon(self) -> None:
        if not self._stop.is_set() and self._starting is not None:
            self._starting.cancel()
        self._stop.set()
