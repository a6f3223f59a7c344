"""Bodies of requests: asked for when they are wanted, waited for, refused so that the client can read why."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from proxy.http import Request, Response, Streamed
from tests.gateway.client import Reply
from tests.http.asks import Ask
from tests.http.serving import Held, Serving, echo, eventually, served, whole_body

MEGABYTES = b"x" * 4_000_000


def post(length: int, *, headers: str = "", path: str = "/") -> bytes:
    """The head of a request with a body."""
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{headers}\r\n".encode()


EXPECTS = "Expect: 100-continue\r\n"


async def refuse(_: Request) -> Response:
    """Say no without a look at the body."""
    return Response(413, b"no\n")


async def test_leave_to_send_a_body_is_given_when_it_is_wanted() -> None:
    """Not before somebody reads it, and once."""
    wanted = asyncio.Event()

    async def later(request: Request) -> Response:
        await wanted.wait()
        return await echo(request)

    async with served(later) as serving, serving.open() as connection:
        await connection.send(post(3, headers=EXPECTS))
        await serving.until(1)
        reading = asyncio.ensure_future(connection.head())
        await asyncio.sleep(0.01)
        assert not reading.done()
        wanted.set()
        assert (await reading).status == 100
        await connection.send(b"abc")
        assert (await connection.reply()).body == b"POST /? abc"


async def test_leave_is_not_given_behind_another_answer() -> None:
    """What the client is told belongs to the request that it waits with, also when it was sent ahead."""
    held = Held()

    async def first(request: Request) -> Response:
        return await held(request) if request.path == "/held" else await echo(request)

    async with served(first) as serving, serving.open() as connection:
        await connection.send(Ask(target="/held").written() + post(3, headers=EXPECTS))
        await eventually(lambda: held.begun == 1, "not begun")
        held.go.set()
        assert (await connection.reply()).body == b"/held"
        assert (await connection.head()).status == 100
        await connection.send(b"abc")
        assert (await connection.reply()).body == b"POST /? abc"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_leave_is_not_given_to_who_sends_anyway(version: str) -> None:
    """A body that is there is read without a word, and an old client would not understand one."""
    async with served(echo) as serving, serving.open() as connection:
        await connection.send((post(3, headers=EXPECTS) + b"abc").replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        assert (await connection.head()).status == 200


@pytest.mark.parametrize("waits", [True, False])
async def test_leave_is_not_given_within_a_stream(waits: bool) -> None:
    """A handler that reads the rest of a body while it answers: nothing but the answer is on the connection."""

    async def both_ways(request: Request) -> Streamed:
        first = await request.parts()
        response = request.stream(200, "text/plain", {})
        while first:
            for piece in first:
                request.connection.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            first = await request.parts()
        request.end_stream()
        return response

    async with served(both_ways) as serving, serving.open() as connection:
        await connection.send(post(6, headers=EXPECTS) + (b"" if waits else b"abc"))
        if waits:
            assert (await connection.head()).status == 100
            await connection.send(b"abc")
        pieces = connection.pieces(await connection.head())
        assert await pieces.__anext__() == b"abc"
        await connection.send(b"def")
        assert [piece async for piece in pieces] == [b"def"]


async def refused(serving: Serving, *sent: bytes) -> Reply:
    """What a client reads that first sends everything; then the connection ends."""
    async with serving.open() as connection:
        for piece in sent:
            await connection.send(piece)
            await asyncio.sleep(0.005)
        reply = await connection.reply()
        assert reply.headers["connection"] == "close"
        assert await connection.ended()
    return reply


async def test_who_was_not_given_leave_reads_why() -> None:
    """The connection ends, as nobody knows whether the body comes; one that comes does not take the answer away."""
    async with served(refuse) as serving:
        assert (await refused(serving, post(3, headers=EXPECTS))).status == 413
        assert (await refused(serving, post(len(MEGABYTES), headers=EXPECTS), MEGABYTES)).status == 413


async def test_who_sends_everything_first_reads_why() -> None:
    """A refused body is read to its end, and the connection serves the next request."""
    async with served(refuse) as serving, serving.open() as connection:
        for framed in (post(len(MEGABYTES)) + MEGABYTES, Ask(framing="chunked", chunks=(MEGABYTES,)).written()):
            await connection.send(framed)
            reply = await connection.reply()
            assert (reply.status, reply.body, "connection" in reply.headers) == (413, b"no\n", False)
        await connection.send(Ask().written() * 2)
        assert (await connection.reply()).status == 413
        assert (await connection.reply()).status == 413


async def test_a_body_beyond_all_bounds_ends_the_connection() -> None:
    """One that says that it is larger than would be thrown away is told that the connection ends."""
    async with served(refuse) as serving:
        assert (await refused(serving, post(10**12), MEGABYTES)).status == 413


@pytest.mark.parametrize("keeps", [True, False])
async def test_who_sends_for_ever_is_cut(monkeypatch: pytest.MonkeyPatch, keeps: bool) -> None:
    """So many bytes are thrown away, and no more."""
    monkeypatch.setattr("proxy.http.connection.LINGER_BYTES", 1_000_000)
    sent = 0
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + (b"" if keeps else b"Connection: close\r\n") + b"\r\n"
    async with served(refuse) as serving, serving.open() as connection:
        await connection.send(head)
        assert (await connection.head()).status == 413
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                await connection.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent += 65_536
        await serving.until(0)
    assert sent < 50_000_000


@pytest.mark.parametrize("keeps", [True, False])
async def test_who_stays_silent_is_cut(monkeypatch: pytest.MonkeyPatch, keeps: bool) -> None:
    """A refused body that does not come to its end is waited for so long, and no longer."""
    monkeypatch.setattr("proxy.http.connection.LINGER_SECONDS", 0.03)
    async with served(refuse) as serving, serving.open() as connection:
        await connection.send(post(1000, headers="" if keeps else "Connection: close\r\n") + b"abc")
        assert (await connection.head()).status == 413
        await serving.until(0)


async def test_the_time_for_a_refused_body_is_over_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was kept is not cut later."""
    monkeypatch.setattr("proxy.http.connection.LINGER_SECONDS", 0.03)
    held = Held()

    async def first(request: Request) -> Response:
        return await held(request) if request.path == "/held" else await refuse(request)

    async with served(first) as serving, serving.open() as connection:
        await connection.send(post(3))
        assert (await connection.reply()).status == 413
        await connection.send(b"abc" + Ask(target="/held").written())
        await eventually(lambda: held.begun == 1, "not begun")
        await asyncio.sleep(0.06)
        held.go.set()
        assert (await connection.reply()).body == b"/held"


