"""HTTP itself, on both sides: connections kept and closed, old versions, headers that must not be made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy.demo.worker import DemoWorker
from proxy.types import JsonObject
from tests.gateway.client import Reply, call, connected, frames_of, request_bytes
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, asked, running, with_demo, with_script
from tests.gateway.scripted import LAST_CHUNK, STREAM, STREAM_HEAD, chunk, frame, scripted
from tests.hostile import Request, Visit, head

STREAM_PATH = f"{PREFIX}/generate_stream"
SHORT: JsonObject = {**HELLO, "max_new_tokens": 3}


def is_complete(reply: Reply) -> bool:
    return reply.status == 200 and frames_of(reply.body)[-1]["finish_reason"] == "length"


async def test_head_is_get_without_its_body(rig: Rig) -> None:
    """Clients ask with HEAD whether a server is there; the answer has the length of what GET gives, and no body."""
    path = f"{PREFIX}/models/supports"
    async with connected(rig.listen) as connection:
        await connection.request("HEAD", path)
        head = await connection.reply(bodiless=True)
        await connection.request("GET", path)
        got = await connection.reply()
    assert (head.status, got.status) == (200, 200)
    assert int(head.headers["content-length"]) == len(got.body)


async def test_a_connection_serves_one_request_after_another(rig: Rig) -> None:
    """Streams, answers and errors follow each other on a kept connection."""
    async with connected(rig.listen) as connection:
        for _ in range(3):
            await connection.request("POST", STREAM_PATH, SHORT)
            reply = await connection.reply()
            assert is_complete(reply)
            assert reply.headers["transfer-encoding"] == "chunked"
            await connection.request("POST", f"{PREFIX}/generate", b"{")
            assert (await connection.reply()).object["error_code"] == 40001
            await connection.request("GET", f"{PREFIX}/models/supports")
            assert (await connection.reply()).status == 200


async def test_a_client_that_asks_for_it_gets_the_connection_closed(rig: Rig) -> None:
    """`Connection: close` is answered and then done."""
    async with connected(rig.listen) as connection:
        await connection.request("POST", STREAM_PATH, SHORT, connection="close")
        reply = await connection.reply()
        assert is_complete(reply)
        assert reply.headers["connection"] == "close"
        assert await connection.ended()


@pytest.mark.parametrize("keep", [False, True], ids=["plain", "keep-alive"])
async def test_a_stream_for_an_old_client_ends_with_its_connection(rig: Rig, keep: bool) -> None:
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the stream."""
    async with connected(rig.listen) as connection:
        headers = {"Connection": "keep-alive"} if keep else {}
        await connection.send(request_bytes("POST", STREAM_PATH, SHORT, headers, version="1.0"))
        reply = await connection.reply()
        assert is_complete(reply)
        assert "transfer-encoding" not in reply.headers
        assert await connection.ended()


async def test_an_answer_for_an_old_client_has_its_length(rig: Rig) -> None:
    """HTTP/1.0 gets one answer whole, and may keep the connection if it says so."""
    async with connected(rig.listen) as connection:
        for _ in range(2):
            await connection.send(
                request_bytes("POST", f"{PREFIX}/generate", SHORT, {"Connection": "keep-alive"}, version="1.0")
            )
            reply = await connection.reply()
            assert int(reply.headers["content-length"]) == len(reply.body)
            assert reply.object["finish_reason"] == "length"


async def test_requests_sent_in_one_go_are_answered_in_order(rig: Rig) -> None:
    """A pipelining client gets each answer whole before the next begins."""
    async with connected(rig.listen) as connection:
        count = {"prompt": "a b c", "model": "m"}
        await connection.send(
            request_bytes("POST", STREAM_PATH, SHORT)
            + request_bytes("POST", f"{PREFIX}/count_token", dict(count))
            + request_bytes("POST", STREAM_PATH, SHORT)
        )
        assert is_complete(await connection.reply())
        assert (await connection.reply()).json == 3
        assert is_complete(await connection.reply())


async def test_a_client_may_ask_before_it_sends_its_body(rig: Rig) -> None:
    """`Expect: 100-continue` is told to go on."""
    async with connected(rig.listen) as connection:
        data = json.dumps(SHORT).encode()
        whole = request_bytes("POST", STREAM_PATH, data, {"Expect": "100-continue"})
        await connection.send(whole[: -len(data)])
        assert (await connection.head()).status == 100
        await connection.send(data)
        assert is_complete(await connection.reply())


