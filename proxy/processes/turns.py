"""Calls that a worker cannot take beside each other, over all processes: whose turn it is, and who is next."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable

from proxy.errors import GatewayError
from proxy.processes.channel import Channel

Name = tuple[str, str]


class TurnTable:
    """Control's: first come, first served. Who asks is known by a process and a number of that process."""

    def __init__(self) -> None:
        self._queues: dict[Name, deque[tuple[object, int, Callable[[], None]]]] = {}

    def ask(self, process: object, number: int, name: Name, granted: Callable[[], None]) -> None:
        """Wait for the turn; `granted` is called once it has come, perhaps before this returns."""
        queue = self._queues.setdefault(name, deque())
        queue.append((process, number, granted))
        if len(queue) == 1:
            granted()

    def adopt(self, process: object, number: int, name: Name) -> None:
        """The turn is this one's already, by an earlier control."""
        self._queues.setdefault(name, deque()).appendleft((process, number, lambda: None))

    def give_back(self, process: object, number: int | None = None) -> None:
        """It is over, or not wanted any more; None: everything of this process."""
        for name, queue in [*self._queues.items()]:
            first = queue[0]
            left = deque(one for one in queue if one[0] is not process or number not in (None, one[1]))
            if not left:
                del self._queues[name]
                continue
            self._queues[name] = left
            if left[0] is not first:
                left[0][2]()


class OwnTurns:
    """Those of the process that has the table."""

    def __init__(self, table: Callable[[], TurnTable]) -> None:
        self._table = table
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def turn(self, name: Name) -> AsyncIterator[None]:
        """Wait for the turn, and hold it for as long as the context lasts."""
        number = next(self._numbers)
        come = asyncio.Event()
        self._table().ask(self, number, name, come.set)
        try:
            await come.wait()
            yield
        finally:
            self._table().give_back(self, number)


class RemoteTurns:
    """A serving process's, as `proxy.server.turns.Turns`."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[Name, asyncio.Future[None]]] = {}

    @property
    def held(self) -> list[tuple[int, Name]]:
        """The turns that this process has now."""
        return [(number, name) for number, (name, come) in self._asked.items() if _has_come(come)]

    def connect(self, channel: Channel) -> None:
        """There is a control, which knows of the turns that are held."""
        self._channel = channel
        for number, (name, come) in self._asked.items():
            if not come.done():
                channel.send("turn", number, *name)

    def disconnect(self) -> None:
        """There is none for now."""
        self._channel = None

    def give_up(self, why: str) -> None:
        """No control comes: whoever waits is told so."""
        for _, come in self._asked.values():
            if not come.done():
                come.set_exception(GatewayError("model_unavailable", why, final=True))

    def come(self, number: int) -> None:
        """Control says that it is this one's turn."""
        asked = self._asked.get(number)
        if asked is not None and not asked[1].done():
            asked[1].set_result(None)

    @contextlib.asynccontextmanager
    async def turn(self, name: Name) -> AsyncIterator[None]:
        """Wait for the turn, and hold it for as long as the context lasts."""
        number = next(self._numbers)
        come = asyncio.get_running_loop().create_future()
        self._asked[number] = name, come
        try:
            if self._channel is not None:
                self._channel.send("turn", number, *name)
            await come
            yield
        finally:
            del self._asked[number]
            if self._channel is not None:
                self._channel.send("turned", number)


def _has_come(come: asyncio.Future[None]) -> bool:
    return come.done() and not come.cancelled() and come.exception() is None
