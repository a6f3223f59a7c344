"""The demonstration fleet as a process of its own, so that it outlives those of the gateway."""

from __future__ import annotations

import asyncio
import socket

from proxy.backends.control import end_tasks
from proxy.demo.worker import DemoWorker
from proxy.processes.channel import Channel, Message
from proxy.processes.child import keep_speaking, log_failure, open_line
from proxy.processes.sockets import Listeners


async def run_demo(worker: DemoWorker, listeners: Listeners, end: socket.socket) -> None:
    """Answer until the supervisor says that it is to end, or is gone."""
    over = asyncio.Event()

    def told(message: Message) -> None:
        if message[0] in ("end", "leave"):
            over.set()

    line = Channel(told, over.set)
    await open_line(line, end)
    await worker.start(listener=listeners[0])
    line.send("ready")
    speaking = asyncio.create_task(keep_speaking(line), name="speaking")
    speaking.add_done_callback(log_failure)
    await over.wait()
    await end_tasks([speaking])
    await worker.stop()
    line.close()
