"""Embeddings: parts, order, one call at a time for each worker."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.server import attempt
from proxy.server.turns import Turns
from proxy.types import Json, JsonObject
from tests.gateway.rig import running, until, with_script
from tests.gateway.scripted import EMBEDDINGS, Part, json_response, scripted
from tests.hostile import Request, Visit


class Embedder:
    """Answers each text with its length and position; knows how many calls it had at once. `gate` holds it up."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.short = 0

    async def __call__(self, visit: Visit, request: Request) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.gate.wait()
        await asyncio.sleep(0)
        texts = json.loads(request.body)["input"]
        vectors: list[Json] = [[float(text), 0.5] for text in texts[: len(texts) - self.short]]
        self.now -= 1
        await visit.send(json_response({"embedding": vectors, "token_num": len(texts)}))


def asking(count: int, start: int = 0) -> JsonObject:
    return {"model": "m", "input": [str(number) for number in range(start, start + count)]}


def vectors(count: int, start: int = 0) -> Json:
    return [[float(number), 0.5] for number in range(start, start + count)]


@pytest.mark.parametrize(("count", "parts"), [(1, [1]), (8, [8]), (9, [8, 1]), (50, [8] * 6 + [2])])
async def test_many_texts_are_asked_for_in_parts(count: int, parts: list[int]) -> None:
    """The worker gets a few at a time, one part after the other; the caller gets all in its order."""
    embedder = Embedder()
    async with with_script(EMBEDDINGS, embedder) as (rig, worker):
        reply = await rig.post("embeddings", asking(count))
        assert (reply.status, reply.json) == (200, vectors(count))
        assert embedder.most == 1
        assert [len(list(body["input"])) for body in worker.struck if isinstance(body["input"], list)] == parts


async def test_a_batch_whose_answer_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused once so much has come, in words that help; the worker is to blame for nothing."""
    monkeypatch.setattr(attempt, "ANSWERS_MAX_BYTES", 400)
    async with with_script(EMBEDDINGS, Embedder()) as (rig, worker):
        reply = await rig.post("embeddings", asking(200))
        assert reply.status == 413, reply
        assert b"more than 400 bytes; ask for less at once" in reply.body
        assert len(worker.struck) < 10
        assert (await rig.post("embeddings", asking(8))).status == 200
        assert await rig.outcomes() == {"client_error": 1, "ok": 1}


async def test_one_call_at_a_time_for_each_worker() -> None:
    """A worker computes on its event loop, so callers wait for each other here and not there; none is mixed up."""
    embedder = Embedder()
    async with with_script(EMBEDDINGS, embedder) as (rig, _):
        replies = await asyncio.gather(*(rig.post("embeddings", asking(20, start)) for start in range(0, 200, 20)))
        assert [reply.json for reply in replies] == [vectors(20, start) for start in range(0, 200, 20)]
        assert embedder.most == 1


async def test_another_worker_is_not_waited_for() -> None:
    """Two workers compute at the same time."""
    one, two = Embedder(), Embedder()
    one.gate.clear()
    two.gate.clear()
    async with (
        scripted({EMBEDDINGS: one}) as first,
        scripted({EMBEDDINGS: two}) as second,
        running(first.address, second.address) as rig,
    ):
        first.arm()
        second.arm()
        both = asyncio.gather(*(rig.post("embeddings", asking(3)) for _ in range(2)))
        await until(lambda: one.now == two.now == 1, lambda: "one waits for the other")
        one.gate.set()
        two.gate.set()
        assert [reply.json for reply in await both] == [vectors(3)] * 2


async def test_a_chat_is_not_held_up_by_embeddings() -> None:
    """Only embeddings wait for embeddings."""
    embedder = Embedder()
    embedder.gate.clear()
    async with with_script(EMBEDDINGS, embedder) as (rig, _):
        waiting = asyncio.create_task(rig.post("embeddings", asking(3)))
        await until(lambda: embedder.now == 1, lambda: "the worker was not asked")
        chat = await rig.stream({"model": "m", "prompt": "Hello"})
        assert chat[-1]["text"] == "Hello!"
        embedder.gate.set()
        assert (await waiting).json == vectors(3)


@pytest.mark.parametrize("count", [3, 9])
async def test_a_vector_too_few_is_an_error(count: int) -> None:
    """Vectors that cannot be told apart are not handed out."""
    embedder = Embedder()
    embedder.short = 1
    async with with_script(EMBEDDINGS, embedder) as (rig, _):
        reply = await rig.post("embeddings", asking(count))
        parts = -(-count // 8)
        assert (reply.status, reply.object["error_code"]) == (502, 50001)
        assert reply.object["detail"] == f"the worker gave {count - parts} vectors for {count} texts"
        assert await rig.outcomes() == {"upstream_error": 1}


async def test_a_failure_in_a_later_part_fails_the_call() -> None:
    """No part is left out, and nothing more is asked once one has failed."""
    embedder = Embedder()
    calls: list[Part] = [embedder, embedder]

    async def third_fails(visit: Visit, request: Request) -> None:
        if calls:
            await calls.pop()(visit, request)
        else:
            await visit.send(json_response({"text": "out of memory", "error_code": 50002}))

    async with with_script(EMBEDDINGS, third_fails) as (rig, worker):
        reply = await rig.post("embeddings", asking(40))
        assert (reply.status, reply.object["error_code"]) == (502, 50002)
        assert len(worker.struck) == 3
        reply = await rig.post("embeddings", asking(1))
        assert reply.status == 502


async def test_no_texts_need_no_worker() -> None:
    """An empty list of texts has an empty list of vectors."""
    embedder = Embedder()
    async with with_script(EMBEDDINGS, embedder) as (rig, worker):
        reply = await rig.post("embeddings", asking(0))
        assert (reply.status, reply.json) == (200, [])
        assert worker.struck == []


async def test_a_short_call_does_not_wait_for_a_long_one() -> None:
    """Callers take turns after each part, and afterwards nobody is remembered."""
    embedder = Embedder()
    embedder.gate.clear()
    async with with_script(EMBEDDINGS, embedder) as (rig, worker):
        long = asyncio.create_task(rig.post("embeddings", asking(80)))
        await until(lambda: embedder.now == 1, lambda: "the worker was not asked")
        short = asyncio.create_task(rig.post("embeddings", asking(2, 500)))
        await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 2, lambda: "the second does not wait")
        embedder.gate.set()
        assert (await short).json == vectors(2, 500)
        assert (await long).json == vectors(80)
        assert [body["input"] for body in worker.struck].index(["500", "501"]) <= 2
        assert embedder.most == 1
        gateway = rig.gateway.gateway
        assert gateway is not None
        turns = gateway._facilities.turns
        assert isinstance(turns, Turns)
        assert len(turns) == 0


async def test_vectors_of_two_models_make_no_answer() -> None:
    """Where a fallback stands in for a worker that fails between two parts, all vectors are the fallback's."""
    asked = 0

    async def fails_second(visit: Visit, request: Request) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            await visit.send(json_response({"text": "out of memory", "error_code": 50002}))
        else:
            await visit.send(json_response({"embedding": [[-1.0]] * 8, "token_num": 8}))

    embedder = Embedder()
    async with (
        scripted({EMBEDDINGS: fails_second}, ["m"]) as first,
        scripted({EMBEDDINGS: embedder}, ["other"]) as second,
        running(first.address, second.address, models={"m": {"fallback": "other"}}) as rig,
    ):
        first.arm()
        second.arm()
        reply = await rig.post("embeddings", asking(20))
        assert (reply.status, reply.json) == (200, vectors(20))
        assert len(first.struck) == 2
