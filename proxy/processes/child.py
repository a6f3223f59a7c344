"""What every process but the supervisor does: it runs an event loop and hears what the supervisor says."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Any, Final

from proxy.processes.channel import Channel
from proxy.telemetry.snapshot import Snapshots

log = logging.getLogger(__name__)

# How much of what a process counted is lost at most when it is killed (seconds).
_COUNT_SECONDS: Final = 1.0


def ignore_signals() -> None:
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


async def keep_counting(line: Channel, snapshots: Snapshots) -> None:
    """Tell the supervisor what was counted, for the case that this process ends without a word; and that it runs."""
    line.send("here")
    while True:
        await asyncio.sleep(_COUNT_SECONDS)
        counted = await snapshots.changed()
        if counted is None:
            line.send("here")
        else:
            line.send("counts", counted.decode())


async def keep_speaking(line: Channel) -> None:
    """Tell the supervisor that this process runs."""
    while True:
        line.send("here")
        await asyncio.sleep(_COUNT_SECONDS)


def log_failure(task: asyncio.Future[Any]) -> None:
    """For a task whose end nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a part of this process has failed", exc_info=error)


async def count(line: Channel, snapshots: Snapshots) -> None:
    """Tell it now, because it was asked for."""
    line.send("counted", (await snapshots.take()).decode())


async def open_line(line: Channel, end: socket.socket) -> None:
    """Connect a channel with the process's end of the line to the supervisor."""
    await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=end)