async def test_a_body_is_not_piled_up() -> None:
    """Its client waits while nobody reads it; then every byte comes."""
    wanted = asyncio.Event()

    async def later(request: Request) -> Response:
        await wanted.wait()
        return Response(200, await whole_body(request))

    async with served(later) as serving, serving.open() as connection:
        body = bytes(range(256)) * 62_500
        connection.writer.write(post(len(body)) + body)
        await serving.until(1)
        (one,) = serving.connections
        await eventually(lambda: one._paused, "the client may still send")
        assert one._reading is not None
        assert one._reading._waiting < 2_000_000
        wanted.set()
        assert (await connection.reply()).body == body


async def test_bodies_behind_each_other_are_not_piled_up() -> None:
    """Also those that wait behind the request that is answered: each comes whole when its turn comes."""
    held = Held()

    async def first(request: Request) -> Response:
        return await held(request) if request.path == "/held" else Response(200, await whole_body(request))

    async with served(first) as serving, serving.open() as connection:
        connection.writer.write(Ask(target="/held").written() + (post(len(MEGABYTES)) + MEGABYTES) * 3)
        await serving.until(1)
        (one,) = serving.connections
        await eventually(lambda: one._paused, "the client may still send")
        held.go.set()
        assert (await connection.reply()).body == b"/held"
        for _ in range(3):
            assert (await connection.reply()).body == MEGABYTES


async def test_a_body_in_tiny_chunks_takes_little_memory() -> None:
    """Parts of two bytes are kept as one, and count as what they take."""
    sizes: list[int] = []

    async def counting(request: Request) -> Response:
        body = 0
        while parts := await request.parts():
            sizes.append(len(parts))
            body += sum(map(len, parts))
        return Response(200, str(body).encode())

    async with served(counting) as serving, serving.open() as connection:
        await connection.send(Ask(framing="chunked", chunks=(b"ab",) * 50_000).written())
        assert (await connection.reply()).body == b"100000"
    assert max(sizes) <= 16
