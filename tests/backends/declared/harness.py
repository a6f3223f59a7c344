"""A fleet of workers that the settings declare, on fast timers, with rules written in the test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web

from proxy.backends.declared.entries import declared_looks
from proxy.backends.declared.settings import DeclaredWorker
from proxy.backends.functions import rule_functions
from proxy.backends.workers.look import Looks
from proxy.backends.workers.settings import SourceSettings
from proxy.backends.workers.source import FleetSource
from proxy.documents import validate
from proxy.documents.yaml import parse_yaml
from proxy.fleet.table import Fleet
from proxy.ruleset.askings import compile_backend
from proxy.ruleset.backend_documents import BackendDoc
from proxy.translate.mapping import Read
from proxy.translate.probe import ProbePlan
from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeServer
from tests.backends.fastchat.harness import FAST, Knowledge

EXAMPLE = """
backend: example
description: x
headers: {authorization: "worker.key && join(' ', ['Bearer', worker.key]) || `null`"}
probe:
  status: {path: /models, models: "answer.data[].{name: id, context_length: length}", queue_length: answer.waiting}
  model: {method: POST, path: /show, body: {fields: {name: model}}, context_length: answer.length, kinds: answer.kinds}
  context_length: 1000
  limit: 7
"""
PLAIN = """
backend: {name}
description: x
probe: {{status: {{path: /models, models: "answer.data[].id"}}, {more}}}
"""


class Rules(NamedTuple):
    probe: ProbePlan | None
    headers: Mapping[str, Read]


def rules(text: str = EXAMPLE) -> dict[str, Rules]:
    document = parse_yaml(text, "backend.yaml")
    backend, probe, mistakes = compile_backend(document, validate(document, BackendDoc), rule_functions())
    assert mistakes == []
    return {backend.name: Rules(probe, backend.headers)}


def plain(name: str = "example", more: str = "context_length: 5") -> dict[str, Rules]:
    """A backend that tells the names of its models and nothing more."""
    return rules(PLAIN.format(name=name, more=more))


class Lister(FakeServer):
    """Lists models and shows them; `authorization` is that of the last call."""

    def __init__(self, **models: Mapping[str, Json]) -> None:
        super().__init__()
        self.models = dict(models)
        self.lengths: dict[str, Json] = {}  # what the list says of a model's context
        self.waiting: Json = 2
        self.authorization: str | None = None
        self.wanted_key: str | None = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.authorization = request.headers.get("Authorization")
        if self.wanted_key is not None and self.authorization != f"Bearer {self.wanted_key}":
            return web.json_response({"error": f"wrong key {self.authorization}"}, status=401)
        return await super()._handle(request)

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if (method, path) == ("GET", "/models"):
            return {
                "data": [{"id": name, "length": self.lengths.get(name)} for name in self.models],
                "waiting": self.waiting,
            }
        if (method, path) == ("POST", "/show"):
            return dict(self.models[str(body["name"])])
        raise web.HTTPNotFound


class DeclaredHarness:
    """A fleet with its source; servers are stopped at the end."""

    def __init__(self) -> None:
        self.fleet = Fleet(max_workers=8, max_models_per_worker=8)
        self.events: Counter[tuple[str, str]] = Counter()
        self.settings: SourceSettings = FAST
        self.models = Knowledge()
        self.rules = rules()
        self.own: set[str] = set()
        self._servers: list[FakeServer] = []
        self._running: list[tuple[FleetSource, asyncio.Task[None]]] = []

    async def serve(self, *servers: FakeServer) -> None:
        for server in servers:
            await server.start()
            self._servers.append(server)

    def looks(self, *workers: JsonObject) -> dict[str, Looks]:
        declared = [
            DeclaredWorker.model_validate({"kind": "example", "probe_seconds": 0.03, **each}) for each in workers
        ]
        return declared_looks(declared, self.rules, self.models, self.settings)

    async def source(self, *workers: JsonObject) -> FleetSource:
        source = FleetSource(
            self.fleet,
            workers=self.looks(*workers),
            settings=self.settings,
            is_own=self._is_own,
            on_event=self.count,
        )
        await source.first_look()
        self._running.append((source, asyncio.create_task(source.run())))
        return source

    async def _is_own(self, address: str) -> bool:
        return address in self.own

    def update(self, source: FleetSource, *workers: JsonObject) -> None:
        source.update(workers=self.looks(*workers), controllers={}, settings=self.settings)

    def count(self, name: str, /, **labels: str) -> None:
        self.events[name, labels["result"]] += 1

    def document(self, model: str) -> JsonObject:
        facts = self.fleet.known(model)
        assert facts is not None
        return facts.document

    def answerable(self) -> set[str]:
        return {f"{model}@{kind}" for model, kind in self.fleet.answerable()}

    def reason(self, address: str) -> str:
        view = self.fleet.worker(address)
        assert view is not None
        return view.reason

    async def close(self) -> None:
        for source, task in self._running:
            assert not task.done(), "the source ended by itself"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()
        for server in self._servers:
            await server.stop()
