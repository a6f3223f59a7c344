"""One client: its requests one after the other, each with a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol, cast

from proxy.http.head import Head, IllegalRequest, RequestReader
from proxy.http.request import Request
from proxy.http.response import Response, Streamed, has_no_body, head_bytes
from proxy.limits import CLIENT_STALL_SECONDS

log = logging.getLogger("proxy.http")

Handler = Callable[[Request], Awaitable["Response | Streamed"]]

# Requests of one client that wait for the answer to its first; nobody who means well sends more ahead. Their heads may
# have a megabyte together, as much as a body that nobody reads yet.
PIPELINE_MAX: Final = 16
# How long, and how much of, what a client is still sending is read and thrown away when it has its answer already: to
# close at once would take the answer from a client that reads only when it has sent everything.
LINGER_SECONDS: Final = 10.0
LINGER_BYTES: Final = 256 * 1024 * 1024
_FAILED: Final = b"the gateway failed on this request; its log has the reason\n"
# With less than this in the socket's buffer nobody waits for the client: a loop's own low-water mark.
FLUSHED: Final = 16_384


class Limits(NamedTuple):
    """idle_seconds: how long a client may take to its next request, and within the head of one."""

    idle_seconds: float


class Owner(Protocol):
    """What a connection tells its server."""

    handler: Handler
    limits: Limits
    closing: bool

    def made(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Moves bytes between a transport and the request that is answered now.

    transport: to write a stream's pieces to. port: at which the client came. lost: the client is gone, and the task of
    its request is cancelled.
    """

    __slots__ = (
        "_deaf", "_drain", "_idle_since", "_keep", "_lingering", "_loop", "_owner", "_paused", "_queue",
        "_reader", "_reading", "_refusal", "_task", "_thrown", "_timer", "lost", "port", "transport",
    )  # fmt: skip

    def __init__(self, owner: Owner, port: int) -> None:
        self.port = port
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(self)
        self._queue: deque[tuple[Request, bool]] = deque()
        self._reading: Request | None = None  # its body is not complete
        self._keep = False  # what the client of the request being answered wants of the connection
        # Status and reason, to be answered behind what came before. The error itself would hold its frames.
        self._refusal: tuple[int, str] | None = None
        self._deaf = False  # what comes is thrown away: no request of it is answered
        self._lingering = False  # the rest of an answered request's body is thrown away
        self._thrown = 0  # bytes
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._drain: asyncio.Future[None] | None = None
        self._paused = False  # the client's sending, by a body that is not read
        self.lost = False
        self.transport: asyncio.Transport

    def end(self, name: str) -> tuple[str, int] | None:
        """Address and port of one end, "peername" or "sockname"."""
        found = self.transport.get_extra_info(name)
        return (found[0], found[1]) if isinstance(found, tuple) else None

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._owner.made(self)
        self._idle_since = self._loop.time()
        self._timer = self._loop.call_at(self._idle_since + self._owner.limits.idle_seconds, self._on_timer)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._throw_away(data)
            return
        try:
            self._reader.feed(data)
        except IllegalRequest as error:
            self._refuse(error)
        if self._task is None and self._queue:
            self._next()
        elif self._owner.closing:
            self.retire()

    def eof_received(self) -> None:
        """A client that sends no more has left. What it was answered it may still read."""
        if self._task is not None:
            self.transport.abort()  # or its worker would go on until it has read what waits for it

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self._deaf = True
        self._owner.lost(self)
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        if self._reading is not None:
            self._reading.wake()
            self._reading = None
        self._reader.discard()

    def pause_writing(self) -> None:
        if self._drain is None:
            self._drain = self._loop.create_future()

    def resume_writing(self) -> None:
        drain, self._drain = self._drain, None
        if drain is not None and not drain.done():
            drain.set_result(None)

    # What was read, told by the reader

    def head_read(self, head: Head) -> None:
        if len(self._queue) >= PIPELINE_MAX:
            raise IllegalRequest(400, f"more than {PIPELINE_MAX} requests were sent before the first was answered")
        self._reading = request = Request(self, head)
        self._queue.append((request, head.keep))

    def body_read(self, data: bytes) -> None:
        request = self._reading
        if self._lingering:
            self._throw_away(data)
        elif request is not None and request.take(data):
            self._pause()

    def end_read(self) -> None:
        request, self._reading = self._reading, None
        if request is not None:
            request.end()
        if self._lingering:
            self._lingering = False
            self._idle_since = self._loop.time()

    # What a request asks for

    def resume_body(self) -> None:
        """There is room for more of the body."""
        self._resume()

    def go_on(self) -> None:
        """The client waits for leave to send its body."""
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def begin_stream(
        self, request: Request, status: int, content_type: str, headers: Mapping[str, str] | None
    ) -> Streamed:
        """ConnectionResetError where the client is gone. For HEAD the response ends here, and so does the request: its
        task is cancelled.
        """
        if self.lost:
            raise ConnectionResetError("the client left")
        if request.chunked and request.method != "HEAD":
            rest = "Transfer-Encoding: chunked\r\n" + ("" if self._keeps(request) else "Connection: close\r\n")
        else:
            self._keep, rest = False, "Connection: close\r\n"
        self.transport.write(head_bytes(status, content_type, headers, rest))
        if request.method == "HEAD":
            self._finish()
        return Streamed(status)

    def end_stream(self, request: Request) -> None:
        if request.chunked and not self.transport.is_closing():
            self.transport.write(b"0\r\n\r\n")

    async def flushed(self) -> None:
        """Wait until little is left for the client to read. ConnectionResetError where it is gone; a client
        that takes nothing for `CLIENT_STALL_SECONDS` is cut.
        """
        transport = self.transport
        if transport.is_closing():  # nothing is written any more: who goes on writing would never wait
            raise ConnectionResetError("the client left")
        while (drain := self._drain) is not None and not self.lost:
            waiting = transport.get_write_buffer_size()
            await asyncio.wait({drain}, timeout=CLIENT_STALL_SECONDS)
            left = transport.get_write_buffer_size()
            if not drain.done() and left >= waiting:
                transport.abort()
                log.info("a client took nothing for %g s of %d bytes that wait for it", CLIENT_STALL_SECONDS, left)
                raise ConnectionResetError("the client does not read")

    # The turn of requests

    def _next(self) -> None:
        request, self._keep = self._queue.popleft()
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        broken = True
        try:
            response = await self._owner.handler(request)
            if isinstance(response, Response):
                self._write(request, response)
                if self.transport.get_write_buffer_size() > FLUSHED:
                    await self.flushed()
            broken = False
        except asyncio.CancelledError:
            if not self.lost:
                raise
        except Exception as error:
            if not (isinstance(error, ConnectionError) and self.transport.is_closing()):
                log.exception("the server failed on a request")
                if request.streamed is None and not self.lost:
                    self._write(request, Response(500, _FAILED))
                    broken = False
        finally:
            self._answered(request, broken=broken)

    def _write(self, request: Request, response: Response) -> None:
        if self.lost:
            raise ConnectionResetError("the client left")
        if response.close:
            self._keep = False
        bodiless = has_no_body(response.status)
        rest = "" if bodiless else f"Content-Length: {len(response.body)}\r\n"
        if not self._keeps(request):
            rest += "Connection: close\r\n"
        elif not request.chunked:
            rest += "Connection: keep-alive\r\n"
        try:
            head = head_bytes(response.status, response.content_type, response.headers, rest)
        except ValueError as error:
            log.error("a response to %s %s was not sent: %s", request.method, request.path[:80], error)
            self._write(request, Response(500, _FAILED))
            return
        self.transport.write(head if bodiless or request.method == "HEAD" else head + response.body)

    def _keeps(self, request: Request) -> bool:
        """Whether the connection goes on after this request."""
        if self._keep and (self._owner.closing or not (request.complete or request.ends_soon(LINGER_BYTES))):
            self._keep = False
        return self._keep

    def _answered(self, request: Request, *, broken: bool) -> None:
        self._task = None
        if self.lost:
            return
        if broken:
            self.transport.abort()  # what was begun must not look complete
        elif not request.complete:
            self._linger(request)
        elif not self._keep:
            self._finish()
        else:
            self._resume()
            self._idle_since = self._loop.time()
            if self._queue:
                self._next()
            elif self._refusal is not None:
                self._answer_refusal(*self._refusal)
            elif self._owner.closing:
                self.retire()

    def _linger(self, request: Request) -> None:
        """Read the rest of its body, and throw it away."""
        if self._reading is not request or not self._keep:
            self._hang_up()
            return
        self._lingering = True
        self._thrown = 0
        self._set_timer(self._loop.time() + LINGER_SECONDS)
        self._resume()

    def _throw_away(self, data: bytes) -> None:
        self._thrown += len(data)
        if self._thrown > LINGER_BYTES:
            self.transport.abort()

    def _hang_up(self) -> None:
        """Close when everything is written and the client, which may still be sending, has closed or takes too long."""
        self._deaf, self._lingering, self._thrown = True, False, 0
        try:
            self.transport.write_eof()
        except OSError:  # it is gone already
            self.transport.abort()
        self._set_timer(self._loop.time() + LINGER_SECONDS)
        self._resume()

    def _finish(self) -> None:
        """Close when everything is written."""
        self._deaf = True
        self.transport.close()
        # A client that reads nothing more would keep it open.
        self._set_timer(self._loop.time() + CLIENT_STALL_SECONDS)

    def _refuse(self, error: IllegalRequest) -> None:
        """Answer what is no request, behind those that came before it; then the connection ends."""
        log.info("a request that is not legal HTTP was refused: %d %s", error.status, error)
        self._deaf = True
        reading, self._reading = self._reading, None
        if self._lingering:
            self._hang_up()
        elif reading is not None:
            reading.end(str(error))  # its own answer says so
        elif self._task is None and not self._queue:
            self._answer_refusal(error.status, str(error))
        else:
            self._refusal = error.status, str(error)

    def _answer_refusal(self, status: int, reason: str) -> None:
        body = f"{reason}\n".encode()
        rest = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        self.transport.write(head_bytes(status, "text/plain; charset=utf-8", None, rest) + body)
        self._hang_up()

    # The server's

    def retire(self) -> None:
        """The server closes soon: at once where the last request is answered and nothing of another has come."""
        is_idle = self._task is None and not self._lingering and not self._deaf and self._reader.is_between
        if self._keep and is_idle:
            self._finish()

    def shut(self) -> None:
        """The server closes: at once where nothing is being answered, else after it."""
        self._queue.clear()
        self._deaf, self._keep = True, False
        if self._task is None:
            self._finish()

    def abort(self) -> None:
        """End it whatever is under way."""
        self.transport.abort()

    # Time, and the client's sending

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self.lost and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        """The connection is idle for too long, or does not end."""
        self._timer = None
        if self.transport.is_closing() or self._lingering or (self._deaf and self._task is None):
            self.transport.abort()
            return
        seconds = self._owner.limits.idle_seconds
        due = (self._loop.time() if self._task is not None else self._idle_since) + seconds
        if due - self._loop.time() > 0.001:
            self._timer = self._loop.call_at(due, self._on_timer)
        else:
            self._finish()
