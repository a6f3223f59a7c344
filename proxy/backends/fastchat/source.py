"""Keeps a fleet in step with FastChat workers, named by the user or found through FastChat controllers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import aiohttp

from proxy.backends.control import EventHook, end_tasks, new_session, no_events, normalise_base_url
from proxy.backends.fastchat.discovery import ControllerWatch
from proxy.backends.fastchat.source_settings import ModelKnowledge, SourceSettings
from proxy.backends.fastchat.watch import WorkerWatch
from proxy.backends.fastchat.worker_api import WorkerApi
from proxy.fleet.table import Fleet

log = logging.getLogger(__name__)


class FleetSource:
    """Probes workers and polls controllers, each in a task of its own, so that one that hangs delays no other.

    workers, controllers: base addresses; ValueError with one sentence for one that cannot be used.
    clock: seconds, monotonic. on_event: "probe" (worker, result) and "discovery" (controller, result).
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        workers: Iterable[str] = (),
        controllers: Iterable[str] = (),
        models: ModelKnowledge,
        settings: SourceSettings | None = None,
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._fleet = fleet
        self._settings = settings or SourceSettings()
        self._models, self._clock, self._on_event = models, clock, on_event
        self._session_factory = session_factory
        self._session: aiohttp.ClientSession | None = None
        self._static = list(dict.fromkeys(normalise_base_url(url) for url in workers))
        self._controller_urls = list(dict.fromkeys(normalise_base_url(url) for url in controllers))
        self._workers: dict[str, WorkerWatch] = {}
        self._controllers: list[ControllerWatch] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._full_told = False

    async def first_look(self) -> None:
        """Try each named worker and each controller once, then each worker that the controllers named.

        Bounded by the settings' timeouts; nobody who fails is waited for longer.
        """
        self._open()
        named = dict(self._workers)
        controllers = [_guarded(watch.step, watch.url) for watch in self._controllers]
        await asyncio.gather(*controllers, *(_guarded(watch.step, address) for address, watch in named.items()))
        found = [(address, watch) for address, watch in self._workers.items() if address not in named]
        await asyncio.gather(*(_guarded(watch.step, address) for address, watch in found))

    async def run(self) -> None:
        """Work until cancelled. Nothing that a worker or controller does ends it."""
        self._open()
        self._running = True
        try:
            for worker in self._workers.values():
                self._spawn(self._keep_worker(worker), worker.address)
            for controller in self._controllers:
                self._spawn(self._keep_controller(controller), controller.url)
            await asyncio.Event().wait()
        finally:
            await self._stop()

    def check_soon(self, address: str) -> None:
        """Probe this worker at once, because something was seen that speaks against it."""
        if address in self._workers:
            self._workers[address].wake.set()

    async def close(self) -> None:
        """End all tasks and close the session. The fleet stays as it is."""
        await self._stop()
        if self._session is not None:
            await self._session.close()

    def _open(self) -> None:
        if self._session is not None:
            return
        self._session = self._session_factory()
        for address in self._static:
            self._add(address, self._session, static=True)
        self._controllers = [
            ControllerWatch(self._session, url, self._settings, self._clock, self._introduce, self._on_event)
            for url in self._controller_urls
        ]

    def _introduce(self, address: str) -> None:
        """A controller named a worker."""
        if address in self._workers or self._session is None:
            return
        if len(self._workers) >= self._settings.max_workers:
            if not self._full_told:
                log.warning("worker %s stays out: %d workers are watched already", address, len(self._workers))
            self._full_told = True
            return
        watch = self._add(address, self._session, static=False)
        if self._running:
            self._spawn(self._keep_worker(watch), address)

    def _add(self, address: str, session: aiohttp.ClientSession, *, static: bool) -> WorkerWatch:
        api = WorkerApi(session, address, self._settings.look_limits(), self._settings.embed_limits())
        watch = WorkerWatch(api, self._fleet, self._settings, self._models, self._clock, self._on_event, static=static)
        self._workers[address] = watch
        return watch

    async def _keep_worker(self, watch: WorkerWatch) -> None:
        fault = ""
        while not self._is_lost(watch):
            watch.wake.clear()
            fault = await _guarded(watch.step, watch.address, fault)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(watch.wake.wait(), self._settings.probe_interval)
        log.info("worker %s: dropped, it was down for %g s", watch.address, self._settings.forget_after)
        self._fleet.forget(watch.address)
        del self._workers[watch.address]
        self._full_told = False

    async def _keep_controller(self, watch: ControllerWatch) -> None:
        fault = ""
        while True:
            fault = await _guarded(watch.step, watch.url, fault)
            await asyncio.sleep(self._settings.list_interval)

    def _is_lost(self, watch: WorkerWatch) -> bool:
        down_since = watch.down_since
        return not watch.static and down_since is not None and self._clock() - down_since > self._settings.forget_after

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"watch {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        self._running = False
        await end_tasks(self._tasks)


async def _guarded(step: Callable[[], Awaitable[None]], name: str, last_fault: str = "") -> str:
    """A fault of our own in one step must not end the watching; it is told with its traceback when it is a new one."""
    try:
        await step()
    except Exception as error:
        if repr(error) != last_fault:
            log.exception("watching %s: unexpected fault, going on", name)
        return repr(error)
    return ""
