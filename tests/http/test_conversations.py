"""Whatever a client means, however its bytes are cut: the production server answers each request, in order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.http.connection import PIPELINE_MAX
from tests.gateway.client import Connection, Reply
from tests.http.asks import Ask, conversations, split
from tests.http.serving import Held, echo, eventually, served

ON_A_LOOP = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def answered(connection: Connection, ask: Ask) -> Reply:
    """The answer to a request; leave to go on is none."""
    while (head := await connection.head()).status == 100:
        assert ask.expects
    pieces = () if ask.method == "HEAD" else [piece async for piece in connection.pieces(head)]
    return head._replace(body=b"".join(pieces))


def expected(ask: Ask) -> bytes:
    path, _, query = ask.target.removeprefix("http://h:80").partition("#")[0].partition("?")
    return f"{ask.method} {path}?{query} ".encode() + ask.body


@ON_A_LOOP
@given(st.data())
async def test_any_pieces_of_any_requests_are_answered(data: st.DataObject) -> None:
    """Each with what it asked for, and the connection is kept or closed as the last one says."""
    asked = data.draw(conversations())
    pieces = data.draw(split(b"".join(ask.written() for ask in asked)))
    async with served(echo) as serving, serving.open() as connection:
        for piece in pieces:
            connection.writer.write(piece)
            await asyncio.sleep(0)
        for ask in asked:
            reply = await answered(connection, ask)
            assert reply.status == 200
            assert int(reply.headers["content-length"]) == len(expected(ask))
            assert reply.body == (b"" if ask.method == "HEAD" else expected(ask))
            assert (reply.headers.get("connection") != "close") is ask.keeps
        if asked[-1].keeps:
            await connection.send(Ask(target="/more", connection="close").written())
            assert (await connection.reply()).body == b"POST /more? "
        assert await connection.ended()


@pytest.mark.parametrize("framing", ["none", "length", "chunked"])
async def test_an_offer_of_another_protocol_is_not_taken_up(framing: str) -> None:
    """Java's client offers HTTP/2 with its first request, also with POST: it gets HTTP/1.1, and its body is read."""
    assert framing in ("none", "length", "chunked")
    ask = Ask(framing=framing, chunks=(b"abc", b"defg"), offers=True)  # type: ignore[arg-type]
    async with served(echo) as serving, serving.open() as connection:
        for _ in range(3):
            await connection.send(ask.written())
            reply = await connection.reply()
            assert (reply.status, reply.version, reply.body) == (200, "1.1", expected(ask))
            assert "upgrade" not in reply.headers


async def test_a_body_behind_an_offer_may_come_later() -> None:
    """The head of an offer is a request at once, whose body is waited for."""
    raw = Ask(framing="length", chunks=(b"abcdef",), offers=True).written()
    async with served(echo) as serving, serving.open() as connection:
        for piece in (raw[:-6], raw[-6:-3], raw[-3:]):
            await connection.send(piece)
            await asyncio.sleep(0.005)
        assert (await connection.reply()).body == b"POST /? abcdef"


async def test_one_request_at_a_time() -> None:
    """Requests that are sent ahead begin when those before them are answered, and in their order."""
    held = Held()
    async with served(held) as serving, serving.open() as connection:
        await connection.send(b"".join(Ask(target=f"/{number}").written() for number in range(PIPELINE_MAX)))
        await eventually(lambda: held.begun == 1, "the first was not begun")
        await asyncio.sleep(0.01)
        assert held.begun == 1
        held.go.set()
        for number in range(PIPELINE_MAX):
            assert (await connection.reply()).body == b"/%d" % number


async def test_more_requests_ahead_than_anybody_needs() -> None:
    """Those within the bound are answered, then the client is told, and the connection ends."""
    held = Held()
    async with served(held) as serving, serving.open() as connection:
        await connection.send(Ask(target="/first").written())
        await eventually(lambda: held.begun == 1, "the first was not begun")
        await connection.send(Ask(target="/next").written() * (PIPELINE_MAX + 500))
        held.go.set()
        bodies = [(await connection.reply()).body for _ in range(PIPELINE_MAX + 1)]
        assert bodies == [b"/first", *[b"/next"] * PIPELINE_MAX]
        last = await connection.reply()
        assert (last.status, last.headers["connection"]) == (400, "close")
        assert last.body.decode() == f"more than {PIPELINE_MAX} requests were sent before the first was answered\n"
        assert await connection.ended()
        assert held.begun == PIPELINE_MAX + 1
