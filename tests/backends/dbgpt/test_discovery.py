"""DB-GPT's own workers, found in the registries of its controllers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.backends.dbgpt.discovery import DbgptFinders
from proxy.backends.declared.entries import planned_looks
from proxy.backends.fastchat.look import FastChatLooks
from proxy.backends.workers.look import Looks
from proxy.backends.workers.source import FleetSource
from proxy.fleet.table import Fleet
from proxy.types import JsonObject
from tests.backends.declared.harness import rules
from tests.backends.fakes import DbgptWorker, FakeRegistry, FakeServer, eventually
from tests.backends.fastchat.harness import FAST, Knowledge

RULES = """
backend: dbgpt-worker
description: x
probe:
  status:
    path: /api/worker/parameter/descriptions
    query: {model: "models[0].name", worker_type: "models[0].kinds[0]"}
  model:
    method: POST
    path: /api/worker/model_metadata
    body: {fields: {model: model}}
    when: contains(kinds, 'llm')
    context_length: answer.context_length
"""


class Cluster:
    """A fleet whose workers come from registries; servers are stopped at the end."""

    def __init__(self) -> None:
        self.fleet = Fleet(max_workers=8, max_models_per_worker=8)
        self.events: Counter[tuple[str, str]] = Counter()
        self.finders = DbgptFinders(self.count)
        self.finders.looks = planned_looks(
            "dbgpt-worker", rules(RULES)["dbgpt-worker"], self.finders.entry, Knowledge(), FAST
        )
        self.own: set[str] = set()
        self._servers: list[FakeServer] = []
        self._running: list[tuple[FleetSource, asyncio.Task[None]]] = []

    async def serve(self, *servers: FakeServer) -> None:
        for server in servers:
            await server.start()
            self._servers.append(server)

    async def source(self, *registries: FakeRegistry, workers: dict[str, Looks] | None = None) -> FleetSource:
        source = FleetSource(
            self.fleet,
            workers=workers,
            controllers={registry.url: self.finders for registry in registries},
            settings=FAST,
            is_own=self._is_own,
            on_event=self.count,
        )
        await source.first_look()
        self._running.append((source, asyncio.create_task(source.run())))
        return source

    async def _is_own(self, address: str) -> bool:
        return address in self.own

    def count(self, name: str, /, **labels: str) -> None:
        self.events[name, labels["result"]] += 1

    def answerable(self) -> set[str]:
        return {f"{model}@{kind}" for model, kind in self.fleet.answerable()}

    async def close(self) -> None:
        for source, task in self._running:
            assert not task.done(), "the source ended by itself"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()
        for server in self._servers:
            await server.stop()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    await cluster.close()


def put(registry: FakeRegistry, *rows: JsonObject) -> None:
    registry.rows = {(str(row["model_name"]), str(row["host"]), int(str(row["port"]))): row for row in rows}


async def test_a_worker_is_what_its_rows_say(cluster: Cluster) -> None:
    """Several rows of one address are one worker; what an llm needs is asked of the worker, vectors need nothing."""
    worker, registry = DbgptWorker(qwen=8192), FakeRegistry()
    await cluster.serve(worker, registry)
    put(registry, worker.row("qwen@llm"), worker.row("bge@text2vec"), worker.row("WorkerManager@service"))
    await cluster.source(registry)
    assert cluster.answerable() == {"qwen@llm", "bge@text2vec"}
    (view,) = cluster.fleet.workers()
    assert view.address == worker.url
    facts = cluster.fleet.known("qwen")
    assert facts is not None
    assert (facts.document["backend"], facts.document["context_length"]) == ("dbgpt-worker", 8192)
    assert worker.count("/api/worker/model_metadata") == 1


async def test_rows_come_and_go(cluster: Cluster) -> None:
    """A row that vanishes, or that is no longer healthy, takes its model away at once; the last, the worker."""
    worker, registry = DbgptWorker(a=1024, b=2048), FakeRegistry()
    await cluster.serve(worker, registry)
    put(registry, worker.row("a@llm"))
    await cluster.source(registry)
    assert cluster.answerable() == {"a@llm"}
    put(registry, worker.row("a@llm"), worker.row("b@llm"))
    await eventually(lambda: cluster.answerable() == {"a@llm", "b@llm"})
    put(registry, worker.row("a@llm", healthy=False), worker.row("b@llm"))
    await eventually(lambda: cluster.answerable() == {"b@llm"})
    put(registry)
    await eventually(lambda: not cluster.answerable())
    (view,) = cluster.fleet.workers()
    assert view.reason == "none of its models can be used: no controller says that it is healthy"
    put(registry, worker.row("b@llm"))
    await eventually(lambda: cluster.answerable() == {"b@llm"})


async def test_another_kind_of_the_same_model(cluster: Cluster) -> None:
    """What a row adds is seen although the names are the same."""
    worker, registry = DbgptWorker(m=1024), FakeRegistry()
    await cluster.serve(worker, registry)
    put(registry, worker.row("m@text2vec"))
    await cluster.source(registry)
    assert cluster.answerable() == {"m@text2vec"}
    put(registry, worker.row("m@text2vec"), worker.row("m@llm"))
    await eventually(lambda: cluster.answerable() == {"m@text2vec", "m@llm"})


async def test_a_controller_that_is_not_there_takes_nothing(cluster: Cluster) -> None:
    """The workers are asked themselves, and a restarted controller that knows nobody yet is another thing."""
    worker, registry = DbgptWorker(m=1024), FakeRegistry()
    await cluster.serve(worker, registry)
    put(registry, worker.row("m@llm"))
    await cluster.source(registry)
    await registry.stop()
    await eventually(lambda: cluster.events["discovery", "failed"] >= 3)
    assert cluster.answerable() == {"m@llm"}
    await worker.stop()
    await eventually(lambda: not cluster.answerable())


async def test_two_controllers_of_one_worker(cluster: Cluster) -> None:
    """Each says what it knows; a worker goes when none of them names it."""
    worker, one, two = DbgptWorker(a=1024, b=1024), FakeRegistry(), FakeRegistry()
    await cluster.serve(worker, one, two)
    put(one, worker.row("a@llm"))
    put(two, worker.row("a@llm"), worker.row("b@llm"))
    source = await cluster.source(one, two)
    await eventually(lambda: cluster.answerable() == {"a@llm", "b@llm"})
    assert cluster.finders.controllers_of(worker.url) == {one.url, two.url}
    put(two)
    await eventually(lambda: cluster.answerable() == {"a@llm"})
    assert cluster.finders.controllers_of(worker.url) == {one.url}
    assert source.sources(worker.url) == (one.url,)


async def test_the_gateway_itself_is_left_out(cluster: Cluster) -> None:
    """Its own rows stand in the registry where it registered; it would ask itself for ever."""
    worker, itself, registry = DbgptWorker(m=1024), DbgptWorker(n=1024), FakeRegistry()
    await cluster.serve(worker, itself, registry)
    cluster.own = {itself.url}
    put(registry, worker.row("m@llm"), itself.row("n@llm"), itself.row("m@llm"))
    await cluster.source(registry)
    await eventually(lambda: cluster.events["discovery", "ok"] >= 3)
    assert [view.address for view in cluster.fleet.workers()] == [worker.url]
    assert not itself.calls


async def test_a_worker_of_another_backend(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """What the settings say of an address holds, and the mistake is told once."""
    worker, registry = DbgptWorker(m=1024), FakeRegistry()
    await cluster.serve(worker, registry)
    put(registry, worker.row("m@llm"))
    source = await cluster.source(registry, workers={worker.url: FastChatLooks(Knowledge(), FAST)})
    await eventually(lambda: cluster.events["discovery", "empty"] >= 4)
    assert source.backend(worker.url) == "fastchat"
    text = f"worker {worker.url}: {registry.url} names it as a worker of dbgpt-worker, but it is watched as a worker of"
    assert caplog.text.count(text) == 1


async def test_rows_that_mean_nothing(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Kinds that are not served, addresses that cannot be, and names without one are passed over."""
    worker, registry = DbgptWorker(m=1024), FakeRegistry()
    await cluster.serve(worker, registry)
    put(
        registry,
        worker.row("m@llm"),
        worker.row("rank@reranker"),
        worker.row("@llm"),
        worker.row("nothing"),
        {"model_name": "x@llm", "host": "no host", "port": 5, "healthy": True},
        {"model_name": "y@llm", "host": "u:p@h", "port": 5, "healthy": True},
        {"model_name": "z@llm", "host": "127.0.0.1", "port": 0, "healthy": True},
    )
    await cluster.source(registry)
    assert cluster.answerable() == {"m@llm"}
    assert len(cluster.fleet.workers()) == 1
    assert "row 'x@llm' ignored" in caplog.text


