"""The composition root: settings in, a running gateway out. Everything that is made here is closed here."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from proxy import __version__
from proxy.backends.assembly import Advertised, Backends
from proxy.backends.control import end_tasks
from proxy.backends.functions import rule_functions
from proxy.demo.worker import DemoWorker
from proxy.fleet.table import Fleet
from proxy.limits import (
    FLEET_MODELS_PER_WORKER_MAX,
    FLEET_WORKERS_MAX,
    KEEPALIVE_SECONDS,
    LABEL_VALUES_MAX,
    LISTEN_BACKLOG,
    REQUEST_MAX_BYTES,
)
from proxy.ruleset import RuleSet, load_rules, run_tests, shipped_rules
from proxy.server.admin import admin_app
from proxy.server.directory import ModelDirectory
from proxy.server.facilities import Facilities
from proxy.server.gateway import Gateway
from proxy.server.http_log import server_log
from proxy.server.listeners import ModelPortSites
from proxy.settings import Address, Settings, parse_address
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rows import ConnectionCounts, WorkerRow
from proxy.types import Json, JsonObject
from proxy.upstream import Timeouts, UpstreamPool

log = logging.getLogger(__name__)


class StartError(Exception):
    """The gateway cannot start; the message is for the operator."""


def read_rules(paths: list[str]) -> RuleSet:
    """The rule set to serve. DocumentError with every mistake; StartError when a rule file's own tests fail."""
    rules = load_rules([Path(path) for path in paths] or [shipped_rules()], rule_functions())
    failed = [outcome for outcome in run_tests(rules.tests) if outcome.problems]
    if failed:
        lines = [
            f"{outcome.test.file}: test '{outcome.test.test.name}': {problem}"
            for outcome in failed
            for problem in outcome.problems
        ]
        raise StartError("\n".join(lines))
    return rules


