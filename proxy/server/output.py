"""The way to the client: what is written to it, and what happens when it reads slowly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from aiohttp import web
from aiohttp.http import StreamWriter

from proxy.limits import CLIENT_BUFFER_BYTES, CLIENT_STALL_SECONDS
from proxy.upstream import Exchange

log = logging.getLogger(__name__)

# With less than this in the socket's buffer nobody waits for the client: a loop's own low-water mark.
FLUSHED: Final = 16_384


class ClientOutput:
    """The body of one stream.

    Until `attach` gives it the client's writer, output is kept; `begun` is set with the first of it. Afterwards each
    read of the upstream makes one write. When more than `CLIENT_BUFFER_BYTES` wait in the client's socket the upstream
    is paused until they have gone, so a slow client costs a bounded amount of memory.
    """

    def __init__(self) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_bytes = 0
        self._exchange: Exchange | None = None
        self._kept: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._chunked = False
        self._drain: Callable[[], Coroutine[None, None, None]] | None = None
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
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if transport.get_write_buffer_size() > CLIENT_BUFFER_BYTES and self._draining is None:
            self._wait(transport)

    def attach(self, writer: StreamWriter) -> None:
        """Write what was kept, and from now on at once."""
        self._transport, self._chunked, self._drain = writer.transport, writer.chunked, writer.drain
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

    def _wait(self, transport: asyncio.Transport) -> None:
        """Stop the worker until the client has read."""
        if self._exchange is not None:
            self._exchange.pause()  # now: a task's turn comes only after everything that waits in the socket
        self._draining = asyncio.ensure_future(self._drained(transport))

    async def _drained(self, transport: asyncio.Transport) -> None:
        try:
            # A client that leaves meanwhile ends its handler, which ends everything else.
            with contextlib.suppress(ConnectionError):
                if self._drain is not None:
                    await while_read(transport, self._drain())
        finally:
            self._draining = None
            if self._exchange is not None:
                self._exchange.resume()


def whole_size(response: web.StreamResponse) -> int:
    """Bytes of a body that is one whole; 0 of a stream."""
    return len(response.body) if isinstance(response, web.Response) and isinstance(response.body, bytes) else 0


async def finish_response(response: web.StreamResponse, request: web.Request) -> None:
    """Send what is left of a response; ConnectionResetError where its client does not take it."""
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        return
    if transport.get_write_buffer_size() + whole_size(response) < FLUSHED:
        await response.write_eof()
    else:
        await while_read(transport, response.write_eof())


async def while_read(transport: asyncio.Transport, work: Coroutine[None, None, None]) -> None:
    """Wait for something that ends when the client has read enough. The connection of a client that reads nothing at
    all for `CLIENT_STALL_SECONDS` is closed: ConnectionResetError.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.sleep(0)  # what it writes at once is what the client must take
        waiting = transport.get_write_buffer_size()
        while not (await asyncio.wait({task}, timeout=CLIENT_STALL_SECONDS))[0]:
            left = transport.get_write_buffer_size()
            if left >= waiting:
                transport.abort()
                log.info("a client took nothing for %g s of %d bytes that wait for it", CLIENT_STALL_SECONDS, left)
                raise ConnectionResetError("the client does not read")
            waiting = left
        task.result()
    finally:
        task.cancel()
