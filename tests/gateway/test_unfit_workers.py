"""A rule that can ask workers of one kind only, where there are others of the same model."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from proxy.fleet.facts import WorkerReport
from proxy.types import JsonObject
from tests.gateway.client import Connection, call
from tests.gateway.rig import until
from tests.gateway.scripted import json_response
from tests.gateway.two_backends import talker, talking, write_packs
from tests.hostile import Request, Visit

SIZES = """\
route: sizes
description: x
match: {method: POST, path: /sizes}
worker: {kind: llm, model: body.model}
call: {operation: embed, with: {input: body.texts}}
answer: {body: {fields: {sizes: vectors}}}
"""
EMBED = """\
name: embed
operation: embed
description: x
request: {path: /old, body: {fields: {texts: call.input}}}
result: {fields: {vectors: upstream.sizes}}
"""


def packs(folder: Path) -> Path:
    write_packs(folder)
    (folder / "talk" / "sizes.yaml").write_text(SIZES, encoding="utf-8")
    (folder / "backends" / "old" / "embed.yaml").write_text(EMBED, encoding="utf-8")
    return folder


async def test_a_request_waits_on_for_a_worker_that_it_can_ask(tmp_path: Path) -> None:
    """The new one is free at once and serves the model, but the request's rule cannot ask it."""
    door = asyncio.Event()

    async def slow(visit: Visit, _: Request) -> None:
        await door.wait()
        await visit.send(json_response({"sizes": [[1]]}))

    async with (
        talker("old", "Old", part=slow) as old,
        talker("new", "New") as new,
        talking(packs(tmp_path), old, limit=1) as rig,
    ):
        fleet = rig.gateway.fleet
        body: JsonObject = {"model": "m", "texts": ["x"]}
        first = asyncio.create_task(call(rig.listen, "POST", "/sizes", body))
        await until(lambda: len(old.asked) == 1, lambda: "not asked")
        second = asyncio.create_task(call(rig.listen, "POST", "/sizes", body))
        await until(lambda: sum(row.waiting for row in fleet.queues()) == 1, lambda: "does not wait")
        facts = fleet.workers()[0].models[0]
        document = {**facts.document, "backend": "new", "address": new.peer.url}
        fleet.report(WorkerReport(new.peer.url, (replace(facts, document=document),)), time.monotonic())
        await asyncio.sleep(0.02)
        door.set()
        assert [(await each).object for each in (first, second)] == [{"sizes": [[1]]}] * 2
        assert new.peer.requests == []


async def test_a_worker_that_is_down_may_come_back(tmp_path: Path) -> None:
    """That the only one which the rule can ask is away is no mistake of the request, whoever else serves the model."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(packs(tmp_path), old, new) as rig,
    ):
        body: JsonObject = {"model": "m", "texts": ["x"]}
        rig.gateway.fleet.fail(old.peer.url, "gone", time.monotonic())
        reply = await call(rig.listen, "POST", "/sizes", body)
        assert (reply.status, reply.object["kind"]) == (503, "model_unavailable")


async def test_a_model_of_which_no_worker_can_be_asked(tmp_path: Path) -> None:
    """Waiting changes nothing, and so the client is told."""
    async with talker("new", "New") as new, talking(packs(tmp_path), new) as rig:
        reply = await call(rig.listen, "POST", "/sizes", {"model": "m", "texts": ["x"]})
        assert reply.object["kind"] == "unsupported"
        assert "of a kind that the rule cannot ask" in str(reply.object["detail"])


async def test_a_mere_question_to_a_busy_worker(tmp_path: Path) -> None:
    """It takes no place there, and is put to nobody who cannot be asked, or who is not the one that was named."""
    rules = packs(tmp_path)
    (rules / "backends" / "new" / "count.yaml").unlink()
    backend = rules / "backends" / "new" / "backend.yaml"
    backend.write_text(backend.read_text().replace("context_length: 100", "context_length: 50"))

    async def hangs(visit: Visit, _: Request) -> None:
        await visit.gone()
        raise ConnectionResetError

    async with (
        talker("old", "Old", part=hangs) as old,
        talker("old", "Older", part=hangs) as older,
        talker("new", "New") as new,
        talking(rules, old, older, new, limit=1, balance={"pin_header": "X-Worker"}) as rig,
    ):
        both = [old, older]
        body: JsonObject = {"model": "m", "text": "x"}
        clients = [await Connection.open(rig.listen) for _ in both]
        for client, each in zip(clients, both, strict=True):
            await client.request("POST", "/talk", body, x_worker=each.peer.url)
        await until(lambda: all(each.asked for each in both), lambda: "not busy")
        assert (await call(rig.listen, "POST", "/length", body)).object["tokens"] in {3, 5}
        for each, tokens in ((old, 3), (older, 5)):
            reply = await call(rig.listen, "POST", "/length", body, x_worker=each.peer.url)
            assert reply.object["tokens"] == tokens
        for client in clients:
            await client.leave()