class RunningGateway:
    """A gateway that serves; `listen` and `admin` are the addresses as bound, `demo` the demonstration fleet's."""

    def __init__(self, settings: Settings, rules: RuleSet) -> None:
        self.settings = settings
        self.rules = rules
        self.fleet = Fleet(max_workers=FLEET_WORKERS_MAX, max_models_per_worker=FLEET_MODELS_PER_WORKER_MAX)
        self.metrics = Metrics(label_cap=LABEL_VALUES_MAX)
        self.pool = UpstreamPool()
        self.listen = parse_address(settings.listen)
        self.admin = parse_address(settings.admin)
        self.advertised = self.listen
        self.demo: list[DemoWorker] = []
        self._ports: ModelPortSites | None = None
        self._backends: Backends | None = None
        self.gateway: Gateway | None = None
        self._looked = False
        self._port_task: asyncio.Task[None] | None = None
        self._rng = random.Random()

    @property
    def backends(self) -> Backends:
        """The fleet's source and the memberships."""
        if self._backends is None:
            raise StartError("the gateway has not been started")
        return self._backends

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[RunningGateway]:
        """Listen, look at the fleet, register; on the way out withdraw, let streams finish, close.

        StartError with one sentence for an address that cannot be bound or a setting that cannot be used.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.pool.close)
            await self._start_demo(stack)
            runner = await self._listen(stack)
            try:
                self._backends = Backends(
                    self.settings,
                    self.fleet,
                    Advertised(*self.advertised, self._port_of),
                    extra_workers=[str(worker.address) for worker in self.demo],
                    rng=self._rng,
                    on_event=self.metrics.on_event,
                )
            except ValueError as error:
                raise StartError(str(error)) from None
            stack.push_async_callback(self._backends.close)
            self._watch()
            await self._backends.first_look()
            self._looked = True
            ports = self.settings.model_ports
            if ports is not None:
                self._ports = ModelPortSites(runner, self.listen.host, ports.first, ports.last)
                await self._ensure_ports()
            running = asyncio.create_task(self._backends.run(), name="backends")
            stack.push_async_callback(end_tasks, [running])
            stack.push_async_callback(runner.cleanup)
            stack.callback(self.fleet.subscribe(self._fleet_changed))
            stack.push_async_callback(self._backends.withdraw)
            yield self

    async def _start_demo(self, stack: AsyncExitStack) -> None:
        demo = self.settings.demo
        if demo is None:
            return
        worker = DemoWorker(demo.models, chunks_per_second=demo.chunks_per_second)
        await worker.start("127.0.0.1")
        stack.push_async_callback(worker.stop)
        self.demo.append(worker)

    async def _listen(self, stack: AsyncExitStack) -> web.AppRunner:
        app = web.Application(client_max_size=REQUEST_MAX_BYTES)
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handle)  # an encoded line break too
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            logger=server_log(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=self.settings.shutdown_seconds / 2,  # aiohttp (3.14) waits for a handler twice as long
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        self.listen = await _bind(runner, self.listen, "listen")
        admin = web.AppRunner(
            admin_app(self.metrics, ready=self.ready, status=self.status), access_log=None, shutdown_timeout=1.0
        )
        await admin.setup()
        stack.push_async_callback(admin.cleanup)
        self.admin = await _bind(admin, self.admin, "admin")
        given = self.settings.advertised_address()
        self.advertised = given if given is not None else self.listen
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.gateway is None:
            return web.Response(status=503, text="the gateway is starting\n")
        return await self.gateway.handle(request)

    def _watch(self) -> None:
        """Give the data path what it works with, and the metrics what they read at each scrape."""
        backends = self.backends
        directory = ModelDirectory(
            self.fleet,
            *self.advertised,
            default_model=self.settings.default_model,
            public_names=backends.public_names,
            port_model=self._model_of,
        )
        self.gateway = Gateway(
            Facilities(
                table=lambda: self.rules.table,
                fleet=self.fleet,
                pool=self.pool,
                metrics=self.metrics,
                directory=directory,
                timeouts=self._timeouts(),
                trouble=backends.trouble,
                rng=self._rng,
            )
        )
        self.metrics.watch_workers(self._worker_rows)
        self.metrics.watch_connections(self._connections)
        self.metrics.close_labels("route", [route.name for route in self.rules.table.routes])

    def _timeouts(self) -> Callable[[str], Timeouts]:
        common = self.settings.timeouts
        default = Timeouts(common.connect_seconds, common.first_seconds, common.idle_seconds, common.total_seconds)
        by_model = {
            name: Timeouts(
                default.connect,
                model.first_seconds or default.first,
                model.idle_seconds or default.idle,
                model.total_seconds or default.total,
            )
            for name, model in self.settings.models.items()
        }
        return lambda model: by_model.get(model, default)

    # --- ports of models ---------------------------------------------------------------------------------------------

    def _fleet_changed(self) -> None:
        if self._ports is not None and (self._port_task is None or self._port_task.done()):
            self._port_task = asyncio.ensure_future(self._ensure_ports())

    async def _ensure_ports(self) -> None:
        seen = -1
        while self._ports is not None and seen != self.fleet.version:  # it may have changed while ports were opened
            seen = self.fleet.version
            await self._ports.ensure(sorted({model for model, _ in self.fleet.answerable()}))
            self.backends.changed()

    def _port_of(self, model: str) -> int | None:
        return self._ports.port(model) if self._ports is not None else None

    def _model_of(self, port: int) -> str | None:
        return self._ports.model(port) if self._ports is not None else None

    # --- what operators see ------------------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be answered, and why."""
        if not self._looked:
            return False, "starting: the fleet has not been looked at yet"
        answerable = sorted({model for model, _ in self.fleet.answerable()})
        if not answerable:
            return False, "no worker can answer any model"
        return True, f"ready: {', '.join(answerable)}"

    def status(self) -> JsonObject:
        """The state for the admin address: version, rules, workers, registrations."""
        now = time.monotonic()
        workers: list[Json] = [
            {
                "worker": view.address,
                "up": view.up,
                "reason": view.reason or None,
                "for_seconds": round(now - view.since, 1),
                "in_flight": view.in_flight,
                "queue_length": view.queue_length,
                "models": [{"model": facts.model, "kinds": [*sorted(facts.kinds)]} for facts in view.models],
            }
            for view in self.fleet.workers()
        ]
        return {
            "version": __version__,
            "listen": str(self.listen),
            "advertised": str(self.advertised),
            "rule_packs": list(self.rules.packs),
            "routes": len(self.rules.table.routes),
            "workers": workers,
            "registrations": self.backends.status(),
        }

    def _worker_rows(self) -> list[WorkerRow]:
        for url, count in self.backends.registrations():
            self.metrics.registered_instances(url, count)
        return [WorkerRow(view.address, view.up, view.in_flight, view.queue_length) for view in self.fleet.workers()]

    def _connections(self) -> ConnectionCounts:
        pool = self.pool
        return ConnectionCounts(
            idle=pool.idle_now,
            active=pool.open_now - pool.idle_now,
            opened=pool.opened,
            reused=pool.reused,
            retried=pool.retried_stale,
        )


async def _bind(runner: web.AppRunner, address: Address, name: str) -> Address:
    try:
        await web.TCPSite(runner, address.host, address.port, backlog=LISTEN_BACKLOG).start()
    except OSError as error:
        reason = "the port is in use" if error.errno in {48, 98} else error.strerror or str(error)
        raise StartError(f"cannot listen on {address} (--{name}): {reason}") from None
    bound = runner.addresses[-1]
    return Address(address.host, int(bound[1]))
