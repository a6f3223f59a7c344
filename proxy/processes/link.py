"""A serving process's connection to control, whichever process that is now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from proxy.limits import CONTROL_AWAY_SECONDS, CONTROL_LOOK_SECONDS, CONTROL_LOSSES_MAX, LIVED_SECONDS
from proxy.processes.channel import Channel, Message
from proxy.processes.operations import RemoteOperations
from proxy.processes.remote import RemoteLeases
from proxy.processes.turns import RemoteTurns
from proxy.types import Json

log = logging.getLogger(__name__)

# Before another attempt to reach control.
_RETRY_SECONDS: Final = 0.05
_RECOVERS: Final = "the gateway is about to recover; ask again in a moment"


class Link:
    """Connects again and again; `leases`, `turns` and `operations` are what is asked of control.

    path: of its socket; hello: what is said to each new one; received: called with each message; lost: called when it
    is gone. welcome: set as long as there is a control that has told everything.
    """

    def __init__(
        self,
        path: str,
        leases: RemoteLeases,
        *,
        hello: Callable[[], Message],
        received: Callable[[Message], None],
        lost: Callable[[], None],
    ) -> None:
        self._path, self._hello, self._received, self._on_lost = path, hello, received, lost
        self.leases, self.turns, self.operations = leases, RemoteTurns(), RemoteOperations()
        self.channel: Channel | None = None
        self.welcome = asyncio.Event()
        self._lost = asyncio.Event()
        self._away_since = time.monotonic()
        self._has_told = False  # that it cannot be reached

    def say(self, *message: Json) -> None:
        """Tell control, where there is one."""
        if self.channel is not None:
            self.channel.send(*message)

    async def keep(self) -> None:
        """Stay connected. ConnectionError where every connection is lost again."""
        losses = 0
        while True:
            self._lost.clear()
            channel = await self._connected()
            if channel is not None:
                began = time.monotonic()
                await self._until_lost(channel)
                losses = 1 if time.monotonic() - began >= LIVED_SECONDS else losses + 1
                if losses > CONTROL_LOSSES_MAX:
                    raise ConnectionError(f"the connection to control was lost {losses} times in a row")
            await asyncio.sleep(_RETRY_SECONDS)

    async def watch(self) -> None:
        """Whoever waits for too long is told so."""
        while True:
            await asyncio.sleep(CONTROL_LOOK_SECONDS)
            now = time.monotonic()
            if self.welcome.is_set() or now - self._away_since < CONTROL_AWAY_SECONDS:
                self.leases.overdue(now)
            else:
                self.leases.give_up(_RECOVERS)
                self.turns.give_up(_RECOVERS)

    async def _connected(self) -> Channel | None:
        loop = asyncio.get_running_loop()
        try:
            _, channel = await loop.create_unix_connection(lambda: Channel(self._received, self._lost.set), self._path)
        except OSError as error:
            if not self._has_told:
                self._has_told = True
                log.warning("the control process of this gateway cannot be reached: %s", error)
            return None
        self._has_told = False
        return channel

    async def _until_lost(self, channel: Channel) -> None:
        channel.send(*self._hello())
        self.channel = channel
        for each in (self.leases, self.turns, self.operations):
            each.connect(channel)
        try:
            await self._lost.wait()
        finally:
            self.channel = None
            if self.welcome.is_set():
                self._away_since = time.monotonic()
            self.welcome.clear()
            for each in (self.leases, self.turns, self.operations):
                each.disconnect()
            channel.close()
        self._on_lost()
