"""The floor: bytes from one socket to the other in the event loop's own callback, and nothing else in Python.

No request is read, no frame is looked at, nothing is counted: what this costs for a chunk no gateway on this event loop
can be below. Run as `python -m benchmarks.byte_relay UPSTREAM_URL`; prints `listening HOST:PORT`.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from benchmarks.loop import run_loop

if TYPE_CHECKING:
    from collections.abc import Sequence


class End(asyncio.Protocol):
    """One end of a connection; `other` has what comes, as soon as there is one."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def join(self, other: asyncio.Transport) -> None:
        """Pass on to this transport from now on, and what came before."""
        self.other = other
        for data in self._early:
            other.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)
        else:
            self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Client(End):
    """A client's end, which connects to the worker."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._host, self._port = host, port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        made, worker = await asyncio.get_running_loop().create_connection(End, self._host, self._port)
        if self.transport is None or self.transport.is_closing():
            made.close()
            return
        worker.join(self.transport)
        self.join(made)


async def serve(upstream: str) -> None:
    where = urlsplit(upstream)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    server = await asyncio.get_running_loop().create_server(lambda: Client(host, port), "127.0.0.1", 0, backlog=4096)
    print(f"listening 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream")
    run_loop(serve(parser.parse_args(arguments).upstream))


if __name__ == "__main__":
    main()
