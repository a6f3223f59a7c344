"""What operators see and do, on a gateway that runs: workers, models, rules; and what clusters may ask of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.fleet.facts import WorkerReport
from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeRegistry, eventually
from tests.gateway.client import call, frames_of
from tests.gateway.rig import HELLO, Rig, demo_worker, running

NOT_DONE = "Not done: the models of this address are served by FastChat workers behind a gateway"


async def _page(rig: Rig, path: str) -> Json:
    return (await call(rig.gateway.admin, "GET", path, connection="close")).json


async def _rows(rig: Rig, path: str) -> list[JsonObject]:
    rows = await _page(rig, path)
    assert isinstance(rows, list)
    return [row for row in rows if isinstance(row, dict)]


async def _act(rig: Rig, path: str) -> JsonObject:
    reply = await call(rig.gateway.admin, "POST", path, connection="close")
    assert reply.status == 200, reply
    return reply.object


async def test_the_page_of_workers() -> None:
    """One that answers and one that does not, each with everything that is known of it."""
    async with demo_worker("m") as worker, running(worker.address, "http://127.0.0.1:9") as rig:
        await rig.post("generate", HELLO)
        by_address = {row["address"]: row for row in await _rows(rig, "/workers")}
        up, down = by_address[worker.address], by_address["http://127.0.0.1:9"]
        assert up["id"] == worker.address.removeprefix("http://")
        assert up["models"] == [{"model": "m", "kinds": ["llm", "text2vec"]}]
        assert (up["up"], up["in_flight"], up["limit"], up["breaker"]) == (True, 0, 5, "closed")
        assert (up["drained"], up["degraded"], up["sources"], up["foreign"]) == (False, None, ["settings"], 0)
        outcomes = up["outcomes"]
        assert isinstance(outcomes, dict)
        assert outcomes["success"] == 1
        assert (down["up"], down["models"]) == (False, [])
        assert "connection refused" in str(down["reason"])


async def test_a_drained_worker_gets_nothing_new() -> None:
    """Its stream goes on to its end, a new request is refused, and once enabled it is used again."""
    async with demo_worker("m", chunks_per_second=30) as slow, running(slow.address) as rig:
        stream = asyncio.create_task(rig.stream(HELLO))
        await eventually(lambda: rig.gateway.fleet.in_flight(slow.address))
        worker = slow.address.removeprefix("http://")
        drained = await _act(rig, f"/workers/{worker}/drain")
        assert (drained["drained"], drained["in_flight"]) == (True, 1)
        reply = await rig.post("generate", HELLO)
        assert reply.object["error_code"] == 50005
        assert (await stream)[-1]["finish_reason"] == "stop"
        assert (await _act(rig, f"/workers/{worker}/enable"))["drained"] is False
        assert "text" in (await rig.post("generate", {**HELLO, "max_new_tokens": 2})).object
        assert (await call(rig.gateway.admin, "POST", "/workers/nobody/drain", connection="close")).status == 404


async def test_the_page_of_models() -> None:
    """Each model and kind, with its names, its fallback and whether it can be answered."""
    models = {"m": {"aliases": ["gpt-4"]}, "big": {"fallback": "m"}}
    async with demo_worker("m") as worker, running(worker.address, models=models) as rig:
        rows = {(row["model"], row["kind"]): row for row in await _rows(rig, "/models")}
        assert rows["m", "llm"] == {
            "model": "m", "name": "m", "kind": "llm", "answerable": True, "in_service": True, "workers": 1,
            "aliases": ["gpt-4"], "fallback": None, "waiting": 0,
        }  # fmt: skip
        assert (rows["big", "llm"]["fallback"], rows["big", "llm"]["answerable"]) == ("m", True)


async def test_an_alias_is_answered_as_its_own_name() -> None:
    """Calls, descriptions and lists know an alias as if it were a model."""
    models = {"m": {"aliases": ["gpt-4"]}}
    async with demo_worker("m") as worker, running(worker.address, models=models) as rig:
        assert "text" in (await rig.post("generate", {**HELLO, "model": "gpt-4"})).object
        assert (await rig.post("model_metadata", {"model": "gpt-4"})).object["model"] == "gpt-4"
        supports = await call(rig.listen, "GET", "/api/worker/models/supports", connection="close")
        (manager,) = supports.json if isinstance(supports.json, list) else []
        assert isinstance(manager, dict)
        listed = manager["models"]
        assert isinstance(listed, list)
        names = {str(row["model"]) for row in listed if isinstance(row, dict)}
        assert names == {"m", "gpt-4"}


async def test_the_page_of_rules() -> None:
    """Packs, and each route with the place where it is written; no reload yet."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        page = await _page(rig, "/rules")
        assert isinstance(page, dict)
        assert "dbgpt-worker" in str(page["packs"])
        assert page["last_reload"] is None
        routes = page["routes"]
        assert isinstance(routes, list)
        (stream,) = [row for row in routes if isinstance(row, dict) and row["route"] == "generate_stream"]
        assert stream["path"] == "/api/worker/generate_stream"
        file, _, line = str(stream["place"]).rpartition(":")
        assert Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1] == "route: generate_stream"
        assert stream["never_applied"] is True
        operations = page["operations"]
        assert isinstance(operations, list)
        assert {"fastchat", "openai"} <= {str(row["backend"]) for row in operations if isinstance(row, dict)}


