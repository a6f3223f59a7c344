"""The addresses at which clients are served."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from proxy.address import told
from proxy.http.connection import Connection, Handler, Limits
from proxy.limits import LISTEN_BACKLOG

__all__ = ["HttpServer", "Limits", "port_of"]

# How long the end waits for requests that have been told to end.
_CLOSE_SECONDS: Final = 0.5


class HttpServer:
    """Gives each request of each client to `handler`, at any number of addresses; cancels it when the client leaves.

    closing: no connection outlives the request that it is answering.
    """

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler, self.limits = handler, limits
        self.closing = self._closed = False
        self._connections: set[Connection] = set()
        self._servers: set[asyncio.Server] = set()
        self._emptied: asyncio.Future[None] | None = None

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Serve at this address. OSError, whose strerror is a reason for people."""
        try:
            return await self._serve(host=host, port=port)
        except OSError as error:
            raise told(error) from None

    async def listen_on(self, bound: socket.socket) -> asyncio.Server:
        """Serve at the address of this socket, which is closed in the end."""
        return await self._serve(sock=bound)

    async def _serve(self, **where: Any) -> asyncio.Server:
        ports: list[int] = []
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self, ports[0]), backlog=LISTEN_BACKLOG, start_serving=False, **where
        )
        ports.append(port_of(server))  # asked once, and not for each request
        try:
            await server.start_serving()
        except OSError:
            server.close()
            raise
        self._servers.add(server)
        return server

    def leave(self, server: asyncio.Server) -> None:
        """Serve no longer at this address; who is connected stays so."""
        self._servers.discard(server)
        server.close()

    def retire(self) -> None:
        """Each connection ends with its next answer, and at once where it has given one and heard nothing since."""
        self.closing = True
        for connection in tuple(self._connections):
            connection.retire()

    async def emptied(self, seconds: float) -> None:
        """Wait until no connection is left, for so long at most."""
        if not self._connections:
            return
        if self._emptied is None or self._emptied.done():
            self._emptied = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._emptied}, timeout=seconds)

    async def close(self) -> None:
        """End everything: what is being answered has half a second to finish."""
        self.closing = self._closed = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in tuple(self._connections):
            connection.shut()
        await self.emptied(_CLOSE_SECONDS)
        for connection in tuple(self._connections):
            connection.abort()
        await self.emptied(_CLOSE_SECONDS)

    # Called by connections

    def made(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._closed:  # it was accepted before, and would outlive the server
            connection.abort()

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)


def port_of(server: asyncio.Server) -> int:
    """The port at which it listens, as chosen by the system where it was to be any."""
    return int(server.sockets[0].getsockname()[1])
