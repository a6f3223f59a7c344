"""The composition root: settings in, a running gateway out. Everything that is made here is closed here."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from proxy import __version__
from proxy.backends.assembly import Advertised, Backends
from proxy.backends.control import end_tasks
from proxy.datapath import DataPath
from proxy.fleet.table import Fleet
from proxy.fleet.totals import under_way
from proxy.http import HttpServer, port_of
from proxy.lifecycle import Traffic as RequestsUnderWay
from proxy.lifecycle import wind_down
from proxy.limits import FLEET_MODELS_PER_WORKER_MAX, FLEET_WORKERS_MAX, LABEL_VALUES_MAX
from proxy.operations import InForce, Operations, feed_metrics
from proxy.recording.recorder import Recorder
from proxy.reload import Loaded, Reloader, StartError, keep_fixed, loaded, read, read_rules
from proxy.ruleset import RuleSet
from proxy.ruleset.wording import headers_of, words_of
from proxy.server.admin import admin_app
from proxy.server.directory import ModelDirectory
from proxy.server.gateway import Gateway
from proxy.server.leases import OwnLeases
from proxy.server.listeners import (
    ClosePort,
    ModelPortSites,
    bind,
    client_server,
    operator_runner,
    port_opener,
)
from proxy.settings import Address, Settings, parse_address
from proxy.source import Source
from proxy.telemetry.log import configure_logging
from proxy.telemetry.metrics import Metrics
from proxy.together import Together
from proxy.translate.routes import Miss
from proxy.watching import FileWatch, Watched, watched_files

if TYPE_CHECKING:
    from proxy.demo.worker import DemoWorker

__all__ = ["RunningGateway", "StartError", "read_rules"]

log = logging.getLogger(__name__)


class RunningGateway:
    """A gateway that serves; `listen`, `admin` and `accepts` (where workers register, if they can) are the addresses as
    bound, `demo` the demonstration fleet.

    source: where settings and rules are read again; without one a reload finds what the gateway was made of.
    """

    def __init__(self, settings: Settings, rules: RuleSet, source: Source | None = None) -> None:
        try:
            self._now = InForce(loaded(settings, rules))
        except ValueError as error:
            raise StartError(str(error)) from None
        self._source = source
        self._rng = random.Random()
        self.metrics = Metrics(label_cap=LABEL_VALUES_MAX)
        together = self._together = self._all_processes()
        self.fleet = self._new_fleet(
            max_workers=FLEET_WORKERS_MAX,
            max_models_per_worker=FLEET_MODELS_PER_WORKER_MAX,
            rules=self._now.loaded.tuning.fleet,
            rng=self._rng,
            on_event=self._fleet_event,
        )
        self.listen = parse_address(settings.listen)
        self.admin = parse_address(settings.admin)
        self.advertised = self.listen
        self.accepts: Address | None = None
        self.demo: list[DemoWorker] = []
        self._clients: HttpServer | None = None
        self._ports: ModelPortSites | None = None
        self._port_task: asyncio.Task[None] | None = None
        self._backends: Backends | None = None
        self._files = FileWatch(self._watched, lambda: self.reloader.reload("a changed file"))
        self.reloader = Reloader(self._read, self._apply, self.metrics.on_event, together and together.others)
        self._recorder = Recorder(
            self._recordings,
            self._words,
            lambda: headers_of(self.rules),
            __version__,
            together and together.recordings,
        )
        self._path = DataPath(self._now, self.metrics, self._rng, lambda: self._recorder.now)
        self.pool = self._path.pool
        self.operations = Operations(
            self._now,
            self.fleet,
            lambda: self.backends,
            self.reloader,
            lambda: (self.listen, self.advertised),
            self.metrics.rules,
            self._recorder,
            together,
        )

    serving_processes = 1
    _new_fleet: type[Fleet] = Fleet

    def _all_processes(self) -> Together | None:
        """What is done in all of them; None where this is the only one."""
        return None

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._now.loaded.settings

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._now.loaded.rules

    @property
    def gateway(self) -> Gateway | None:
        """The requests under way; None before the start."""
        return self._path.gateway

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
            stack.push_async_callback(self._recorder.end, "the gateway stopped")
            await self._start_demo(stack)
            await self._listen(stack)
            backends = self._backends = self._make_backends()
            stack.push_async_callback(backends.close)
            self._serve_requests(backends)
            await self._listen_for_workers(stack, backends)
            await self._first_look(backends)
            self._now.looked = True
            await self._ensure_ports()
            running = asyncio.create_task(backends.run(), name="backends")
            stack.push_async_callback(end_tasks, [running])
            stack.push_async_callback(self._close_clients)
            stack.callback(self.fleet.subscribe(self._fleet_changed))
            stack.push_async_callback(self._wind_down)
            stack.push_async_callback(self._files.stop)
            self._watch_or_not()
            stack.push_async_callback(self.reloader.close)
            stack.callback(self._begin_to_stop)
            yield self

    # --- the parts ---------------------------------------------------------------------------------------------------

    async def _start_demo(self, stack: AsyncExitStack) -> None:
        demo = self.settings.demo
        if demo is None:
            return
        from proxy.demo.worker import DemoWorker  # late: for those who try it

        worker = DemoWorker(demo.models, chunks_per_second=demo.chunks_per_second)
        await worker.start("127.0.0.1")
        stack.push_async_callback(worker.stop)
        self.demo.append(worker)

    async def _listen(self, stack: AsyncExitStack) -> None:
        open_port = await self._listen_to_clients(stack)
        counts = self.metrics if self._together is None else self._together.counts
        admin = await operator_runner(admin_app(counts, self.operations))
        stack.push_async_callback(admin.cleanup)
        with _named(self.admin, "admin"):
            self.admin = await self._bind_operators(admin, self.admin)
        given = self.settings.advertised_address()
        self.advertised = given if given is not None else self.listen
        ports = self.settings.model_ports
        if ports is not None:
            self._ports = ModelPortSites(open_port, self.listen.host, ports.first, ports.last)

    async def _listen_to_clients(self, stack: AsyncExitStack) -> Callable[[int], Awaitable[ClosePort]]:
        """What opens further ports beside."""
        server = self._clients = client_server(self._path.handle)
        stack.push_async_callback(server.close)
        with _named(self.listen, "listen"):
            self.listen = await self._bind(server, self.listen)
        return port_opener(server, self.listen.host)

    async def _close_clients(self) -> None:
        """Nobody is served any more."""
        if self._clients is not None:
            await self._clients.close()

    async def _bind(self, server: HttpServer, address: Address) -> Address:
        return Address(address.host, port_of(await server.listen(*address)))

    async def _bind_operators(self, runner: web.AppRunner, address: Address) -> Address:
        return Address(address.host, await bind(runner, *address))

    async def _first_look(self, backends: Backends) -> None:
        await backends.first_look()

    async def _listen_for_workers(self, stack: AsyncExitStack, backends: Backends) -> None:
        handler, address = (
            backends.worker_listener(self._path.handle, self._is_withheld),
            self.settings.worker_listener_address(),
        )
        if handler is None or address is None:
            return
        server = client_server(handler)
        stack.push_async_callback(server.close)
        with _named(address, "accept-workers"):
            self.accepts = await self._bind(server, address)

    def _make_backends(self) -> Backends:
        try:
            return Backends(
                self.settings,
                self._now.loaded.models,
                self.fleet,
                Advertised(*self.advertised, self._port_of, self._is_own_port),
                rules=self.rules.backends,
                extra_workers=[str(worker.address) for worker in self.demo],
                own_ports=self._own_ports(),
                kept_workers=self._kept_workers(),
                rng=self._rng,
                on_event=self.metrics.on_event,
            )
        except ValueError as error:
            raise StartError(str(error)) from None

    def _kept_workers(self) -> str | None:
        """The file of those that registered, where the settings name none."""
        return None

    def _own_ports(self) -> list[int]:
        ports = self.settings.model_ports
        return [self.listen.port, self.admin.port, *(range(ports.first, ports.last + 1) if ports is not None else ())]

    def _serve_requests(self, backends: Backends) -> None:
        """Give the data path what it works with, and the metrics what they read at each scrape."""
        directory = ModelDirectory(
            self.fleet,
            *self.advertised,
            default_model=lambda: self.settings.default_model,
            public_names=backends.public_names,
            port_model=self._model_of,
            in_service=backends.in_service,
            service_version=backends.service_version,
            offered=backends.offered,
            requests=lambda: under_way(self.fleet),
        )
        self._path.start(
            self.fleet,
            OwnLeases(self.fleet),
            directory,
            trouble=backends.trouble,
            in_service=backends.in_service,
            operate=self._operate,
            turns=None if self._together is None else self._together.turns,
        )
        feed_metrics(self.metrics, self.fleet, backends, self.pool)

    async def _operate(self, operation: str, model: str, worker_type: str | None) -> tuple[bool, str]:
        return self.backends.operate(operation, model, worker_type)

    def _is_withheld(self, method: str, path: str) -> bool:
        """Whoever reaches the workers' listener runs no cluster: operations are not for it."""
        found = self.rules.table.by_path(method, path)
        return not isinstance(found, Miss) and any(match.route.operation is not None for match in found)

    # --- stopping ----------------------------------------------------------------------------------------------------

    def _begin_to_stop(self) -> None:
        self._now.stopping = True

    def _recordings(self) -> Path | None:
        folder = self.settings.recordings
        return Path(folder) if folder is not None else None

    def _words(self) -> set[str]:
        """What may be read in a recording whose texts are replaced: words of the rules, and names of models."""
        return words_of(self.rules) | self.backends.public_names().keys() | {row.model for row in self.fleet.models()}

    async def _wind_down(self) -> None:
        if self.gateway is None:
            return
        await wind_down(
            withdraw=self.backends.withdraw,
            refuse=self._refuse,
            traffic=self._requests(self.gateway),
            seconds=self.settings.shutdown_seconds,
        )

    def _requests(self, own: Gateway) -> RequestsUnderWay:
        return own

    def _refuse(self) -> None:
        self._now.accepting = False

    # --- reloading ---------------------------------------------------------------------------------------------------

    def reload_soon(self, why: str) -> None:
        """Read settings and rules again; the log tells how it ended."""
        if not self._now.stopping:
            self.reloader.soon(why)

    def _read(self) -> Loaded:
        if self._source is None:
            return self._now.loaded
        self._files.reading()
        found = read(self._source)
        self._files.read(watched_files(self._source.file, [found.settings], found.rules))
        return found

    def _apply(self, found: Loaded) -> tuple[str, ...]:
        """Everything in one step, without a pause in which others could run. Streams go on with what they have."""
        settings, restart = keep_fixed(self.settings, found.settings)
        before = self.settings
        backends = self.backends
        backends.update(settings, found.models, found.rules.backends)
        self._now.loaded = found._replace(settings=settings)
        self._now.generation += 1
        self._now.loaded_at = time.time()
        self._path.changed()
        self.fleet.configure(found.tuning.fleet, time.monotonic())
        if settings.log != before.log:
            configure_logging(settings.log.level, settings.log.format)
        self._watch_or_not()
        return restart

    def _watched(self) -> Watched:
        """What is in force and what was tried last, so that a mistake can be mended by mending its file."""
        source = self._source
        tried = None if source is None else source.tried
        each = [self.settings, *([tried] if tried is not None else [])]
        return watched_files(None if source is None else source.file, each, self.rules)

    def _watch_or_not(self) -> None:
        self._files.want(wanted=self._source is not None and self.settings.watch_files)

    # --- ports of models ---------------------------------------------------------------------------------------------

    def _fleet_changed(self) -> None:
        if self._ports is not None and (self._port_task is None or self._port_task.done()):
            self._port_task = asyncio.ensure_future(self._ensure_ports())

    async def _ensure_ports(self) -> None:
        seen = -1
        while self._ports is not None and seen != self.fleet.version:  # it may have changed while ports were opened
            seen = self.fleet.version
            held = {facts.model for view in self.fleet.workers() for facts in view.models} | self.settings.models.keys()
            known = {row.model: row.model in held for row in self.fleet.models()}
            await self._ports.ensure(sorted({model for model, _ in self.fleet.answerable()}), known)
            self.backends.changed()

    def _is_own_port(self, port: int) -> bool:
        return self._ports is not None and self._ports.is_own(port)

    def _port_of(self, model: str) -> int | None:
        return self._ports.port(model) if self._ports is not None else None

    def _model_of(self, port: int) -> str | None:
        return self._ports.model(port) if self._ports is not None else None

    # --- what the fleet tells ----------------------------------------------------------------------------------------

    def _fleet_event(self, name: str, text: str, /, **labels: str) -> None:
        if text:
            log.log(logging.WARNING if _is_bad(labels.get("state", "")) else logging.INFO, "%s", text)
        self.metrics.on_event(name, **labels)


def _is_bad(state: str) -> bool:
    return state in {"open", "degraded"}


@contextmanager
def _named(address: Address, name: str) -> Iterator[None]:
    """StartError for an address that cannot be listened at; name: of its flag."""
    try:
        yield
    except OSError as error:
        raise StartError(f"cannot listen on {address} (--{name}): {error.strerror}") from None