async def test_readiness_shows_no_raw_names() -> None:
    """Names that workers chose cannot break the line, nor fill the page."""
    names = ["a'b", "a\u2028b\u202e", *(f"{'x' * 150}{number}" for number in range(30))]
    async with demo_worker(*names) as worker, running(worker.address) as rig:
        reply = await call(rig.gateway.admin, "GET", "/readyz", connection="close")
        text = reply.body.decode()
        assert reply.status == 200
        assert text.count("\n") == 1
        assert not {"\u2028", "\u202e"} & {*text}
        assert r"a\u2028b\u202e" in text
        assert "a'b" in text
        assert len(text) < 3_000


async def test_workers_that_left_leave_no_series() -> None:
    """A worker that is gone for good makes room for another one in the metrics."""
    gone = "http://127.0.0.1:9"
    async with demo_worker("m") as worker, running(worker.address, gone) as rig:
        assert any(dict(labels).get("worker") == gone for _, labels in await rig.scrape())
        rig.gateway.fleet.forget(gone, time.monotonic())
        assert not any(dict(labels).get("worker") == gone for _, labels in await rig.scrape())
        assert any(dict(labels).get("worker") == worker.address for _, labels in await rig.scrape())


async def test_models_that_are_forgotten_leave_no_series() -> None:
    """Models that come and go for ever use up no places: their series go once the fleet does not know them any more."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        fleet = rig.gateway.fleet
        facts = fleet.known("m")
        assert facts is not None

        async def named() -> set[str]:
            return {dict(labels).get("model", "") for _, labels in await rig.scrape()}

        def serve(name: str) -> None:
            now = replace(facts, model=name, document={**facts.document, "model": name})
            fleet.report(WorkerReport(worker.address, (now,)), time.monotonic())

        serve("old")
        await rig.post("model_metadata", {"model": "old"})
        assert "old" in await named()
        for number in range(2_000):
            serve(f"m{number}")
        await rig.post("model_metadata", {"model": "m1999"})
        left = await named()
        assert "old" not in left
        assert "m1999" in left


# --- towards clusters


async def test_clusters_follow_within_two_seconds() -> None:
    """A drained worker, a fallback and an alias change what is registered, each within two seconds."""
    registry = FakeRegistry()
    await registry.start()
    models = {"m": {"aliases": ["gpt-4"]}, "big": {"fallback": "m"}}
    async with (
        demo_worker("m") as worker,
        running(worker.address, models=models, dbgpt={"controllers": [registry.url]}) as rig,
    ):
        every = {f"{name}@{kind}" for name in ("m", "gpt-4", "big") for kind in ("llm", "text2vec")}
        await eventually(lambda: registry.keys == {*every, "WorkerManager@service"}, seconds=2)
        await _act(rig, f"/workers/{worker.address.removeprefix('http://')}/drain")
        await eventually(lambda: registry.keys == {"WorkerManager@service"}, seconds=2)
        await _act(rig, f"/workers/{worker.address.removeprefix('http://')}/enable")
        await eventually(lambda: registry.keys == {*every, "WorkerManager@service"}, seconds=2)
    assert registry.rows == {}
    await registry.stop()


async def test_a_cluster_takes_a_model_out_of_service() -> None:
    """With management the model's rows go, its stream goes on, new requests find it unavailable; then it comes back."""
    registry = FakeRegistry()
    await registry.start()
    dbgpt = {"controllers": [registry.url], "management": True}
    async with demo_worker("m", "n", chunks_per_second=30) as worker, running(worker.address, dbgpt=dbgpt) as rig:
        await eventually(lambda: {"m@llm", "m@text2vec", "n@llm"} <= registry.keys, seconds=2)
        stream = asyncio.create_task(rig.stream(HELLO))
        await eventually(lambda: rig.gateway.fleet.in_flight(worker.address))
        stop: JsonObject = {"host": "h", "port": 1, "model": "m", "worker_type": "llm", "params": {}}
        assert (await rig.post("models/shutdown", stop)).status == 200
        await eventually(lambda: "m@llm" not in registry.keys, seconds=2)
        assert {"m@text2vec", "n@llm", "n@text2vec"} <= registry.keys
        refused = (await rig.post("generate", HELLO)).object
        assert (refused["error_code"], refused["text"]) == (50005, "the model 'm' is out of service")
        assert (await rig.post("embeddings", {"model": "m", "input": ["a"]})).status == 200
        assert (await rig.post("model_metadata", {"model": "m"})).status == 200
        assert (await stream)[-1]["finish_reason"] == "stop"
        service = {(row["model"], row["kind"]): row["in_service"] for row in await _rows(rig, "/models")}
        assert [key for key, here in service.items() if not here] == [("m", "llm")]
        assert (await rig.post("models/startup", stop)).status == 200
        await eventually(lambda: "m@llm" in registry.keys, seconds=2)
        assert "text" in (await rig.post("generate", {**HELLO, "max_new_tokens": 2})).object
    await registry.stop()


