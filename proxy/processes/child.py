"""What every process but the supervisor does: it runs an event loop and hears what the supervisor says."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.processes.channel import Channel, Message


def run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On uvloop where it exists: half the CPU of a stream is the event loop's."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(program())
    else:
        uvloop.run(program())


def leave_signals_to_the_supervisor() -> None:
    """What a terminal or a service manager sends to all processes is the supervisor's to see to."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def name_process(name: str) -> None:
    """Each record of the log says which process wrote it."""
    make = logging.LogRecord

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        made.by = name
        return made

    logging.setLogRecordFactory(record)


async def line_to_supervisor(
    end: socket.socket, received: Callable[[Message], None], lost: Callable[[], None]
) -> Channel:
    """The process's end of it. lost: the supervisor is gone."""
    channel = Channel(received, lost)
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=end)
    return channel
