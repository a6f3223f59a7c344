"""What control has of the supervisor: the list of the processes, and what all of them count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.processes.channel import Channel, Message
from proxy.telemetry.gathered import Gathered
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.snapshot import Snapshots
from proxy.types import Json

# The supervisor answers within half a second, as long as there is one.
_ANSWER_SECONDS = 5.0


class Supervised:
    """`line` is set before anything is asked for. settled: whether the fleet is known."""

    line: Channel

    def __init__(self, metrics: Metrics, settled: Callable[[], bool]) -> None:
        self.snapshots = Snapshots(metrics, settled)
        self.gathered = Gathered(self._counts)
        self.processes: list[Json] = []
        self._number = 0
        self._asked: dict[int, asyncio.Future[list[Json]]] = {}

    def told(self, message: Message) -> None:
        """The supervisor says this."""
        if message[0] == "processes":
            self.processes = cast("list[Json]", message[1])
        elif message[0] == "answer":
            asked = self._asked.get(cast("int", message[1]))
            if asked is not None and not asked.done():
                asked.set_result(message[2:])

    async def ask(self, what: str, *arguments: Json, seconds: float = _ANSWER_SECONDS) -> list[Json]:
        """Its answer. TimeoutError where none comes in time."""
        self._number += 1
        number = self._number
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.line.send(what, number, *arguments)
            return await asyncio.wait_for(asked, seconds)
        finally:
            del self._asked[number]

    async def _counts(self) -> bytes:
        """The counts of all, with what this process has counted until now."""
        own = await self.snapshots.take()
        self.line.send("counts", own.decode())
        (merged,) = await self.ask("scrape")
        return cast("str", merged).encode()
