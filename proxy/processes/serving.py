"""A process that serves clients with workers that control gives it."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, cast

from proxy import garbage
from proxy.backends.control import end_tasks
from proxy.datapath import DataPath
from proxy.limits import LABEL_VALUES_MAX
from proxy.operations import InForce, feed_serving_metrics
from proxy.processes.channel import Channel, Message
from proxy.processes.child import count, keep_counting, log_failure, open_line
from proxy.processes.link import Link
from proxy.processes.reading import Reading
from proxy.processes.recording import RemoteRecorder
from proxy.processes.remote import RemoteLeases
from proxy.processes.replica import Replica
from proxy.processes.sockets import Listeners, shared
from proxy.server.directory import ModelDirectory
from proxy.server.gateway import Gateway
from proxy.server.listeners import client_server
from proxy.settings import Address
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.snapshot import Snapshots
from proxy.threads import in_thread
from proxy.types import Json

log = logging.getLogger(__name__)

# How long a process that leaves waits for requests on connections that it has just taken.
_LAST_REQUESTS_SECONDS: Final = 1.0


class Place(NamedTuple):
    """Where a serving process is. slot: among so many processes; advertised: the gateway's address for clusters; host:
    of its listeners; control: where control is found.
    """

    slot: int
    processes: int
    advertised: Address
    host: str
    clients: Listeners
    control: str


class ServingProcess:
    """Serves until the supervisor says that it is to end, or is gone.

    reading: what is in force; end: of the line to the supervisor.
    """

    def __init__(self, reading: Reading, place: Place, end: socket.socket) -> None:
        self._reading, self._place, self._end = reading, place, end
        loaded = reading.found
        self._line = Channel(self._told, self._orphaned)
        self._now = InForce(loaded, reading.generation)
        self.metrics = Metrics(label_cap=LABEL_VALUES_MAX)
        self._path = DataPath(
            self._now, self.metrics, random.Random(), lambda: self._recorder.now, processes=place.processes
        )
        self._snapshots = Snapshots(self.metrics)
        self._replica = Replica(loaded.tuning.fleet, self.metrics.forget_worker)
        leases = self._leases = RemoteLeases(self._replica.fleet)
        link = self._link = Link(
            place.control, leases, hello=self._hello, received=self._received, lost=self._without_control
        )
        self._recorder = RemoteRecorder(lambda: self._link.channel)
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports: dict[int, list[asyncio.Server]] = {}
        self._server = client_server(self._path.handle)
        self._sites: list[asyncio.Server] = []
        replica = self._replica
        self._handlers: dict[str, Callable[..., object]] = {
            "lease": leases.answered,
            "refused": leases.refused,
            "turn": link.turns.come,
            "worker": replica.worker,
            "gone": replica.gone,
            "remembered": replica.remembered,
            "requests": self._counted,
            "done": link.operations.done,
            "prepare": lambda number: self._spawn(self._prepare(number)),
            "commit": self._commit,
            "outdated": self._outdated,
            "record": self._record,
            "end_record": lambda number: self._spawn(self._end_record(number)),
            "give_way": self._give_way,
            "welcome": self._welcomed,
            "open": lambda number, port: self._spawn(self._open(number, port)),
            "close": lambda number, port: self._spawn(self._close(number, port)),
            "stopping": self._stopping,
            "refuse": self._refuse,
            "drain": lambda number, seconds: self._spawn(self._drain(number, seconds)),
            "cut": lambda number: self._spawn(self._cut(number)),
        }

    async def run(self) -> None:
        """Everything from the first connection to control to the last byte to a client."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_term)
        self._path.start(
            self._replica.fleet,
            self._leases,
            self._directory(),
            trouble=lambda address: self._say("trouble", address),
            in_service=self._replica.in_service,
            operate=self._link.operations.operate,
            turns=self._link.turns,
        )
        feed_serving_metrics(self.metrics, self._replica.fleet, self._path.pool)
        await open_line(self._line, self._end)
        parts = [
            asyncio.create_task(self._link.keep(), name="control"),
            asyncio.create_task(self._link.watch(), name="patience"),
            asyncio.create_task(keep_counting(self._line, self._snapshots), name="counting"),
        ]
        for task in parts:
            task.add_done_callback(self._has_failed)
        try:
            await _first_of(self._link.welcome, self._over)
            if not self._over.is_set():
                await self._listen()
                garbage.work()
                self._line.send("ready")
                await self._over.wait()
        finally:
            self._over.set()
            await end_tasks([*parts, *self._tasks])
            await self._server.close()
            await self._path.pool.close()
            await count(self._line, self._snapshots)
            await self._line.finish()

    def _directory(self) -> ModelDirectory:
        replica = self._replica
        return ModelDirectory(
            replica.fleet,
            *self._place.advertised,
            default_model=lambda: self._now.loaded.settings.default_model,
            public_names=lambda: replica.names,
            port_model=lambda port: next((model for model, own in replica.ports.items() if own == port), None),
            in_service=replica.in_service,
            service_version=lambda: replica.version,
            offered=lambda: replica.offered,
            requests=lambda: replica.requests,
        )

    async def _listen(self) -> None:
        self._sites += [await self._server.listen_on(listener) for listener in self._place.clients]

    @property
    def _gateway(self) -> Gateway:
        if self._path.gateway is None:
            raise RuntimeError("the process has not been started")
        return self._path.gateway

    # --- control

    def _hello(self) -> Message:
        held: list[Json] = [[each.number, each.address, each.model, int(each.spare)] for each in self._leases.held]
        turns: list[Json] = [[number, *name] for number, name in self._link.turns.held]
        state = self._replica.state() if self._replica.is_complete else None
        return ["hello", self._place.slot, os.getpid(), held, turns, self._now.generation, state]

    def _without_control(self) -> None:
        self._recorder.stop()
        if not self._now.stopping:
            log.warning("the control process of this gateway is gone; requests wait for another one")

    def _received(self, message: Message) -> None:
        name, arguments = cast("str", message[0]), message[1:]
        handler = self._handlers.get(name)
        if handler is not None:
            handler(*arguments)
        elif not self._replica.told(name, arguments[0]):
            raise ValueError(f"control says {name!r}, which nobody here understands")

    def _say(self, *message: Json) -> None:
        self._link.say(*message)

    def _welcomed(self) -> None:
        self._replica.complete()
        self._link.welcome.set()

    def _counted(self, requests: int) -> None:
        self._replica.requests = requests

    def _give_way(self, number: int) -> None:
        """A client's request in another process needs the worker of a copy."""
        lease = self._leases.of(number)
        if lease is not None:
            self._gateway.give_way(lease)

    # --- settings and rules

    async def _prepare(self, number: int) -> None:
        """Read what is to be put in force, perhaps."""
        digest, mistake = await in_thread(self._reading.prepare, "reload")
        self._say("answer", number, [digest, mistake])

    def _commit(self, number: int, digest: str, generation: int) -> None:
        """Put it in force, in one step."""
        if self._reading.commit(digest, generation):
            self._now.loaded, self._now.generation = self._reading.found, generation
            self._path.changed()
            self._replica.configure(self._now.loaded.tuning.fleet)
        else:
            self._outdated()
        self._say("answer", number, "done")

    def _outdated(self) -> None:
        """Others have settings and rules that this process has not: a new one has them."""
        self._line.send("leaving")

    # --- recordings

    def _record(self, number: int, *told: list[Json]) -> None:
        self._recorder.begin(*told)
        self._say("answer", number, "done")

    async def _end_record(self, number: int) -> None:
        self._say("answer", number, await self._recorder.end())

    # --- ports

    async def _open(self, number: int, port: int) -> None:
        """number: 0 where nobody waits for the answer."""
        reason = ""
        if port not in self._ports and not self._now.stopping:
            sites = self._ports[port] = []
            try:
                sites += [await self._server.listen_on(listener) for listener in shared(self._place.host, port)]
            except OSError as error:
                reason = error.strerror or str(error)
                self._leave_port(port)
                if not number:
                    log.error("port %d of a model cannot be opened in this process: %s", port, reason)
        self._say("answer", number, reason)

    async def _close(self, number: int, port: int) -> None:
        self._leave_port(port)
        await asyncio.sleep(0)  # in which the event loop closes it
        self._say("answer", number, "done")

    def _leave_port(self, port: int) -> None:
        for site in self._ports.pop(port, []):
            self._server.leave(site)

    # --- the end

    def _stopping(self) -> None:
        self._now.stopping = True

    def _refuse(self) -> None:
        self._now.accepting = False

    async def _drain(self, number: int, seconds: float) -> None:
        self._say("answer", number, await self._gateway.drain(seconds))

    async def _cut(self, number: int) -> None:
        self._say("answer", number, await self._gateway.cut())

    def _told(self, message: Message) -> None:
        """By the supervisor."""
        if message[0] == "end":
            self._over.set()
        elif message[0] == "count":
            self._spawn(count(self._line, self._snapshots))
        elif message[0] == "leave":
            self._spawn(self._leave(cast("float | None", message[1])))

    def _has_failed(self, task: asyncio.Task[None]) -> None:
        """Without this task the process is of no use: another one takes its place."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the process ends, because a part of it has failed", exc_info=error)
            self._over.set()

    def _on_term(self) -> None:
        """Who stops the whole gateway tells the supervisor too, which decides what is meant."""
        self._line.send("leaving")

    def _orphaned(self) -> None:
        if not self._over.is_set():
            log.error("the supervisor of this gateway is gone: letting streams finish and ending")
            self._refuse()
            self._spawn(self._leave(None))

    async def _leave(self, seconds: float | None) -> None:
        """Take no connections any more; let streams finish, for so long at most, None: for as long as the settings say.
        Told again, the shorter time counts.
        """
        self._stopping()
        if self._link.channel is None:  # nobody would give new requests a worker
            self._refuse()
        for site in self._sites:
            self._server.leave(site)
        for port in [*self._ports]:
            self._leave_port(port)
        self._server.retire()
        left = self._now.loaded.settings.shutdown_seconds if seconds is None else seconds
        first = min(_LAST_REQUESTS_SECONDS, left)
        await self._server.emptied(first)
        if await self._gateway.drain(left - first):
            await self._gateway.cut()
        self._over.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="serving")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(log_failure)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
