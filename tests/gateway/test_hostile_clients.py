"""Clients that mean harm: they get their answer, the log is not theirs, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from proxy.demo.worker import DemoWorker
from proxy.limits import REQUEST_MAX_BYTES, REQUEST_MAX_VALUES
from tests.gateway.client import Connection, call, connected, frames_of, request_bytes
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, asked, until, with_script
from tests.gateway.scripted import STREAM, STREAM_HEAD, then_gone

NESTED = b"[" * 1_000 + b"]" * 1_000
TOO_MANY = f"the body has more than {REQUEST_MAX_VALUES} commas and opening brackets"


@pytest.mark.parametrize("value", [b'{"a": 1}', NESTED], ids=["object", "nested"])
@pytest.mark.parametrize("route", ["generate", "generate_stream"])
async def test_a_trace_that_is_no_text(rig: Rig, route: str, value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is not a trace id is not written down, and the request is answered as any other."""
    with caplog.at_level(logging.INFO, logger="proxy.access"):
        reply = await rig.post(route, json.dumps(HELLO).encode()[:-1] + b', "span_id": ' + value + b"}")
        assert reply.status == 200
        assert b'"error_code":0' in reply.body
        await rig.quiet()
    (line,) = [record for record in caplog.records if record.name == "proxy.access"]
    assert not hasattr(line, "span")
    assert await rig.outcomes() == {"ok": 1}


@pytest.mark.parametrize("path", ["generate_stream", "embeddings"])
async def test_a_body_of_too_many_values_is_refused(rig: Rig, worker: DemoWorker, path: str) -> None:
    """A body within the limit of bytes whose values would keep everybody else waiting for seconds."""
    before = asked(worker)
    body = b'{"model": "m", "messages": [' + b"[[]]," * (REQUEST_MAX_BYTES // 5 - 10) + b"[]]}"
    started = asyncio.get_running_loop().time()
    reply = await rig.post(path, body)
    assert asyncio.get_running_loop().time() - started < 2
    if path == "embeddings":
        assert (reply.status, reply.json) == (413, {"detail": TOO_MANY, "error_code": 40001})
    else:
        assert frames_of(reply.body) == [{"text": TOO_MANY, "error_code": 40001, "incremental": False}]
    assert asked(worker) == before


async def test_a_body_of_many_values_is_taken(rig: Rig) -> None:
    """The limit is far from what a batch of texts needs."""
    reply = await rig.post("embeddings", {"model": "m", "input": ["a, b"] * 100, "x": [0] * 150_000})
    assert reply.status == 200


@pytest.mark.parametrize(
    "request_line",
    [b"GET /\xff HTTP/1.1", b"GET /%zz HTTP/9.9", b"GET http://[::1/ HTTP/1.1", b"PRI * HTTP/2.0"],
)
async def test_what_is_no_request_is_one_line_of_the_log(
    rig: Rig, request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """400 for the client; for the operator a sentence at the level of information, without a traceback."""
    with caplog.at_level(logging.INFO):
        async with connected(rig.listen) as connection:
            await connection.send(request_line + b"\r\nHost: g\r\n\r\n")
            assert (await connection.head()).status == 400
        await until(lambda: any(r.name == "proxy.http" for r in caplog.records), lambda: "nothing was logged")
    (record,) = [record for record in caplog.records if record.name == "proxy.http"]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert record.getMessage().startswith("a request that is not legal HTTP was refused: 400")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("path", ["generate_stream", "embeddings"])
@pytest.mark.parametrize("name", ["Content-Encoding", "Authorization", "Accept", "Content-Type"])
async def test_a_header_that_is_no_text(rig: Rig, path: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes of any coding are the client's mistake, or are not looked at; the log has no traceback."""
    whole = request_bytes("POST", f"{PREFIX}/{path}", {**HELLO, "input": ["a"]}, {name: "\xff\xfe"})
    async with connected(rig.listen) as connection:
        await connection.send(whole)
        reply = await connection.reply()
    assert reply.status == (400 if name == "Content-Encoding" and path == "embeddings" else 200)
    if name == "Content-Encoding":
        assert "the body has the content-encoding 'ÿþ', expected gzip" in json.dumps(
            reply.body.decode(), ensure_ascii=False
        )
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_path_with_a_line_break_is_answered_as_any_other(rig: Rig) -> None:
    """404 in the dialect of the worker API, and counted."""
    reply = await call(rig.listen, "GET", "/api/worker/a%0d%0aX")
    assert (reply.status, reply.object["error_code"]) == (404, 40001)
    assert await rig.outcomes() == {"client_error": 1}


async def test_a_client_that_leaves_with_its_last_byte() -> None:
    """A request whose client left in the moment in which its body was complete holds no worker."""
    async with with_script(STREAM, then_gone(STREAM_HEAD)) as (rig, _):
        for _ in range(5):
            connections = [await Connection.open(rig.listen) for _ in range(40)]
            for connection in connections:
                connection.writer.write(request_bytes("POST", f"{PREFIX}/generate", HELLO))
                await asyncio.sleep(0)
                connection.writer.transport.abort()
            await rig.quiet()
