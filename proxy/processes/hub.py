"""Control's end of the channels to the serving processes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from proxy.fleet.facts import FleetFull
from proxy.fleet.shared import SharedFleet
from proxy.fleet.totals import under_way
from proxy.processes.channel import Channel, Message
from proxy.processes.leases import Needed, ProcessLeases
from proxy.processes.sockets import check_free
from proxy.processes.turns import TurnTable
from proxy.processes.view import View
from proxy.server.listeners import ClosePort
from proxy.server.mirror import could_serve
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)

# How often the serving processes learn how many requests are under way.
_COUNT_SECONDS: Final = 0.1
# What a serving process needs to do what it is told, beside the time that it is given for it.
_ANSWER_SECONDS: Final = 2.0


class Doing(NamedTuple):
    """What control does for the serving processes beside leases; see `Facilities`."""

    trouble: Callable[[str], None]
    operate: Callable[[str, str, str | None], tuple[bool, str]]


class Peer:
    """One serving process. slot: its place among them, which its replacement gets; state: what it knew of an earlier
    control.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.channel = Channel(self._received, self._lost)
        self.leases = ProcessLeases(hub.fleet, self._say, hub.give_way, time.monotonic)
        self.slot = self.pid = -1
        self.state: JsonObject | None = None
        self._held: list[list[Json]] = []
        self._turns: list[list[Json]] = []
        self._early: list[Message] = []
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._handlers: dict[str, Callable[..., None]] = {
            "acquire": self.leases.acquire,
            "wait": self.leases.wait,
            "release": self.leases.release,
            "heard": lambda address: hub.fleet.heard(address, time.monotonic()),
            "trouble": lambda address: hub.doing.trouble(address),
            "operate": self._operate,
            "answer": self._answer,
            "line": lambda line: hub.on_line(line.encode()),
            "turn": self._turn,
            "turned": lambda number: hub.turns.give_back(self, number),
        }

    def adopt(self) -> None:
        """What it has of an earlier control is its own."""
        for number, address, model, spare in cast("list[tuple[int, str, str, int]]", self._held):
            try:
                self.leases.adopt(number, address, model, spare)
            except FleetFull as error:  # noqa: PERF203  the others are counted
                log.warning("a request under way is not counted: %s", error)
        for number, worker, what in cast("list[tuple[int, str, str]]", self._turns):
            self._hub.turns.adopt(self, number, (worker, what))
        self._held, self._turns = [], []

    def welcome(self) -> None:
        """Tell it everything, and do what it has asked for meanwhile."""
        for port in self._hub.open_ports:
            self.channel.send("open", 0, port)
        for message in self._hub.view.everything():
            self.channel.send(*message)
        self.channel.send("requests", self._hub.requests)
        if self._hub.recording:
            self.channel.send("record", 0, *self._hub.recording)
        for message in self._hub.announced:
            self.channel.send(*message)
        self.channel.send("welcome")
        early, self._early = self._early, []
        for message in early:
            self._received(message)

    def ask(self, what: str, *arguments: Json) -> asyncio.Future[Json]:
        """Tell it to do something; its answer, None where it is gone before it gives one."""
        number = next(self._hub.numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.channel.send(what, number, *arguments)
        return answer

    def _received(self, message: Message) -> None:
        name, arguments = cast("str", message[0]), message[1:]
        if name == "hello":
            self._hello(*arguments)
        elif not self._hub.is_open:
            self._early.append(message)
        else:
            self._handlers[name](*arguments)
            self._hub.active()

    @property
    def name(self) -> str:
        """Of its place, with its pid."""
        return f"serving-{self.slot + 1} ({self.pid})"

    def _hello(self, slot: Json, pid: Json, held: Json, turns: Json, generation: Json, state: Json) -> None:
        self.slot, self.pid = cast("int", slot), cast("int", pid)
        self._held, self._turns = cast("list[list[Json]]", held), cast("list[list[Json]]", turns)
        self.state = cast("JsonObject | None", state)
        if generation != self._hub.generation():
            self.channel.send("outdated")
        self._hub.joined(self)

    def _turn(self, number: int, worker: str, what: str) -> None:
        self._hub.turns.ask(self, number, (worker, what), lambda: self.channel.send("turn", number))

    def _say(self, *message: Json) -> None:
        self._hub.push()
        self.channel.send(*message)

    def _operate(self, number: int, operation: str, model: str, kind: str | None) -> None:
        done, sentence = self._hub.doing.operate(operation, model, kind)
        self._hub.changed()
        self._say("done", number, done, sentence)

    def _answer(self, number: int, value: Json) -> None:
        answer = self._answers.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def _lost(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)
        self._hub.left(self)
        self._hub.turns.give_back(self)
        self.leases.end()
        self._hub.active()


class Hub:
    """Every serving process, and what all of them are told. Nobody is answered before `open`.

    generation: of the settings and rules in force; a process that has others makes room for one that has them.
    """

    def __init__(self, fleet: SharedFleet, view: View, doing: Doing, generation: Callable[[], int]) -> None:
        self.fleet, self.view, self.doing, self.generation = fleet, view, doing, generation
        self.is_open = False
        self.open_ports: set[int] = set()
        self.announced: list[Message] = []
        self.numbers = itertools.count(1)
        self.turns = TurnTable()
        self.recording: list[Json] = []  # what is recorded now
        self.on_line: Callable[[bytes], None] = lambda _: None
        self._peers: set[Peer] = set()
        self._server: asyncio.Server | None = None
        self._unsubscribe = fleet.subscribe(self.changed)
        self._dirty = False
        self._counting: asyncio.TimerHandle | None = None
        self.requests = 0
        self._joined = asyncio.Event()

    async def listen(self, listener: socket.socket) -> None:
        """Take the serving processes' connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Peer(self).channel, sock=listener)

    async def heirs(self, count: int, seconds: float) -> list[Peer]:
        """The processes that know what an earlier control did, once so many are there, or the time is over."""

        def there() -> list[Peer]:
            return sorted((peer for peer in self._peers if peer.state is not None), key=lambda peer: peer.slot)

        async def all_there() -> None:
            while len(there()) < count:
                self._joined.clear()
                await self._joined.wait()

        try:
            await asyncio.wait_for(all_there(), seconds)
        except asyncio.TimeoutError:
            log.warning("%d of %d serving processes are there after %g s", len(there()), count, seconds)
        return there()

    def open(self) -> None:
        """Give leases from now on."""
        self.is_open = True
        self.view.news()
        for peer in tuple(self._peers):
            peer.adopt()
        for peer in tuple(self._peers):
            peer.welcome()

    async def close(self) -> None:
        """Let go of everything; the serving processes keep what they have."""
        self._unsubscribe()
        if self._counting is not None:
            self._counting.cancel()
        if self._server is not None:
            self._server.close()
        for peer in tuple(self._peers):
            peer.channel.close()

    def joined(self, peer: Peer) -> None:
        """A process has said who it is."""
        self._peers.add(peer)
        self._joined.set()
        if self.is_open:
            self.push()
            peer.adopt()
            peer.welcome()

    def left(self, peer: Peer) -> None:
        """A process is gone."""
        self._peers.discard(peer)

    # --- what they are told

    def changed(self) -> None:
        """Something that they know may be different: they hear of it before anything else."""
        if self.is_open and not self._dirty:
            self._dirty = True
            asyncio.get_running_loop().call_soon(self.push)

    def push(self) -> None:
        """Tell it now."""
        if self._dirty:
            self._dirty = False
            for message in self.view.news():
                self.tell(*message)

    def tell(self, *message: Json) -> None:
        """Say something to all."""
        for peer in self._peers:
            peer.channel.send(*message)

    def announce(self, *message: Json) -> None:
        """Say something that holds from now on, also for who joins later."""
        self.announced.append([*message])
        self.tell(*message)

    async def ask(self, what: str, *arguments: Json, seconds: float = 0.0) -> dict[str, Json]:
        """Have all do something that takes so long at most; the answers by the names of the processes, None where one
        gave none in time. Those that have ended meanwhile are left out.
        """
        answers = {peer.name: peer.ask(what, *arguments) for peer in self._peers}
        if answers:
            await asyncio.wait(answers.values(), timeout=seconds + _ANSWER_SECONDS)
        found = {name: answer.result() if answer.done() else None for name, answer in answers.items()}
        return {name: value for name, value in found.items() if value is not None or not answers[name].done()}

    def give_way(self, needed: Needed) -> bool:
        """End a copy that is on a worker which a request could have; whether there was one."""
        for peer in self._peers:
            for number, address in peer.leases.spare():
                view = self.fleet.worker(address) if address not in needed.avoid else None
                if view is not None and could_serve(view, needed.model, needed.kind, needed.pinned):
                    peer.leases.ends(number)
                    peer.channel.send("give_way", number)
                    return True
        return False

    def active(self) -> None:
        """Leases or queues have changed."""
        if self._counting is None and self.is_open:
            self._counting = asyncio.get_running_loop().call_later(_COUNT_SECONDS, self._count)

    def _count(self) -> None:
        self._counting = None
        count = under_way(self.fleet)
        if count != self.requests:
            self.requests = count
            self.tell("requests", count)
        if count:
            self.active()

    # --- the requests under way in all of them

    async def drain(self, seconds: float) -> int:
        """Wait until none is left, for so long at most; how many are left."""
        return sum(_counts(await self.ask("drain", seconds, seconds=seconds)))

    async def cut(self) -> int:
        """End those that are left, telling their clients; how many there were."""
        return sum(_counts(await self.ask("cut", seconds=_ANSWER_SECONDS)))

    # --- ports

    async def open_port(self, host: str, port: int) -> ClosePort:
        """Have all listen there; OSError where one cannot, or where somebody else does. The answer ends that."""
        await asyncio.to_thread(check_free, host, port)
        close = self.adopt_port(port)
        answers = await self.ask("open", port)
        silent = [f"process {name} has not answered" for name, reason in answers.items() if reason is None]
        reasons = [*silent, *(str(reason) for reason in answers.values() if reason)]
        if reasons:
            await close()
            raise OSError(0, reasons[0])
        return close

    def adopt_port(self, port: int) -> ClosePort:
        """All listen there already; the answer ends that."""

        async def close() -> None:
            self.open_ports.discard(port)
            await self.ask("close", port)

        self.open_ports.add(port)
        return close


def _counts(answers: dict[str, Json]) -> list[int]:
    return [count for count in answers.values() if isinstance(count, int)]
