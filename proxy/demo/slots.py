"""The places of a worker's queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.demo.generation import UnhandledError


class Slots:
    """At most `limit` requests at a time; the others wait in order."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)
        self._held = 0
        self._waiting = 0

    @property
    def queue_length(self) -> int:
        return self._held + self._waiting

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot. One whose request ended in `UnhandledError` never comes back: the real worker loses it too."""
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._held += 1
        lost = False
        try:
            yield
        except UnhandledError:
            lost = True
            raise
        finally:
            if not lost:
                self._held -= 1
                self._free.release()
