"""One at a time: calls that a worker cannot take beside each other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class TakesTurns(Protocol):
    """Whoever says whose turn it is."""

    def turn(self, name: tuple[str, str]) -> AbstractAsyncContextManager[None]:
        """Wait for the turn, and hold it for as long as the context lasts."""


class Turns:
    """Locks by name, each of which lives as long as somebody holds it or waits for it; first come, first served."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @contextlib.asynccontextmanager
    async def turn(self, name: tuple[str, str]) -> AsyncIterator[None]:
        """Wait for the turn, and hold it for as long as the context lasts."""
        lock, users = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[name][1] - 1
            if users:
                self._locks[name] = (lock, users)
            else:
                del self._locks[name]
