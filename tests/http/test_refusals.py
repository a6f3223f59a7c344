"""Bytes that are no request: a status and a sentence for the client, one line for the log, and the connection ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.http import Request, Response
from proxy.http.head import HEAD_MAX_BYTES
from tests.http.asks import Ask
from tests.http.serving import echo, served

GOOD = Ask(target="/good").written()
BAD = b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"
CHUNKED = b"POST /chunks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server logged; none of it is a traceback, nor more than information."""
    records = [record for record in caplog.records if record.name in ("proxy.http", "asyncio")]
    assert all(record.exc_info is None and record.levelno <= logging.INFO for record in records), records
    return [record.getMessage() for record in records]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (400, BAD),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500),
        (400, b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: a\r\nTransfer-Encoding: \xff\r\n\r\n"),
        (405, b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"),
        (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nA: " + b"b" * 5_000_000),
        (431, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000),
    ],
    ids=["length", "TLS", "coding", "CONNECT", "PRI", "version", "header", "headers"],
)
async def test_the_client_can_read_why(status: int, raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that is still sending when it is refused."""
    async with served(echo) as serving, serving.open() as connection:
        connection.writer.write(raw)
        reply = await connection.reply()
        assert (reply.status, reply.headers["connection"]) == (status, "close")
        await connection.writer.drain()
        assert await connection.ended()
    (line,) = lines(caplog)
    assert line == f"a request that is not legal HTTP was refused: {status} {reply.body.decode()[:-1]}"


@pytest.mark.parametrize("pause", [0.0, 0.005], ids=["in one piece", "in several"])
async def test_what_came_before_is_answered(pause: float, caplog: pytest.LogCaptureFixture) -> None:
    """Requests ahead of the illegal one get their answers first, and keep the connection until then."""
    async with served(echo) as serving, serving.open() as connection:
        for piece in (GOOD * 3, BAD) if pause else (GOOD * 3 + BAD,):
            await connection.send(piece)
            await asyncio.sleep(pause)
        for _ in range(3):
            reply = await connection.reply()
            assert (reply.status, "connection" in reply.headers) == (200, False)
        reply = await connection.reply()
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert await connection.ended()
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("ahead", [0, 2])
async def test_a_body_that_breaks_off_is_the_handler_s(ahead: int, caplog: pytest.LogCaptureFixture) -> None:
    """Who reads it learns why, and answers; then the connection ends, as what follows is not known."""

    async with served(echo) as serving, serving.open() as connection:
        await connection.send(GOOD * ahead + CHUNKED + b"1\r\na\r\nx\r\n" + GOOD)
        for _ in range(ahead):
            assert (await connection.reply()).status == 200
        reply = await connection.reply()
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert reply.body == b"not valid HTTP: Invalid character in chunk size\n"
        assert await connection.ended()
    assert len(lines(caplog)) == 1


async def test_a_body_that_breaks_off_when_it_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """The rest of a body that nobody wants may be wrong: the connection ends."""

    async def refusing(_: Request) -> Response:
        return Response(401)

    async with served(refusing) as serving, serving.open() as connection:
        await connection.send(CHUNKED + b"1\r\n")
        assert (await connection.reply()).status == 401
        await connection.send(b"a\r\nx\r\n")
        assert await connection.ended()
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("endless", [b"1;", b"1\r\na\r\n0\r\nA: ", b"0\r\n"], ids=["extension", "trailer", "trailers"])
async def test_a_body_that_is_none_ends(endless: bytes) -> None:
    """What stands between the parts of a body is not read for ever, nor kept."""

    async with served(echo) as serving, serving.open() as connection:
        await connection.send(CHUNKED + endless)
        connection.writer.write((b"a: b\r\n" if endless == b"0\r\n" else b"abc") * HEAD_MAX_BYTES)
        reply = await connection.reply()
        assert (reply.status, reply.body.split(b" ")[:2]) == (400, [b"more", b"than"])
        assert await connection.ended()


async def test_nothing_behind_the_last_request_is_answered() -> None:
    """A client that said that it sends no more is not answered more."""
    async with served(echo) as serving, serving.open() as connection:
        await connection.send(Ask(connection="close").written() + GOOD * 3)
        assert (await connection.reply()).body == b"POST /? "
        assert await connection.ended()
