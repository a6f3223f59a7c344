"""What a serving process has control do for a client beside leases: to start and stop models."""

from __future__ import annotations

import asyncio
import itertools

from proxy.limits import CONTROL_AWAY_SECONDS
from proxy.processes.channel import Channel

_UNKNOWN = "Not known whether it was done: the gateway is about to recover."


class RemoteOperations:
    """Asks control, and waits for its answer."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[bool, str]]] = {}

    def connect(self, channel: Channel) -> None:
        """There is a control."""
        self._channel = channel

    def disconnect(self) -> None:
        """There is none for now, and the next one does not know what this one has done."""
        self._channel = None
        for number in self._asked:
            self.done(number, done=False, sentence=_UNKNOWN)

    def done(self, number: int, done: bool, sentence: str) -> None:  # noqa: FBT001  a message has no names
        """Control says how it went."""
        asked = self._asked.get(number)
        if asked is not None and not asked.done():
            asked.set_result((done, sentence))

    async def operate(self, operation: str, model: str, kind: str | None) -> tuple[bool, str]:
        """Whether it was done, and a sentence about that."""
        if self._channel is None:
            return False, "Not done: the gateway is about to recover; ask again in a moment."
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send("operate", number, operation, model, kind)
            return await asyncio.wait_for(asked, CONTROL_AWAY_SECONDS)
        except asyncio.TimeoutError:
            return False, _UNKNOWN
        finally:
            del self._asked[number]
