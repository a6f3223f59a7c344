"""Connections to workers, reused while a worker keeps them open."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from proxy.waiting import first_of

from .connection import Connection
from .contract import Sink, Timeouts, UpstreamError
from .exchange import Exchange
from .request_bytes import encode_request
from .response_reader import ResponseReader
from .target import Target

# A worker that closes a kept connection later than this (seconds) after the request had the request, and may have acted
# on it; one that had closed the connection before says so at once.
_STALE_WITHIN: Final = 0.05
# uvloop's timers have milliseconds.
_SWEEP_SLACK: Final = 0.002


class _Order(NamedTuple):
    """One call of `open`, for a first and perhaps a second attempt; `deadline` in loop time."""

    method: str
    request: bytes
    timeouts: Timeouts
    deadline: float
    sink: Sink


class UpstreamPool:
    """Opens exchanges with any number of workers; belongs to one event loop.

    Counters, for metrics: `opened` connections made so far, `reused` requests sent on a pooled connection,
    `retried_stale` requests sent a second time, `open_now` and `idle_now` connections at this moment.
    Redirects are not followed and no proxy is taken from the environment.
    """

    def __init__(
        self,
        *,
        max_idle_per_target: int = 128,
        max_idle: int = 1024,
        idle_seconds: float = 4,
        max_head_bytes: int = 65536,
        max_headers: int = 100,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`idle_seconds` must stay below the 5 s after which uvicorn closes an idle connection.

        `max_head_bytes` and `max_headers` bound one response head. Without `ssl_context` the default one is used, which
        verifies the certificate and the host name.
        """
        self.opened = 0
        self.reused = 0
        self.retried_stale = 0
        self.open_now = 0
        self.idle_now = 0
        self._max_idle_per_target = max_idle_per_target
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._ssl_context = ssl_context
        # By target, and there the last one used at the end.
        self._idle: dict[tuple[str, int, bool], dict[Connection, None]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[tuple[asyncio.Transport, Connection]]] = set()
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    async def open(
        self,
        target: Target,
        *,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        timeouts: Timeouts,
        sink: Sink,
    ) -> Exchange:
        """Send a request; returns once the head of the response has been given to `sink.on_head`.

        Body bytes of the read that brought the head, and of at most one more, may reach the sink before this returns.
        Raises UpstreamError for what fails before the head (the sink then hears nothing), ValueError for a request that
        cannot be written (see `encode_request`). Cancelling the call closes the connection.
        A request on a pooled connection that the worker closes at once, without one byte of an answer, is sent again,
        once, on a fresh connection.
        """
        request = encode_request(target, method, path, headers, body)
        deadline = asyncio.get_running_loop().time() + timeouts.total - timeouts.spent
        order = _Order(method, request, timeouts, deadline, sink)
        connection = self._take(target)
        if connection is not None:
            self.reused += 1
            written = time.monotonic()
            try:
                return await self._send(connection, order)
            except UpstreamError as error:
                late = time.monotonic() - written > _STALE_WITHIN
                if error.begun or late or error.kind != "reset" or self._closed:
                    raise
            self.retried_stale += 1
        return await self._send(await self._connect(target, timeouts, deadline), order)

    async def close(self) -> None:
        """Close every connection and wait until they are gone; exchanges under way fail with kind `reset`."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        connecting = list(self._connecting)
        for task in connecting:
            task.cancel()
        if connecting:
            await asyncio.wait(connecting)
        for connection in list(self._connections):
            if connection.exchange is not None:
                connection.exchange.fail("reset", f"{connection.target.address}: the gateway closed its connections")
            connection.abort()
        if self._connections:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    async def _send(self, connection: Connection, order: _Order) -> Exchange:
        if not connection.usable:
            connection.abort()
            if connection.unsolicited:
                text = f"{connection.target.address} sent bytes before it was asked anything"
                raise UpstreamError("protocol", text, begun=True)
            text = f"{connection.target.address} closed the connection before the request"
            raise UpstreamError("reset", text, begun=False)
        reader = ResponseReader(order.method, max_head_bytes=self._max_head_bytes, max_headers=self._max_headers)
        exchange = Exchange(connection, reader, order.sink, order.timeouts, order.deadline)
        exchange.start(order.request)
        try:
            error = await exchange.opened
        except BaseException:
            exchange.close()
            raise
        if error is not None:
            raise error
        return exchange

    async def _connect(self, target: Target, timeouts: Timeouts, deadline: float) -> Connection:
        if self._closed:
            raise self._no_connection(target, timeouts, total_first=False)
        loop = asyncio.get_running_loop()
        connection = Connection(self, target)
        tls = self._tls() if target.tls else None
        attempt = loop.create_task(loop.create_connection(lambda: connection, target.host, target.port, ssl=tls))
        self._connecting.add(attempt)
        attempt.add_done_callback(self._connect_done)
        left = deadline - loop.time()
        try:
            # Unlike wait_for, this neither loses a cancellation nor a connection made in the same moment.
            await first_of(attempt, seconds=max(0.0, min(timeouts.connect, left)))
        except BaseException:
            attempt.cancel()
            connection.abort()
            raise
        if not attempt.done() or self._closed:
            attempt.cancel()
            connection.abort()
            raise self._no_connection(target, timeouts, total_first=left < timeouts.connect)
        failure = attempt.exception()
        if isinstance(failure, OSError):
            raise UpstreamError("refused", f"no connection to {target.address}: {failure}", begun=False) from failure
        if failure is not None:
            raise failure
        if connection.usable:
            # Not in connection_made: uvloop does not call connection_lost when the attempt is cancelled after that.
            self.opened += 1
            self.open_now += 1
            self._connections.add(connection)
        return connection

    def _no_connection(self, target: Target, timeouts: Timeouts, *, total_first: bool) -> UpstreamError:
        if self._closed:
            return UpstreamError("refused", f"no connection to {target.address}: the gateway is closing", begun=False)
        if total_first:
            text = f"total timeout: the exchange with {target.address} was not over within {timeouts.whole}"
            return UpstreamError("total_timeout", text, begun=False)
        text = f"connect timeout: no connection to {target.address} within {timeouts.connect:g} s"
        return UpstreamError("connect_timeout", text, begun=False)

    def _connect_done(self, attempt: asyncio.Task[tuple[asyncio.Transport, Connection]]) -> None:
        self._connecting.discard(attempt)
        if not attempt.cancelled():
            # Marks the error as seen; nobody waits any more when it comes after the time limit.
            attempt.exception()

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context

    # Idle connections

    def _take(self, target: Target) -> Connection | None:
        key = (target.host, target.port, target.tls)
        while key in self._idle:
            connection = next(reversed(self._idle[key]))
            self._forget(connection)
            if connection.usable:
                return connection
        return None

    def _forget(self, connection: Connection) -> None:
        """Take a connection out of the idle ones, if it is there."""
        if connection.idle_until is None:
            return
        connection.idle_until = None
        key = connection.target.host, connection.target.port, connection.target.tls
        idle = self._idle[key]
        del idle[connection]
        if not idle:
            del self._idle[key]
        self.idle_now -= 1

    def _sweep(self) -> None:
        """Close what was idle for long enough. One timer for all costs less than one for each."""
        loop = asyncio.get_running_loop()
        now, following = loop.time(), math.inf
        self._sweep_timer = None
        for idle in [*self._idle.values()]:
            while idle:
                oldest = next(iter(idle))
                until = oldest.idle_until or now
                if until > now + _SWEEP_SLACK:
                    following = min(following, until)
                    break
                self._forget(oldest)
                oldest.abort()
        if following < math.inf:
            self._sweep_timer = loop.call_at(following, self._sweep)

    # Called by connections

    def lost(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self.open_now -= 1
        self._forget(connection)
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def keep(self, connection: Connection) -> bool:
        key = (connection.target.host, connection.target.port, connection.target.tls)
        idle = self._idle.get(key, {})
        if self._closed or self.idle_now >= self._max_idle or len(idle) >= self._max_idle_per_target:
            return False
        self._idle[key] = idle
        idle[connection] = None
        self.idle_now += 1
        loop = asyncio.get_running_loop()
        connection.idle_until = loop.time() + self._idle_seconds
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_at(connection.idle_until, self._sweep)
        return True