@pytest.mark.parametrize("body", [b"{}", b"nothing", b"[[]]", b'[{"model_name": 5}]', b"[" * 100_000])
async def test_answers_that_mean_nothing(cluster: Cluster, body: bytes) -> None:
    """Whatever a controller answers, it is asked again and believed when it makes sense."""
    worker, registry = DbgptWorker(m=1024), FakeRegistry()
    await cluster.serve(worker, registry)
    put(registry, worker.row("m@llm"))
    registry.replies["/api/controller/models"] = web.Response(body=body, content_type="application/json")
    await cluster.source(registry)
    assert not cluster.answerable()
    registry.replies.clear()
    await eventually(lambda: cluster.answerable() == {"m@llm"})


async def test_thousands_of_rows(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """No registry fills the fleet."""
    caplog.set_level(logging.INFO)
    worker, registry = DbgptWorker(m=1024), FakeRegistry()
    await cluster.serve(worker, registry)
    rows = [{**worker.row("m@llm"), "host": f"127.1.{number >> 8}.{number & 255}"} for number in range(2_000)]
    put(registry, worker.row("m@llm"), *rows)
    await cluster.source(registry)
    assert len(cluster.fleet.workers()) == 8
    assert "it lists 2001 workers, only the first 256 are used" in caplog.text
