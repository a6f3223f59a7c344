"""A client that leaves costs nobody anything from then on, whatever its request was doing."""

from __future__ import annotations

import asyncio

import pytest

from proxy.types import Json, JsonObject
from tests.gateway.client import Connection
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, until, with_demo, with_script
from tests.gateway.scripted import COUNT, EMBEDDINGS, STREAM, STREAM_HEAD, ScriptedWorker, chunk, frame, then_gone
from tests.hostile import Request, Visit, head

BEGUN = STREAM_HEAD + chunk(frame("Hel")) + chunk(frame("Hello"))
LONG: JsonObject = {
    "model": "m",
    "messages": [{"role": "human", "content": "word " * 600}],
    "max_new_tokens": 2000,
}
VECTORS: JsonObject = {"model": "m", "input": ["a"]}

leaving = pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])


class Waiting:
    """A part that sends a beginning, waits, and knows when its connection was dropped."""

    def __init__(self, *begin: bytes) -> None:
        self.reached = asyncio.Event()
        self.dropped = asyncio.Event()
        self._hold = then_gone(*begin)

    async def __call__(self, visit: Visit, request: Request) -> None:
        self.reached.set()
        try:
            await self._hold(visit, request)
        finally:
            self.dropped.set()


async def left(rig_outcomes: dict[str, int], worker: ScriptedWorker) -> None:
    assert rig_outcomes == {"cancelled": 1}
    assert len(worker.struck) == 1


PHASES: list[tuple[str, str, str, Json, tuple[bytes, ...]]] = [
    ("before the head", "generate_stream", STREAM, HELLO, ()),
    ("before the first frame", "generate_stream", STREAM, HELLO, (STREAM_HEAD,)),
    ("within the first frame", "generate_stream", STREAM, HELLO, (STREAM_HEAD, chunk(b'{"text"'))),
    ("before one answer", "generate", STREAM, HELLO, ()),
    ("within one answer", "generate", STREAM, HELLO, (BEGUN,)),
    ("during embeddings", "embeddings", EMBEDDINGS, VECTORS, ()),
    ("within vectors", "embeddings", EMBEDDINGS, VECTORS, (head(headers=["Content-Length: 9"]), b"{")),
    ("during a count", "count_token", COUNT, {"prompt": "a"}, ()),
    ("during the count before a chat", "generate_stream", COUNT, LONG, ()),
]


@leaving
@pytest.mark.parametrize(("call", "path", "body", "begin"), [p[1:] for p in PHASES], ids=[p[0] for p in PHASES])
async def test_the_worker_is_dropped_at_once(
    call: str, path: str, body: Json, begin: tuple[bytes, ...], reset: bool
) -> None:
    """The connection to the worker closes, the lease ends, and the request counts as cancelled."""
    part = Waiting(*begin)
    async with with_script(path, part) as (rig, worker):
        connection = await Connection.open(rig.listen)
        await connection.request("POST", f"{PREFIX}/{call}", body)
        await asyncio.wait_for(part.reached.wait(), 5)
        (view,) = rig.gateway.fleet.workers()
        assert view.in_flight == 1
        await connection.leave(reset=reset)
        await asyncio.wait_for(part.dropped.wait(), 1)
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 1}
        assert await rig.upstream_errors() == {}
        assert len(worker.struck) == 1
        (view,) = rig.gateway.fleet.workers()
        assert view.outcomes == {"success": 0, "neutral": 1, "failure": 0}


@leaving
async def test_in_mid_stream_the_worker_is_dropped_at_once(reset: bool) -> None:
    """A client that has read some frames and leaves ends the worker's stream too."""
    part = Waiting(BEGUN)
    async with with_script(STREAM, part) as (rig, _):
        connection = await Connection.open(rig.listen)
        await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
        pieces = connection.pieces(await connection.head())
        assert b'"He"' in await pieces.__anext__()
        await connection.leave(reset=reset)
        await asyncio.wait_for(part.dropped.wait(), 1)
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 1}


@leaving
@pytest.mark.parametrize("call", ["generate_stream", "generate"])
async def test_the_worker_s_slot_is_free_again(call: str, reset: bool) -> None:
    """With one slot at the worker, the next caller gets it although the first answer was far from over."""
    async with with_demo(chunks_per_second=20, words=1000, concurrency=1) as (rig, worker):
        connection = await Connection.open(rig.listen)
        await connection.request("POST", f"{PREFIX}/{call}", HELLO)
        await until(lambda: worker.queue_length == 1, lambda: "the worker was not asked")
        await connection.leave(reset=reset)
        await until(lambda: worker.queue_length == 0, lambda: "the slot stays taken", 1)
        answer = await rig.post("generate", {**HELLO, "max_new_tokens": 1})
        assert answer.object["finish_reason"] == "length"
        assert await rig.outcomes() == {"cancelled": 1, "ok": 1}


@leaving
async def test_while_waiting_for_another_s_embeddings(reset: bool) -> None:
    """Who leaves the queue for a worker's embeddings is never sent there, and whoever is there is not disturbed."""
    proceed = asyncio.Event()

    async def part(visit: Visit, _: Request) -> None:
        await proceed.wait()
        body = b'{"embedding": [[1.0]], "token_num": 1}'
        await visit.send(head(headers=[f"Content-Length: {len(body)}"]) + body)

    async with with_script(EMBEDDINGS, part) as (rig, worker):
        first, second = await Connection.open(rig.listen), await Connection.open(rig.listen)
        await first.request("POST", f"{PREFIX}/embeddings", VECTORS)
        await until(lambda: len(worker.struck) == 1, lambda: "the worker was not asked")
        await second.request("POST", f"{PREFIX}/embeddings", VECTORS)
        fleet, address = rig.gateway.fleet, worker.address
        await until(lambda: fleet.in_flight(address) == 2, lambda: "the second does not wait")
        await second.leave(reset=reset)
        await until(lambda: fleet.in_flight(address) == 1, lambda: "the second still waits", 1)
        proceed.set()
        assert (await first.reply()).json == [[1.0]]
        await first.leave()
        assert len(worker.struck) == 1
        assert await rig.outcomes() == {"cancelled": 1, "ok": 1}


@leaving
async def test_within_its_own_request(reset: bool) -> None:
    """A client that leaves before its body is complete has asked nothing of anybody."""
    async with with_demo() as (rig, worker):
        connection = await Connection.open(rig.listen)
        await connection.send(
            f"POST {PREFIX}/generate HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\n".encode() + b'{"model"'
        )
        await asyncio.sleep(0.01)  # so that the request has begun; nothing outside tells when it has
        await connection.leave(reset=reset)
        await rig.quiet()
        assert "/worker_generate_stream" not in [path for path, _ in worker.requests]


@leaving
async def test_many_at_once(reset: bool) -> None:
    """A crowd that leaves in the same moment leaves nothing behind."""
    async with with_demo(chunks_per_second=50, words=500, concurrency=40) as (rig, worker):
        connections = [await Connection.open(rig.listen) for _ in range(40)]
        for connection in connections:
            await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
        await until(lambda: worker.queue_length == 40, lambda: f"only {worker.queue_length} were asked")
        for connection in connections:
            await connection.leave(reset=reset)
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 40}