async def test_a_body_in_chunks_is_read(rig: Rig) -> None:
    """A client need not know the length of its body."""
    data = json.dumps(SHORT).encode()
    async with connected(rig.listen) as connection:
        await connection.send(
            f"POST {STREAM_PATH} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n".encode()
        )
        await connection.send(data[:5] + b"\r\n")
        await connection.send(f"{len(data) - 5:x}\r\n".encode() + data[5:] + b"\r\n0\r\n\r\n")
        assert is_complete(await connection.reply())


async def test_head_has_no_body(rig: Rig) -> None:
    """HEAD is refused where GET is, and what is refused has no body that would look like the next answer."""
    async with connected(rig.listen) as connection:
        await connection.request("HEAD", f"{PREFIX}/generate")
        reply = await connection.reply(bodiless=True)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        await connection.request("GET", f"{PREFIX}/models/supports")
        assert (await connection.reply()).status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("generate_stream", {**HELLO, "max_new_tokens": 500}),
        ("generate", {**HELLO, "max_new_tokens": 500}),
        ("embeddings", {"model": "m", "input": ["a"] * 50}),
        ("generate_stream", {"model": "nobody"}),
    ],
)
async def test_answers_are_never_compressed(rig: Rig, path: str, body: JsonObject) -> None:
    """Clients offer codings that they cannot decode: nothing is coded, and no proxy is invited to keep a stream."""
    reply = await rig.post(path, body, accept_encoding="gzip, deflate, br, zstd")
    assert "content-encoding" not in reply.headers
    assert reply.body[:1] in (b"{", b"[")
    if path == "generate_stream" and body["model"] == "m":
        assert reply.headers["cache-control"] == "no-cache"


async def test_a_frame_goes_out_when_it_comes_in() -> None:
    """No frame waits for another one, nor for a buffer to fill."""
    proceed = asyncio.Event()

    async def part(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD + chunk(frame("Hello")))
        await proceed.wait()
        await visit.send(chunk(frame("Hello!", "stop")) + LAST_CHUNK)

    async with with_script(STREAM, part) as (rig, _), connected(rig.listen) as connection:
        await connection.request("POST", STREAM_PATH, HELLO)
        pieces = connection.pieces(await connection.head())
        assert frames_of(await pieces.__anext__())[0]["text"] == "Hell"
        proceed.set()
        assert frames_of(b"".join([piece async for piece in pieces]))[-1]["text"] == "Hello!"


# Towards the worker


async def test_a_stale_connection_to_the_worker_is_never_seen() -> None:
    """A worker that closes a kept connection in the moment of its next request is asked again on a fresh one."""
    seen: list[int] = []

    async def once_per_connection(visit: Visit, request: Request) -> None:
        if request.connection in seen:
            raise ConnectionResetError
        seen.append(request.connection)
        body = b'{"embedding": [[1.0]], "token_num": 1}'
        await visit.send(head(headers=[f"Content-Length: {len(body)}"]) + body)

    async with with_script("/worker_get_embeddings", once_per_connection) as (rig, worker):
        for _ in range(3):
            reply = await rig.post("embeddings", {"model": "m", "input": ["a"]})
            assert (reply.status, reply.json) == (200, [[1.0]])
        assert rig.gateway.pool.retried_stale == 2
        assert len(worker.struck) == 5
        assert await rig.outcomes() == {"ok": 3}
        assert await rig.upstream_errors() == {}


async def test_a_connection_that_the_worker_closed_is_not_used() -> None:
    """The demonstration worker closes idle connections soon; the next request simply takes another."""
    async with with_demo(keepalive=0.05) as (rig, _):
        for _ in range(2):
            assert (await rig.stream(SHORT))[-1]["finish_reason"] == "length"
            await rig.quiet()
            for _ in range(1000):
                if rig.gateway.pool.idle_now == 0:
                    break
                await asyncio.sleep(0.002)
            assert rig.gateway.pool.open_now == 0
        assert await rig.outcomes() == {"ok": 2}


async def test_a_kept_connection_is_used_again(both: tuple[Rig, DemoWorker]) -> None:
    """Requests one after the other need one connection to the worker."""
    rig, _ = both
    for _ in range(5):
        await rig.stream(SHORT)
    pool = rig.gateway.pool
    assert (pool.opened, pool.reused) == (1, 4)


