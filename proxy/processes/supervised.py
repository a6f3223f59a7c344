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
        self.gathered = Gathered(self._ask)
        self.processes: list[Json] = []
        self._number = 0
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    def told(self, message: Message) -> None:
        """The supervisor says this."""
        if message[0] == "processes":
            self.processes = cast("list[Json]", message[1])
        elif message[0] == "scraped":
            number, merged = cast("tuple[int, str]", tuple(message[1:]))
            asked = self._asked.get(number)
            if asked is not None and not asked.done():
                asked.set_result(merged.encode())

    async def _ask(self) -> bytes:
        """The counts of all, with what this process has counted until now. TimeoutError where none come."""
        self._number += 1
        number = self._number
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            own = await self.snapshots.take()
            self.line.send("counts", own.decode())
            self.line.send("scrape", number)
            return await asyncio.wait_for(asked, _ANSWER_SECONDS)
        finally:
            del self._asked[number]
