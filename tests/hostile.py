"""Scripted HTTP peers on loopback, for tests of a client: byte-exact answers, and every kind of bad behaviour.

    async with peer(answer(response(b"hello")), reset_after(b"HTTP/1.1 200")) as worker:
        ...  # talk to worker.url; worker.requests holds what came

The first connection runs the first script, the second the second one, and further ones the last. A script gets a
`Visit` and may do anything with it; when it returns, the connection is closed in order. A client that leaves ends it
silently; any other exception in a script fails the test when the context ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Request:
    """One request as it came; header names in lower case, `raw` is the head and the body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    raw: bytes
    connection: int


@dataclass
class Peer:
    """A running peer. `accepted` counts connections so far, `open` those not closed by either side, `sent` bytes that
    left the scripts (also those still in buffers of the system)."""

    host: str
    port: int
    tls: bool = False
    requests: list[Request] = field(default_factory=list)
    accepted: int = 0
    open: int = 0
    sent: int = 0

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    async def until(self, condition: Callable[[Peer], bool], seconds: float = 5) -> None:
        """Wait until the condition holds; AssertionError when it does not in time."""
        for _ in range(int(seconds / 0.005)):
            if condition(self):
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"still not so after {seconds} s: {self}")


class Visit:
    """One accepted connection, as its script sees it."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = peer.accepted
        self._peer = peer
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request:
        """Read one request (its body by content-length); asyncio.IncompleteReadError when the client leaves instead."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method, path, headers, body, head + body, self.number)
        self._peer.requests.append(request)
        return request

    async def read(self, size: int) -> bytes:
        """Read exactly so many bytes, without noting a request."""
        return await self._reader.readexactly(size)

    async def send(self, *pieces: bytes) -> None:
        """Each piece goes to the system by itself, as far as the client takes it."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            self._peer.sent += len(piece)
            await asyncio.sleep(0)

    async def drip(self, data: bytes, size: int = 1, pause: float = 0) -> None:
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(pause)

    def reset(self) -> None:
        """Close so that the client gets a TCP reset."""
        connection = self._writer.get_extra_info("socket")
        if connection is None:
            return  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def half_close(self) -> None:
        """Send an end of file and keep the connection."""
        self._writer.write_eof()

    async def gone(self) -> None:
        """Wait until the client has closed its side."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass


Script: TypeAlias = Callable[[Visit], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(*scripts: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A listening peer that runs the scripts; see the module's docstring."""
    tasks: set[asyncio.Task[None]] = set()
    faults: list[Exception] = []
    this = Peer(host=host, port=0, tls=tls is not None)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        script = scripts[min(this.accepted, len(scripts) - 1)]
        this.accepted += 1
        this.open += 1
        try:
            await script(Visit(this, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        except Exception as error:
            faults.append(error)
        finally:
            this.open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0, ssl=tls, limit=1 << 20)
    this.port = server.sockets[0].getsockname()[1]
    try:
        yield this
    finally:
        for _ in range(10):  # a connection accepted just now gets its task some loop iterations later
            await asyncio.sleep(0)
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=5)
        await server.wait_closed()
    if faults:
        raise faults[0]


# Scripts


def answer(*pieces: bytes) -> Script:
    """Every request on the connection gets these bytes, piece by piece."""

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            await visit.send(*pieces)

    return script


def dripping(data: bytes, size: int = 1, pause: float = 0) -> Script:
    """The answer comes a few bytes at a time, `pause` seconds apart; then the connection stays open."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.drip(data, size, pause)
        await visit.gone()

    return script


def silent_after(data: bytes = b"") -> Script:
    """Answer with these bytes and then never again, with the connection open; without bytes: never answer."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(data)
        await visit.gone()

    return script


def close_after(data: bytes = b"") -> Script:
    """Answer one request with these bytes, then close in order."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(data)

    return script


def reset_after(data: bytes = b"", pause: float = 0.05) -> Script:
    """Answer one request with these bytes, then reset the connection; the pause lets the bytes arrive before that."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(data)
        await asyncio.sleep(pause if data else 0)
        visit.reset()

    return script


def flood(head: bytes, piece: bytes) -> Script:
    """Send the head, then the same piece for ever, as fast as the client takes it."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(head)
        while True:
            await visit.send(piece)

    return script


async def hang_up(visit: Visit) -> None:
    """Close as soon as the connection is accepted."""


async def never_read(visit: Visit) -> None:
    """Accept, and neither read nor write."""
    await asyncio.sleep(3600)


# Answers as bytes


def response(body: bytes = b"", status: str = "200 OK", headers: Iterable[str] = ()) -> bytes:
    """A whole response with a content-length; `headers` are lines such as `X-A: b`."""
    return head(status, [f"Content-Length: {len(body)}", *headers]) + body


def head(status: str = "200 OK", headers: Iterable[str] = (), version: str = "1.1") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status}", *headers, "", ""]).encode("latin-1")


def chunked(pieces: Iterable[bytes], extension: str = "", trailers: Iterable[str] = (), *, end: bool = True) -> bytes:
    """A whole chunked response, one chunk per piece; `end=False` leaves the terminating chunk out."""
    body = b"".join(f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    last = "".join(f"{line}\r\n" for line in trailers)
    return head(headers=["Transfer-Encoding: chunked"]) + body + (f"0\r\n{last}\r\n".encode() if end else b"")


# Addresses where nobody answers


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A loopback port that refuses connections and that no other program can take meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@contextlib.contextmanager
def unconnectable_port() -> Iterator[int]:
    """A loopback port where connecting never ends: its queue of new connections is full (Linux drops the rest)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