async def test_the_worker_sees_none_of_the_client_s_headers() -> None:
    """Only what the rules say goes to a worker: no cookies, no codings, no host of somebody else."""
    async with scripted({}) as worker, running(worker.address) as rig:
        await rig.post("generate", HELLO, cookie="a=b", authorization="Bearer x", accept_encoding="gzip", te="trailers")
        request = next(request for request in worker.peer.requests if request.path == STREAM)
        assert request.headers == {
            "host": worker.address.removeprefix("http://"),
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": str(len(request.body)),
        }


# Headers that rules make of what a client sent

PACK = """
pack: mirror
description: A call whose headers come out of its body.
"""
ERRORS = """
kinds:
  default: {status: 500, code: 1}
body: {fields: {detail: error.message}}
"""
ROUTE = """
route: count
description: One count.
match: {method: POST, path: /count}
worker: {kind: llm, model: body.model}
request:
  path: /count_token
  headers: {X-Note: body.note}
  body: {fields: {model: worker.model, prompt: body.prompt}}
answer:
  headers: {X-Echo: body.echo}
  body: upstream.count
tests:
  - name: a count
    given: {request: {model: m, prompt: a, note: n, echo: e}, answers: [{count: 1}]}
    expect: {answer: 1}
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A pack with one route, which sends `note` to the worker and `echo` back to the client as headers."""
    (tmp_path / "pack.yaml").write_text(PACK)
    (tmp_path / "errors.yaml").write_text(ERRORS)
    (tmp_path / "count.yaml").write_text(ROUTE)
    return tmp_path


ASK: JsonObject = {"model": "m", "prompt": "a b", "note": "plain", "echo": "plain"}


def notes(requests: Sequence[Request]) -> list[str]:
    """The rule's header in what a worker got; the gateway's own probes, which come at any time, have none."""
    return [request.headers["x-note"] for request in requests if "x-note" in request.headers]


async def test_a_rule_s_headers_go_both_ways(mirror: Path) -> None:
    """A header of a rule reaches the worker and the client."""
    async with scripted({}) as worker, running(worker.address, rules=mirror) as rig:
        reply = await call(rig.listen, "POST", "/count", ASK)
        assert (reply.status, reply.json, reply.headers["x-echo"]) == (200, 2, "plain")
        assert notes(worker.peer.requests) == ["plain"]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\r\n\r\nHTTP/1.1 200 OK", "a\x00b"])
@pytest.mark.parametrize("field", ["note", "echo"])
async def test_a_header_cannot_be_smuggled_into_one(mirror: Path, field: str, value: str) -> None:
    """A value with a line end in it is refused, towards the worker and towards the client."""
    async with scripted({}) as worker, running(worker.address, rules=mirror) as rig:
        reply = await call(rig.listen, "POST", "/count", {**ASK, field: value})
        assert reply.status == 500
        name = "X-Note" if field == "note" else "X-Echo"
        assert f"header {name}: expected text without control characters" in str(reply.object["detail"])
        assert "x-evil" not in reply.headers
        assert all("x-evil" not in request.headers for request in worker.peer.requests)
        if field == "note":
            assert notes(worker.peer.requests) == []
        assert sum((await rig.outcomes()).values()) == 1


@pytest.mark.parametrize("field", ["note", "echo"])
async def test_a_header_without_a_value_is_not_sent(mirror: Path, field: str) -> None:
    """What the caller left out does not become the word None."""
    async with scripted({}) as worker, running(worker.address, rules=mirror) as rig:
        reply = await call(rig.listen, "POST", "/count", {**ASK, field: None})
        assert reply.status == 200
        assert ("x-echo" in reply.headers) is (field == "note")
        assert bool(notes(worker.peer.requests)) is (field == "echo")


async def test_text_outside_ascii_in_a_header_reaches_the_worker(mirror: Path) -> None:
    """A value in another script goes out in UTF-8, or is refused; it never breaks the request."""
    async with scripted({}) as worker, running(worker.address, rules=mirror) as rig:
        assert (await call(rig.listen, "POST", "/count", {**ASK, "note": "你好"})).json == 2
        assert [note.encode("latin-1").decode() for note in notes(worker.peer.requests)] == ["你好"]


async def test_the_demonstration_worker_was_asked_once(both: tuple[Rig, DemoWorker]) -> None:
    """One request of a client is one request to a worker."""
    rig, worker = both
    before = len(asked(worker))
    await rig.stream(SHORT)
    assert len(asked(worker)) == before + 1
