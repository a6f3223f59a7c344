"""One connection to a worker: idle in its pool, or carrying one exchange.

This package is a small HTTP/1.1 client of our own because a stream is pushed here: body bytes go from the socket
callback straight into the caller's sink, with no task switch and no queue per chunk. aiohttp's client can only be
pulled from: it stores what it reads and wakes a task for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from .target import Target

if TYPE_CHECKING:
    from .exchange import Exchange


class Owner(Protocol):
    """What a connection tells its pool."""

    def lost(self, connection: Connection) -> None: ...

    def keep(self, connection: Connection) -> bool:
        """Take an idle connection; False when there is no room for it."""


class Connection(asyncio.Protocol):
    """Moves bytes between a transport and the exchange it carries now.

    `unsolicited` says that the peer sent bytes while no request was under way; such a connection is closed at once.
    """

    __slots__ = ("_aborted", "_owner", "_paused", "_transport", "exchange", "idle_until", "target", "unsolicited")

    def __init__(self, owner: Owner, target: Target) -> None:
        self.target = target
        self.exchange: Exchange | None = None
        self.idle_until: float | None = None  # in loop time, set by the pool while it has it
        self.unsolicited = False
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._aborted = False

    @property
    def usable(self) -> bool:
        """A request may be written now."""
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._transport is None:
            raise RuntimeError("the connection is written to before it is made")
        self._transport.write(data)

    def pause(self) -> None:
        if self.usable and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.usable and self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def release(self, *, reusable: bool) -> None:
        """The exchange is over: back into the pool, or closed.

        A request that was answered before all of it was sent leaves the connection in the middle of a message.
        """
        self.exchange = None
        sent = self._transport is not None and self._transport.get_write_buffer_size() == 0
        if reusable and sent and self.usable and self._owner.keep(self):
            self.resume()
        else:
            self.abort()

    def abort(self) -> None:
        """Close without waiting for anything; the peer sees it at once."""
        self.exchange = None
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._aborted:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.receive(data)
        else:
            self.unsolicited = True
            self.abort()

    def eof_received(self) -> None:
        if self.exchange is not None:
            self.exchange.peer_closed(None, eof=True)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        if self.exchange is not None:
            self.exchange.peer_closed(exc, eof=False)
        self.abort()  # a lost TLS transport of Python 3.10 does not say by itself that it is closed
