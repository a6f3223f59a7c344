"""Calls to control interfaces: every failure has its kind, and nothing is read without a bound."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from aiohttp import web

from proxy.backends.base_url import normalise_base_url
from proxy.backends.control import CallLimits, ControlError, brief, call_json, new_session, pause
from proxy.types import Json
from tests.backends.fakes import FakeServer

LIMITS = CallLimits(connect=0.3, total=0.3, max_bytes=1000)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with new_session() as session:
        yield session


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (web.Response(text="[1]"), None),
        (web.Response(status=301, headers={"Location": "/other"}), "status"),
        (web.Response(status=500, text="no"), "status"),
        (web.Response(body=b'"' + b"x" * 2000 + b'"'), "too_large"),
        (web.Response(text="{"), "malformed"),
        (web.Response(body=b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"}), "malformed"),
    ],
)
async def test_answers(
    server: FakeServer, session: aiohttp.ClientSession, reply: web.Response, kind: str | None
) -> None:
    """A 200 with JSON is decoded; everything else is refused and names the call."""
    server.replies["/call"] = reply
    if kind is None:
        assert await call_json(session, "POST", server.url + "/call", LIMITS, body={}) == [1]
        return
    with pytest.raises(ControlError, match=f"POST {server.url}/call") as caught:
        await call_json(session, "POST", server.url + "/call", LIMITS, body={})
    assert caught.value.kind == kind
    assert [path for path, _ in server.calls] == ["/call"]


async def test_refused_and_unresolvable(server: FakeServer, session: aiohttp.ClientSession) -> None:
    """Nobody listening differs from no way there."""
    await server.stop()
    with pytest.raises(ControlError) as caught:
        await call_json(session, "GET", server.url, LIMITS)
    assert caught.value.kind == "refused"
    with pytest.raises(ControlError) as caught:
        await call_json(session, "GET", "http://no-such-host.invalid:1", CallLimits(3, 3, 1000))
    assert caught.value.kind in ("unreachable", "connect_timeout")


async def test_silence_and_broken_answers(session: aiohttp.ClientSession) -> None:
    """A server that accepts and is silent is a timeout; one that closes in the middle is a reset."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ControlError) as caught:
            await call_json(session, "GET", f"http://127.0.0.1:{silent.getsockname()[1]}", LIMITS)
        assert caught.value.kind == "timeout"

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[")
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ControlError) as caught:
            await call_json(session, "GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", LIMITS)
    assert caught.value.kind == "reset"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_proxy_variables_are_ignored(
    server: FakeServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A proxy for the internet must not see traffic inside the cluster."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.replies["/call"] = web.Response(text="true")
    assert await call_json(session, "GET", server.url + "/call", LIMITS) is True


async def test_each_call_has_its_own_connection(server: FakeServer, session: aiohttp.ClientSession) -> None:
    """No connection is kept that the server may be closing at the moment of the next call."""
    server.replies["/call"] = web.Response(text="true")
    await call_json(session, "GET", server.url + "/call", LIMITS)
    assert isinstance(session.connector, aiohttp.TCPConnector)
    assert not session.connector._conns


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Host:21002/", "http://host:21002"),
        ("https://h/prefix/", "https://h/prefix"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[0:0::1]:81", "http://[::1]:81"),
        ("http://[::ffff:10.0.0.5]:1", "http://10.0.0.5:1"),
        (" http://h:1 ", "http://h:1"),
        ("http://h:80/", "http://h"),
        ("https://h:443/", "https://h"),
        ("https://h:80", "https://h:80"),
        ("http://h.:1", "http://h:1"),
        ("http://localhost:21002", "http://127.0.0.1:21002"),
        ("http://gpu.LOCALHOST.:80", "http://127.0.0.1"),
        ("https://localhost:21002", "https://localhost:21002"),
    ],
)
def test_base_addresses(url: str, expected: str) -> None:
    """One worker has one address, however it is written."""
    assert normalise_base_url(url) == expected
    assert normalise_base_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:1", "http://h:99999", "http://h:0", "http://a b:1", "http://[x", "file:///etc"),
        *("http://b\u00fccher:1", "http://h:1/p\u00e4th", "http://[fe80::1%eth0]:1", f"http://{'a' * 600}:1"),
    ],
)
def test_bad_addresses(url: str) -> None:
    """What is no address is refused in one sentence."""
    with pytest.raises(ValueError, match="not a"):
        normalise_base_url(url)


@pytest.mark.parametrize(
    ("value", "text"),
    [("x" * 100, repr("x" * 80)), (None, "'None'"), ([1, 2], "an array of 2"), ({}, "an object of 0")],
)
def test_values_in_messages_are_short(value: Json, text: str) -> None:
    """What another program sent is named in a message without being written out."""
    assert brief(value) == text


def test_a_value_nested_without_end_can_be_named() -> None:
    """An answer that is nested as deep as JSON may be fails no message about it."""
    assert brief(orjson.loads("[" * 1_000 + "]" * 1_000)) == "an array of 1"


async def test_a_pause_ends_with_its_event_its_time_or_its_task() -> None:
    """A task that is cancelled in the moment in which it is woken ends all the same."""
    event = asyncio.Event()
    await asyncio.wait_for(pause(event, 0.01), 1)
    await asyncio.wait_for(pause(event, 60), 1)
    event.clear()
    task = asyncio.create_task(pause(event, 60))
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
