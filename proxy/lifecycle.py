"""Signals, and the order in which a gateway stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Served(Protocol):
    """What a signal acts on while it serves."""

    def reload_soon(self, why: str) -> None:
        """Read settings and rules again."""


class Traffic(Protocol):
    """The requests under way."""

    async def drain(self, seconds: float) -> int:
        """Wait until none is left, for so long at most; how many are left."""

    async def cut(self) -> int:
        """End those that are left, telling their clients; how many there were."""


async def wind_down(
    *, withdraw: Callable[[], Awaitable[None]], refuse: Callable[[], None], traffic: Traffic, seconds: float
) -> None:
    """Leave the clusters first, so that nobody sends new work any more; then refuse it; let what runs finish; end it.

    withdraw: bounded by itself. seconds: how long what runs may go on.
    """
    await withdraw()
    refuse()
    left = await traffic.drain(seconds)
    if left:
        log.warning("stopping: %d requests are still running after %g s and are ended now", left, seconds)
        await traffic.cut()


def run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On uvloop where it exists: half the CPU of a stream is the event loop's."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(program())
    else:
        uvloop.run(program())


async def run_until_signalled(
    serve: Callable[[], AbstractAsyncContextManager[Served]],
    *,
    started: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM, also one that comes before the gateway serves; the second one kills the process.

    SIGHUP reloads; one that comes before the gateway serves is taken up as soon as it does. Where it comes because the
    terminal was closed in which the program ran, it stops.
    """
    had_terminal = has_terminal()
    this = asyncio.current_task()
    stop = asyncio.Event()
    served: list[Served] = []
    asked: list[str] = []

    def on_stop(number: signal.Signals) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        if this is not None and not served:
            this.cancel()

    def on_hangup() -> None:
        if had_terminal and not has_terminal():
            on_stop(signal.SIGHUP)
        elif served:
            served[0].reload_soon("SIGHUP")
        else:
            asked.append("SIGHUP")

    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        async with serve() as gateway:
            served.append(gateway)
            started()
            if asked:
                gateway.reload_soon(asked[0])
            await stop.wait()
            stopping()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        with contextlib.suppress(NotImplementedError):
            # The default, which the loop puts back, would kill a program that ends in good order: none comes through
            # until it is ignored.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def has_terminal() -> bool:
    """Whether the process has a terminal that controls it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
