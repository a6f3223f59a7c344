"""The ends of connections that are not their clients': too long idle, and a server that closes."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from proxy.address import Address
from proxy.http import HttpServer, Limits, Request, Response, Streamed, port_of
from tests.gateway.client import Connection, CutShortError, connected
from tests.http.asks import Ask
from tests.http.serving import Held, echo, eventually, served

IDLE = 0.08


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\n"], ids=["nothing", "line", "header"])
async def test_who_does_not_ask_is_not_waited_for(sent: bytes) -> None:
    """A connection without a whole head ends after the time for it."""
    async with served(echo, idle_seconds=IDLE) as serving, serving.open() as connection:
        await connection.send(sent)
        assert await connection.ended()


async def test_a_head_in_single_bytes_is_not_waited_for() -> None:
    """What comes drop by drop does not make the time longer."""
    async with served(echo, idle_seconds=IDLE) as serving, serving.open() as connection:
        await serving.until(1)
        for byte in b"GET / HTTP/1.1\r\nA: " + b"b" * 500:
            if not serving.connections:
                break
            connection.writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        assert not serving.connections


async def test_a_connection_is_idle_from_its_last_answer_on() -> None:
    """Neither a request that takes long nor one now and then is idleness; afterwards the connection ends."""
    held = Held()

    async def first(request: Request) -> Response:
        return await held(request) if request.path == "/held" else await echo(request)

    async with served(first, idle_seconds=IDLE) as serving, serving.open() as connection:
        for _ in range(3):
            await connection.send(Ask().written())
            assert (await connection.reply()).status == 200
            await asyncio.sleep(IDLE / 2)
        await connection.send(Ask(target="/held").written())
        await asyncio.sleep(IDLE * 2)
        held.go.set()
        assert (await connection.reply()).body == b"/held"
        assert await connection.ended()


# A server that closes


async def test_a_server_that_closes_ends_what_is_idle() -> None:
    """In order and at once, also a connection whose head is not complete."""
    async with served(echo) as serving, serving.open() as used, serving.open() as begun, serving.open() as fresh:
        await used.send(Ask().written())
        assert (await used.reply()).status == 200
        await begun.send(b"GET / HTTP/1.1\r\nA: b")
        await serving.until(3)
        await asyncio.wait_for(serving.server.close(), 0.4)
        for connection in (used, begun, fresh):
            assert await connection.ended()


async def test_a_server_that_closes_lets_answers_be_written() -> None:
    """Half a second for what is under way; what waits behind it is not begun."""
    held = Held()
    async with served(held) as serving, serving.open() as connection:
        await connection.send(Ask().written() * 2)
        await eventually(lambda: held.begun == 1, "not begun")
        closing = asyncio.ensure_future(serving.server.close())
        await asyncio.sleep(0.01)
        held.go.set()
        reply = await connection.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await connection.ended()
        await closing
    assert (held.begun, held.ended, held.cancelled) == (1, 1, 0)


async def test_a_server_that_closes_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end in time is cut: no client is left waiting, and no request goes on."""
    monkeypatch.setattr("proxy.http.server._CLOSE_SECONDS", 0.05)
    held = Held()

    async def mixed(request: Request) -> Response | Streamed:
        if request.path == "/quick":
            return Response(200, b"abc")
        if request.path == "/stream":
            request.stream(200, "text/plain", {})
        return await held(request)

    async with served(mixed) as serving:
        crowd = [await Connection.open(serving.address) for _ in range(30)]
        for number, connection in enumerate(crowd):
            target = ("/quick", "/held", "/stream")[number % 3]
            connection.writer.write(Ask(target=target).written() * (number % 4 + 1))
        await eventually(lambda: held.begun == 20, "not begun")
        await serving.server.close()
        assert serving.connections == set()
        for number, connection in enumerate(crowd):
            if number % 3 == 0:
                assert (await connection.reply()).body == b"abc"
            else:
                with pytest.raises((CutShortError, ConnectionError)):
                    await connection.reply()
            await connection.leave()
        await eventually(lambda: held.cancelled == 20, "requests go on")


