"""What goes back: heads that nobody can forge, bodies where there may be some, streams, and readers who are slow."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import logging
import time

import pytest

from proxy.http import Request, Response, Streamed
from proxy.http.response import _Clock, head_bytes
from tests.gateway.client import CutShortError, connected
from tests.http.asks import Ask
from tests.http.serving import eventually, served, whole_body

LARGE = bytes(range(251)) * 119_522  # 30 MB


async def stream(request: Request) -> Streamed:
    """Two pieces, as chunks where the client knows them."""
    response = request.stream(200, "text/plain", {"X-A": "b"})
    for piece in (b"abc", b"d"):
        transport = request.connection.transport
        if not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if request.chunked else piece)
    request.end_stream()
    return response


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "keep-alive", True),
        ("1.1", "Close", False),
        ("1.1", "close, keep-alive", False),
        ("1.0", "", False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "close", False),
    ],
)
async def test_a_connection_is_kept_as_its_client_says(version: str, connection: str, kept: bool) -> None:
    """And the answer's head says so where it is not what the version has anyway."""

    async def answer(_: Request) -> Response:
        return Response(200, b"abc")

    async with served(answer) as serving, serving.open() as client:
        told = f"Connection: {connection}\r\n" if connection else ""
        for _ in range(2 if kept else 1):
            await client.send(f"GET / HTTP/{version}\r\n{told}\r\n".encode())
            reply = await client.reply()
            assert reply.body == b"abc"
            said = None if version == "1.1" else "keep-alive"
            assert reply.headers.get("connection") == (said if kept else "close")
        if not kept:
            assert await client.ended()


@pytest.mark.parametrize(("version", "kept"), [("1.0", False), ("1.1", True)])
async def test_a_stream_has_an_end(version: str, kept: bool) -> None:
    """By its last chunk, or by the connection's."""
    async with served(stream) as serving, serving.open() as client:
        for _ in range(2 if kept else 1):
            await client.send(f"GET / HTTP/{version}\r\nConnection: keep-alive\r\n\r\n".encode())
            reply = await client.reply()
            assert (reply.body, reply.headers["x-a"]) == (b"abcd", "b")
            assert ("transfer-encoding" in reply.headers, "connection" in reply.headers) == (kept, not kept)
        if not kept:
            assert await client.ended()


async def test_the_head_of_a_stream_for_head_is_all_of_it() -> None:
    """No piece of the stream looks like the next answer: the connection ends with the head, and so does the stream."""
    async with served(stream) as serving, serving.open() as client:
        await client.send(Ask(method="HEAD").written())
        head = await client.reply(bodiless=True)
        assert (head.status, head.headers["x-a"], head.headers["connection"]) == (200, "b", "close")
        assert await client.ended()


@pytest.mark.parametrize("status", [204, 304])
async def test_some_answers_have_no_body(status: int) -> None:
    """Nor anything that tells of one, whatever the handler gave."""

    async def answer(_: Request) -> Response:
        return Response(status, b"abc", headers={"ETag": '"a"'})

    async with served(answer) as serving, serving.open() as client:
        for _ in range(2):
            await client.send(Ask(method="GET").written())
            head = await client.head()
            assert (head.status, head.headers["etag"]) == (status, '"a"')
            assert not {"content-length", "transfer-encoding", "connection"} & head.headers.keys()


async def test_an_answer_to_head_has_the_length_of_the_other_one() -> None:
    """And no body; the next answer follows at once."""

    async def answer(_: Request) -> Response:
        return Response(200, b"abc")

    async with served(answer) as serving, serving.open() as client:
        await client.send(Ask(method="HEAD").written() + Ask(method="GET").written())
        assert (await client.reply(bodiless=True)).headers["content-length"] == "3"
        assert (await client.reply()).body == b"abc"


FORGED = ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "\ud800"]


@pytest.mark.parametrize("value", FORGED)
async def test_a_header_cannot_split_a_response(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """500 in good order on a connection that goes on, and one sentence for the log."""

    async def answer(request: Request) -> Response:
        return Response(200, b"abc", headers={"X-A": value} if request.path == "/evil" else {})

    async with served(answer) as serving, serving.open() as client:
        for path, status in (("/evil", 500), ("/", 200), ("/evil", 500)):
            await client.send(Ask(target=path).written())
            reply = await client.reply()
            assert (reply.status, "x-evil" in reply.headers, "connection" in reply.headers) == (status, False, False)
    (line, _) = [record for record in caplog.records if record.name == "proxy.http"]
    assert (line.levelno, line.exc_info) == (logging.ERROR, None)
    assert line.getMessage().startswith("a response to POST /evil was not sent: ")
    assert line.getMessage().isprintable()


@pytest.mark.parametrize("value", FORGED)
def test_nothing_of_a_head_can_be_forged(value: str) -> None:
    """Neither by a value, nor by a name or a type."""
    for content_type, headers in ((value, {}), ("a/b", {value: "a"}), ("a/b", {"A": value})):
        with pytest.raises(ValueError, match=r".+"):
            head_bytes(200, content_type, headers, "")


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "CONNECTION", "Content-Type", "Date"])
def test_a_rule_cannot_say_where_a_response_ends(name: str) -> None:
    """Headers that are the server's own are refused: two of one kind would be read in two ways."""
    with pytest.raises(ValueError, match=f"the header {name} is written by the server itself"):
        head_bytes(200, "a/b", {name: "5"}, "Content-Length: 3\r\n")


