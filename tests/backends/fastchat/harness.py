"""A fleet with its source on fast timers, for the tests of whatever feeds the fleet."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import orjson
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from proxy.backends.fastchat.controller.app import ListenerRules, controller_app
from proxy.backends.fastchat.controller.bodies import Bounds
from proxy.backends.fastchat.controller.guard import Guard, LookUp
from proxy.backends.fastchat.controller.registry import RegistryLimits, WorkerRegistry
from proxy.backends.fastchat.discovery import FastChatFinders
from proxy.backends.fastchat.look import FastChatLooks
from proxy.backends.workers.network import is_own_address
from proxy.backends.workers.settings import SourceSettings
from proxy.backends.workers.source import FleetSource
from proxy.fleet.table import Fleet
from proxy.http import HttpServer, Limits, Request, Response
from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeServer

FAST = SourceSettings(
    probe_interval=0.03,
    connect_timeout=0.2,
    status_timeout=0.15,
    look_timeout=0.3,
    embed_timeout=0.3,
    look_retry=0.1,
    list_interval=0.03,
    resolve_interval=0.2,
)
# Where nothing is to be given up: tests hold on a machine that does other things too. Those of silence take FAST.
STEADY = replace(FAST, connect_timeout=20.0, status_timeout=20.0, look_timeout=20.0, embed_timeout=20.0)


class Knowledge:
    """What the settings say of models: nothing, unless a test does."""

    def __init__(self, **said: JsonObject) -> None:
        self.said = said

    def prepare(self, model: str, raw: JsonObject) -> JsonObject:
        if raw["name"] == "unheard-of":
            raise ValueError("sep_style is 99, expected 1 to 23")
        return {**raw, "model": model}

    def facts(self, model: str) -> JsonObject:
        return self.said.get(model, {})


class Resolver(AbstractResolver):
    """Host names of a test for connections."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in await self._look_up(host)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Harness:
    """A fleet with its source and what was counted; servers are stopped at the end."""

    def __init__(self) -> None:
        self.fleet = Fleet(max_workers=8, max_models_per_worker=8)
        self.events: Counter[tuple[str, str]] = Counter()
        self.settings = STEADY
        self.models = Knowledge()
        self.looks = FastChatLooks(self.models, STEADY)
        self.finders = FastChatFinders(self.looks, time.monotonic, self.count)
        self.names: dict[str, list[str]] = {}  # host name to addresses, for the probes and for who looks one up
        self._servers: list[FakeServer] = []
        self._sources: list[tuple[FleetSource, asyncio.Task[None]]] = []

    async def serve(self, *servers: FakeServer) -> None:
        for server in servers:
            await server.start()
            self._servers.append(server)

    def count(self, name: str, /, **labels: str) -> None:
        self.events[name, labels.get("result") or labels["reason"]] += 1

    async def source(self, workers: list[str] | None = None, controllers: list[str] | None = None) -> FleetSource:
        self.looks.models, self.looks.settings = self.models, self.settings
        source = FleetSource(
            self.fleet,
            workers=dict.fromkeys(workers or [], self.looks),
            controllers=dict.fromkeys(controllers or [], self.finders),
            settings=self.settings,
            session_factory=self._session,
            look_up=self.look_up,
            on_event=self.count,
        )
        await source.first_look()
        self._sources.append((source, asyncio.create_task(source.run())))
        return source

    def update(
        self,
        source: FleetSource,
        *,
        workers: Sequence[str] = (),
        controllers: Sequence[str] = (),
        models: Knowledge | None = None,
        settings: SourceSettings = FAST,
    ) -> None:
        """As the gateway does it when its settings have changed."""
        self.looks.models, self.looks.settings = models or self.models, settings
        source.update(
            workers=dict.fromkeys(workers, self.looks),
            controllers=dict.fromkeys(controllers, self.finders),
            settings=settings,
        )

    async def look_up(self, host: str) -> Sequence[str]:
        if host not in self.names:
            raise OSError(-2, "Name or service not known")
        return self.names[host]

    def _session(self) -> ClientSession:
        return ClientSession(connector=TCPConnector(force_close=True, limit=0, resolver=Resolver(self.look_up)))

    async def close(self) -> None:
        for source, task in self._sources:
            assert not task.done(), "the source ended by itself"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()
        for server in self._servers:
            await server.stop()

    def up(self) -> set[str]:
        return {view.address for view in self.fleet.workers() if view.up}

    def answerable(self) -> set[str]:
        return {f"{model}@{kind}" for model, kind in self.fleet.answerable()}


async def no_names(host: str) -> Sequence[str]:
    """A look-up that knows no name."""
    raise OSError(-2, "Name or service not known")


class Controller:
    """A controller on a socket of its own, with the server of production; its workers are those of a harness.

    Without `source` it makes one that has no other sources.
    """

    def __init__(self, harness: Harness, **guard: object) -> None:
        self.harness = harness
        self.guard_settings = guard
        self.limits = RegistryLimits()
        self.bounds = Bounds(seconds=0.3)
        self.rules = ListenerRules()
        self.aliases: dict[str, str] = {}
        self.withheld: set[tuple[str, str]] = set()
        self.out_of_service: set[str] = set()
        self.state_file: str | None = None
        self.fallen: list[tuple[str, str, bytes]] = []  # what reached the gateway's own paths
        self.port = 0
        self._closing: list[HttpServer | ClientSession] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.source = await self.harness.source()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        guard = Guard(is_own=is_own_address, **self.guard_settings)  # type: ignore[arg-type]
        self.registry = WorkerRegistry(
            self.source,
            self.harness.looks,
            guard,
            no_names,
            limits=self.limits,
            state_file=self.state_file,
            on_event=self.harness.count,
        )
        app = controller_app(
            self.registry,
            self.harness.fleet,
            rules=lambda: self.rules,
            public_names=self._public_names,
            fall_through=self._fall,
            withheld=lambda method, path: (method, path) in self.withheld,
            in_service=lambda model, kind: model not in self.out_of_service,
            bounds=self.bounds,
            on_event=self.harness.count,
        )
        server = HttpServer(app, Limits(idle_seconds=75.0))
        await server.listen("127.0.0.1", self.port)
        self.session = ClientSession(timeout=ClientTimeout(total=5))
        self._closing += [self.session, server]

    async def close(self) -> None:
        for each in self._closing:
            await each.close()

    async def call(
        self, path: str, body: Json | bytes = None, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, Json]:
        data = body if isinstance(body, bytes) else None if body is None else orjson.dumps(body)
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            assert response.headers["Content-Type"] == "application/json"
            answer: Json = orjson.loads(await response.read())
            return response.status, answer

    async def register(self, url: str, models: Sequence[str] = ("m",), **more: Json) -> tuple[int, Json]:
        """As a worker does it."""
        status: Json = {"model_names": list(models), "speed": 1, "queue_length": 0}
        body: Json = {
            "worker_name": url,
            "check_heart_beat": True,
            "worker_status": status,
            "multimodal": False,
            **more,
        }
        return await self.call("/register_worker", body)

    def _public_names(self) -> dict[str, str]:
        return {**{row.model: row.model for row in self.harness.fleet.models()}, **self.aliases}

    async def _fall(self, request: Request) -> Response:
        body = b""
        while parts := await request.parts():
            body += b"".join(parts)
        query = f"?{request.query_string}" if request.query_string else ""
        self.fallen.append((request.method, request.path + query, body))
        return Response(200, b'"the gateway\'s own"', "application/json")