async def test_a_server_that_retires() -> None:
    """Who has an answer is let go, now or with the next one, a stream too; who has only just come is served."""
    held = Held()

    async def handler(request: Request) -> Response | Streamed:
        if request.path != "/stream":
            return await echo(request)
        streamed = request.stream(200, "text/plain", {})
        await held(request)
        request.end_stream()
        return streamed

    async with (
        served(handler) as serving, serving.open() as idle, serving.open() as begun,
        serving.open() as fresh, serving.open() as streaming,
    ):  # fmt: skip
        for connection in (idle, begun):
            await connection.send(Ask().written())
            assert "connection" not in (await connection.reply()).headers
        await begun.send(b"GET / HTTP/1.1\r\n")
        await streaming.send(Ask(target="/stream").written())
        await eventually(lambda: held.begun == 1, "not begun")
        await serving.until(4)
        serving.server.retire()
        assert await idle.ended()
        await begun.send(b"\r\n")
        await fresh.send(Ask(target="/stream").written())
        held.go.set()
        for connection, told in ((begun, "close"), (fresh, "close"), (streaming, None)):
            reply = await connection.reply()
            assert (reply.status, reply.headers.get("connection")) == (200, told)
            assert await connection.ended()
        await serving.server.emptied(1.0)
        assert not serving.connections


# After two turns asyncio has accepted them and made no transports; those it loses by itself (until Python 3.12).
@pytest.mark.parametrize("turns", [0, 1, 3, 4])
async def test_nobody_is_served_who_comes_too_late(turns: int) -> None:
    """Connecting fails, and a connection that was accepted in the last moment does not outlive the server."""
    server = HttpServer(echo, Limits(30.0))
    address = Address("127.0.0.1", port_of(await server.listen("127.0.0.1", 0)))
    late = [socket.create_connection(address) for _ in range(20)]
    for _ in range(turns):  # of the loop, in which it sees them, accepts them, and tells of them
        await asyncio.sleep(0)
    await server.close()
    await asyncio.sleep(0.01)
    assert server._connections == set()
    with pytest.raises(OSError, match=r".+"):
        await asyncio.open_connection(*address)
    for one in late:
        one.settimeout(2)
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(1) == b""
        one.close()


async def test_an_address_that_is_left_keeps_its_clients() -> None:
    """Who is connected is served on, nobody else comes in, and the other address goes on."""
    server = HttpServer(echo, Limits(30.0))
    first, second = [await server.listen("127.0.0.1", 0) for _ in range(2)]
    at = [Address("127.0.0.1", port_of(each)) for each in (first, second)]
    async with connected(at[0]) as connection:
        await connection.send(Ask().written())
        assert (await connection.reply()).status == 200
        server.leave(first)
        await asyncio.sleep(0)
        await connection.send(Ask().written())
        assert (await connection.reply()).status == 200
        with pytest.raises(OSError, match=r".+"):
            await asyncio.open_connection(*at[0])
        async with connected(at[1]) as other:
            await other.send(Ask().written())
            assert (await other.reply()).status == 200
    await server.close()


async def test_an_address_in_use_is_told() -> None:
    """By a reason for people."""
    server = HttpServer(echo, Limits(30.0))
    taken = port_of(await server.listen("127.0.0.1", 0))
    with pytest.raises(OSError, match=r".+") as problem:
        await server.listen("127.0.0.1", taken)
    assert problem.value.strerror == "the port is in use"
    await server.close()


async def test_a_socket_that_is_bound_elsewhere_is_served() -> None:
    """And closed with the server."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = HttpServer(echo, Limits(30.0))
    port = port_of(await server.listen_on(bound))
    async with connected(Address("127.0.0.1", port)) as connection:
        await connection.send(Ask().written())
        assert (await connection.reply()).status == 200
        (one,) = server._connections
        assert one.port == port
        assert one.end("sockname") == ("127.0.0.1", port)
        assert one.end("peername") == connection.writer.get_extra_info("sockname")
    await server.close()
    await asyncio.sleep(0.005)
    assert bound.fileno() == -1
