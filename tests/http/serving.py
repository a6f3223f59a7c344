"""The production server on a loopback port, with a handler that a test controls, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from proxy.address import Address
from proxy.http import BodyError, Handler, HttpServer, Limits, Request, Response, port_of
from proxy.http.connection import Connection as Served
from tests.gateway.client import Connection, connected


class Serving:
    """A running server, and the address at which it listens."""

    def __init__(self, server: HttpServer, address: Address) -> None:
        self.server = server
        self.address = address

    @property
    def connections(self) -> set[Served]:
        """Those that the server knows."""
        return self.server._connections

    async def until(self, count: int) -> None:
        """Wait until so many connections are open."""
        await eventually(lambda: len(self.connections) == count, f"{count} connections expected")

    def open(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        return connected(self.address)


async def eventually(holds: Callable[[], bool], told: str, seconds: float = 5.0) -> None:
    """Wait until it holds; AssertionError where it does not in time."""
    for _ in range(int(seconds / 0.002)):
        if holds():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"still not so after {seconds} s: {told}")


@contextlib.asynccontextmanager
async def served(handler: Handler, idle_seconds: float = 30.0) -> AsyncIterator[Serving]:
    """Afterwards no connection, task or timer may be left, and nothing may have failed in a callback."""
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    server = HttpServer(handler, Limits(idle_seconds))
    listening = await server.listen("127.0.0.1", 0)
    try:
        yield Serving(server, Address("127.0.0.1", port_of(listening)))
    finally:
        await server.close()
    assert server._connections == set()
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, f"tasks are left: {asyncio.all_tasks()}")
    assert timers() == []
    assert failures == []


def timers() -> list[asyncio.TimerHandle]:
    """Those of connections that wait in asyncio's own loop; uvloop shows none."""
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
    return [handle for handle in scheduled if not handle.cancelled() and "_on_timer" in repr(handle)]


async def whole_body(request: Request) -> bytes:
    """All of a request's body."""
    parts: list[bytes] = []
    while more := await request.parts():
        parts += more
    return b"".join(parts)


async def echo(request: Request) -> Response:
    """Method, target and body of the request."""
    try:
        body = await whole_body(request)
    except BodyError as error:
        return Response(400, f"{error}\n".encode())
    return Response(200, f"{request.method} {request.path}?{request.query_string} ".encode() + body)


class Held:
    """A handler whose every request waits until it is let go; `begun`, `ended`, `cancelled` count them."""

    def __init__(self) -> None:
        self.begun = self.ended = self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        return Response(200, request.path.encode())
