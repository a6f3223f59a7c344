"""The way to the client: what is written to it, and what happens when it reads slowly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from proxy.http import Request
from proxy.limits import CLIENT_BUFFER_BYTES
from proxy.upstream import Exchange

# What is longer is not copied once more to be put between the ends of its chunk.
_LONG: Final = 4096


class ClientOutput:
    """The body of one stream.

    Until `attach` gives it the client's connection, output is kept; `begun` is set with the first of it. Then each read
    of the upstream makes one write. When more than `CLIENT_BUFFER_BYTES` wait in the client's socket the upstream
    is paused until they have gone, so a slow client costs a bounded amount of memory.
    """

    def __init__(self) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_bytes = 0
        self._exchange: Exchange | None = None
        self._kept: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._chunked = False
        self._request: Request | None = None
        self._draining: asyncio.Task[None] | None = None

    def send(self, data: bytes) -> None:
        """Write, or keep until there is a writer."""
        if not data:
            return
        self.sent_bytes += len(data)
        transport = self._transport
        if transport is None:
            self._kept.append(data)
            if not self.begun.done():
                self.begun.set_result(None)
            return
        if transport.is_closing():
            return  # the client has left; its handler is being cancelled right now
        # Framed here, because a coroutine for each chunk would cost as much as the rewriting.
        if not self._chunked:
            transport.write(data)
        elif len(data) < _LONG:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        if transport.get_write_buffer_size() > CLIENT_BUFFER_BYTES and self._draining is None:
            self._wait()

    def attach(self, request: Request) -> None:
        """Write what was kept, and from now on at once, to the client of this request, whose response is begun."""
        self._request, self._transport, self._chunked = request, request.connection.transport, request.chunked
        kept, self._kept = b"".join(self._kept), []
        self.sent_bytes -= len(kept)
        self.send(kept)

    def follow(self, exchange: Exchange) -> None:
        """The exchange whose worker has to wait when the client does not read."""
        self._exchange = exchange
        if self._draining is not None:
            exchange.pause()

    async def drained(self) -> None:
        """Wait until a paused client has taken what waits."""
        if self._draining is not None:
            await self._draining

    def abandon(self) -> None:
        """The client is gone: wait for nothing."""
        if self._draining is not None:
            self._draining.cancel()

    def _wait(self) -> None:
        """Stop the worker until the client has read."""
        if self._exchange is not None:
            self._exchange.pause()  # now: a task's turn comes only after everything that waits in the socket
        self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        try:
            # A client that leaves meanwhile ends its handler, which ends everything else.
            with contextlib.suppress(ConnectionError):
                if self._request is not None:
                    await self._request.connection.flushed()
        finally:
            self._draining = None
            if self._exchange is not None:
                self._exchange.resume()