def test_a_header_may_be_any_text() -> None:
    """It is written as UTF-8."""
    assert "\r\nA: ä 你\r\n".encode() in head_bytes(200, "", {"A": "ä 你"}, "")


@pytest.mark.parametrize("second", [0, 951_782_399, 1_709_210_096, 1_794_913_445, 4_102_444_799])
def test_the_date_is_as_the_standard_writes_it(second: int) -> None:
    """Whatever the language of the system, and written again only with the next second."""
    now = float(second)
    clock = _Clock(lambda: now)
    assert clock() == email.utils.formatdate(second, usegmt=True)
    now += 0.9
    assert clock() is clock()
    now += 0.2
    assert clock() == email.utils.formatdate(second + 1, usegmt=True)


async def test_every_answer_has_a_date() -> None:
    """Also a refusal and a stream."""
    async with served(stream) as serving:
        for raw in (Ask(method="GET").written(), b"NONE\r\n\r\n"):
            async with serving.open() as client:
                await client.send(raw)
                at = email.utils.parsedate_to_datetime((await client.head()).headers["date"])
                assert abs(at.timestamp() - time.time()) < 5


# Handlers that fail


async def test_a_handler_that_fails_is_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """500 for its client, who may ask again; the reason in the log. Also where a connection elsewhere broke."""

    async def failing(request: Request) -> Response:
        await whole_body(request)
        raise ConnectionRefusedError("elsewhere") if request.path == "/elsewhere" else KeyError("secret")

    async with served(failing) as serving, serving.open() as client:
        for target in ("/", "/elsewhere"):
            await client.send(Ask(target=target).written())
            reply = await client.reply()
            assert (reply.status, reply.body) == (500, b"the gateway failed on this request; its log has the reason\n")
    assert [record.getMessage() for record in caplog.records] == ["the server failed on a request"] * 2


async def test_a_stream_whose_handler_fails_does_not_look_complete(caplog: pytest.LogCaptureFixture) -> None:
    """The connection breaks off."""

    async def failing(request: Request) -> Response:
        request.stream(200, "text/plain", {})
        raise KeyError("secret")

    async with served(failing) as serving, serving.open() as client:
        await client.send(Ask().written())
        with pytest.raises((CutShortError, ConnectionError)):
            await client.reply()
    assert len(caplog.records) == 1


# Readers who are slow


async def flood(request: Request) -> Response | Streamed:
    """30 MB, as a whole or as a stream."""
    if request.path == "/whole":
        return Response(200, LARGE)
    response = request.stream(200, "text/plain", {})
    for start in range(0, len(LARGE), 100_000):
        piece = LARGE[start : start + 100_000]
        request.connection.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await request.connection.flushed()
    request.end_stream()
    return response


@pytest.mark.parametrize("target", ["/whole", "/stream"])
async def test_a_slow_reader_gets_every_byte(target: str) -> None:
    """A client that pauses is waited for, and the connection goes on afterwards."""
    async with served(flood) as serving, connected(serving.address, receive_buffer=65_536) as client:
        await client.send(Ask(target=target).written())
        await serving.until(1)
        (one,) = serving.connections
        await eventually(lambda: one._drain is not None, "the buffers are not full")
        assert one.transport.get_write_buffer_size() < (len(LARGE) if target == "/whole" else 1_000_000)
        seen, size = hashlib.sha256(), 0
        async for piece in client.pieces(await client.head()):
            seen.update(piece)
            size += len(piece)
        assert (size, seen.digest()) == (len(LARGE), hashlib.sha256(LARGE).digest())
        await client.send(b"NONE\r\n\r\n")
        assert (await client.reply()).status == 400


@pytest.mark.parametrize("target", ["/whole", "/stream"])
async def test_who_reads_nothing_is_cut(
    target: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After the time in which it took nothing at all, with one line of the log."""
    monkeypatch.setattr("proxy.http.connection.CLIENT_STALL_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    async with served(flood) as serving, connected(serving.address, receive_buffer=4096) as client:
        await client.send(Ask(target=target).written())
        await serving.until(1)
        await serving.until(0)
    (line,) = [record for record in caplog.records if record.name == "proxy.http"]
    assert line.getMessage().startswith("a client took nothing for 0.05 s of ")
    assert line.exc_info is None


async def test_who_reads_a_little_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as something is taken now and then, nothing is cut."""
    monkeypatch.setattr("proxy.http.connection.CLIENT_STALL_SECONDS", 0.5)

    async def quarter(_: Request) -> Response:
        return Response(200, LARGE[:12_000_000])

    async with served(quarter) as serving, connected(serving.address, receive_buffer=4096) as client:
        await client.send(Ask().written())
        assert (await client.head()).status == 200
        for _ in range(6):
            await client.reader.readexactly(1_000_000)
            await asyncio.sleep(0.1)
        assert len(await client.reader.readexactly(6_000_000)) == 6_000_000


async def test_who_reads_nothing_of_the_last_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the connection is being closed already."""
    monkeypatch.setattr("proxy.http.connection.CLIENT_STALL_SECONDS", 0.05)
    monkeypatch.setattr("proxy.http.connection.FLUSHED", 1 << 30)

    async def last(_: Request) -> Response:
        return Response(200, LARGE, close=True)

    async with served(last) as serving, connected(serving.address, receive_buffer=4096) as client:
        await client.send(Ask().written())
        await serving.until(1)
        await serving.until(0)
        with pytest.raises((CutShortError, ConnectionError)):
            await client.reply()