async def test_a_model_is_stopped_under_any_of_its_names() -> None:
    """An alias means its model, and without a kind all that it can do."""
    settings = {"models": {"m": {"aliases": ["gpt-4"]}}, "dbgpt": {"management": True}}
    async with demo_worker("m") as worker, running(worker.address, given=settings) as rig:
        assert (await rig.post("models/shutdown", {"model": "gpt-4"})).status == 200
        assert (await rig.post("generate", HELLO)).object["error_code"] == 50005
        assert (await rig.post("embeddings", {"model": "gpt-4", "input": ["a"]})).status == 503
        ready = await call(rig.gateway.admin, "GET", "/readyz", connection="close")
        assert (ready.status, ready.body) == (503, b"no worker can answer any model\n")


@pytest.mark.parametrize("call_name", ["models/startup", "models/shutdown"])
async def test_without_management_nothing_is_done(call_name: str) -> None:
    """The refusal is no 200 and says in words that the models are somebody else's."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        reply = await rig.post(call_name, {"model": "m", "worker_type": "llm"})
        assert reply.status == 501
        assert str(reply.object["detail"]).startswith(NOT_DONE)
        assert "text" in (await rig.post("generate", {**HELLO, "max_new_tokens": 2})).object


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "stranger", "worker_type": "llm"}, 501),
        ({"model": "m", "worker_type": "reranker"}, 501),
        ({"model": "m", "worker_type": 7}, 400),
        ({"model": ""}, 400),
        ({"model": ["m"]}, 400),
        ({"model": "m" * 10_000}, 400),
        ({}, 400),
    ],
)
async def test_what_cannot_be_stopped(body: JsonObject, status: int) -> None:
    """A model that nobody serves, a kind that it has not, and a request that is none: refused, nothing changed."""
    async with demo_worker("m") as worker, running(worker.address, dbgpt={"management": True}) as rig:
        reply = await rig.post("models/shutdown", body)
        assert reply.status == status, reply
        assert reply.object["detail"]
        frames = frames_of((await rig.post("generate_stream", HELLO)).body)
        assert frames[-1]["error_code"] == 0
