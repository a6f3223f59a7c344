"""A client that leaves, in every phase: its request is cancelled at once, and nothing of it stays in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from proxy.http import Request, Response, Streamed
from proxy.http.connection import Connection as Served
from tests.gateway.client import Connection
from tests.http.asks import Ask
from tests.http.serving import Held, Serving, eventually, served, timers, whole_body

HEAD = b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n"
WAYS = pytest.mark.parametrize("way", ["close", "reset", "half-close"])
PIECE = b"x" * 65_536


class Phases(Held):
    """A handler that reads what it is sent before it waits; at /stream it begins a stream, at /flood it writes for
    ever, at /unread it leaves the body where it is.
    """

    async def __call__(self, request: Request) -> Response | Streamed:  # type: ignore[override]
        if request.path == "/unread":
            return await super().__call__(request)
        self.begun += 1
        try:
            await whole_body(request)
            if request.path == "/":
                await self.go.wait()
            response = request.stream(200, "text/plain", {})
            while request.path == "/flood":
                request.connection.transport.write(PIECE)
                await request.connection.flushed()
            await self.go.wait()
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise
        return response


@pytest.fixture
def handler() -> Phases:
    return Phases()


@pytest.fixture
async def serving(handler: Phases) -> AsyncIterator[Serving]:
    async with served(handler) as running:
        yield running


async def leave(connection: Connection, way: str) -> None:
    """The client's end. One that half-closes stays, and reads nothing."""
    if way == "half-close":
        connection.writer.write_eof()
    else:
        await connection.leave(reset=way == "reset")


PHASES: list[tuple[str, bytes, int]] = [
    ("before its request", b"", 0),
    ("within its head", HEAD, 0),
    ("within its body", HEAD + b"\r\n" + PIECE, 1),
    ("before its body, which it was told to send", HEAD + b"Expect: 100-continue\r\n\r\n", 1),
    ("while it waits", Ask().written(), 1),
    ("while another of its requests waits", Ask().written() * 3, 1),
    ("while another waits and the last is not complete", Ask().written() + HEAD + b"\r\nabc", 1),
    ("after an offer", Ask(framing="length", chunks=(b"a",), offers=True).written(), 1),
    ("within its stream", Ask(target="/stream").written(), 1),
    ("within a stream that it does not read", Ask(target="/flood").written(), 1),
    ("within a body that nobody reads", HEAD.replace(b"/", b"/unread", 1) + b"\r\n" + PIECE, 1),
]


@WAYS
@pytest.mark.parametrize(("sent", "begun"), [phase[1:] for phase in PHASES], ids=[phase[0] for phase in PHASES])
async def test_a_client_that_leaves(serving: Serving, handler: Phases, way: str, sent: bytes, begun: int) -> None:
    """What is under way for it is cancelled, what waits is not begun, and its connection is forgotten."""
    connection = await Connection.open(serving.address, receive_buffer=4096)
    await connection.send(sent)
    await serving.until(1)
    await eventually(lambda: handler.begun == begun, "not begun")
    if b"/flood" in sent:
        (served_one,) = serving.connections
        await eventually(lambda: served_one._drain is not None, "the client's buffers are not full")
    await leave(connection, way)
    await serving.until(0)
    await eventually(lambda: handler.cancelled == begun, "not cancelled")
    assert (handler.begun, handler.ended) == (begun, 0)
    assert timers() == []
    await connection.leave()


@WAYS
async def test_a_crowd_that_leaves(serving: Serving, handler: Phases, way: str) -> None:
    """Many in the same moment, in different phases."""
    crowd = [await Connection.open(serving.address) for _ in range(len(PHASES) * 3)]
    for number, connection in enumerate(crowd):
        connection.writer.write(PHASES[number % len(PHASES)][1])
    await serving.until(len(crowd))
    for connection in crowd:
        await leave(connection, way)
    await serving.until(0)
    await eventually(lambda: handler.cancelled == handler.begun, "not all were cancelled")
    for connection in crowd:
        await connection.leave()


async def test_an_answer_is_written_to_a_client_that_reads_only_when_it_has_left(serving: Serving) -> None:
    """A client that says that it sends no more, behind an answer that it has not read, may still read that."""
    async with serving.open() as connection:
        await connection.send(b"NONE\r\n\r\n")
        connection.writer.write_eof()
        assert (await connection.reply()).status == 400
        assert await connection.ended()


# What is left in memory


async def asked(connection: Connection) -> None:
    await connection.send(Ask(framing="chunked", chunks=(b"abc",), offers=True).written() * 2)
    await connection.reply()
    await connection.reply()


async def illegal(connection: Connection) -> None:
    await connection.send(Ask().written() + b"GET / HTTP/1.1\r\nA : b\r\n\r\n")
    await connection.reply()
    await connection.reply()


async def too_many_headers(connection: Connection) -> None:
    await connection.send(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n")
    await connection.reply()


async def half_asked(connection: Connection) -> None:
    await connection.send(HEAD + b"\r\nabc")
    await asyncio.sleep(0.01)


async def answer(request: Request) -> Response:
    return Response(200, await whole_body(request))


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    """A connection, its reader and its parser are freed by their last reference: no cycle holds them."""
    async with served(answer) as serving:
        first = await Connection.open(serving.address)
        await serving.until(1)
        kinds = next((type(one), type(one._reader), type(one._reader._parser), Request) for one in serving.connections)
        await first.leave()
        gc.collect()
        gc.disable()
        try:
            for visit in (asked, illegal, too_many_headers, half_asked):
                for reset in (False, True):
                    connection = await Connection.open(serving.address)
                    await visit(connection)
                    await connection.leave(reset=reset)
            await serving.until(0)
            await asyncio.sleep(0.005)
            assert [each for each in gc.get_objects() if isinstance(each, kinds)] == []
        finally:
            gc.enable()


def test_a_connection_has_no_dictionary() -> None:
    """Thousands of idle ones cost little."""
    assert not hasattr(object.__new__(Served), "__dict__")
