"""Keeps a fleet in step with its workers: named by the user, named by controllers, or registered here.

A worker is known by one address, whoever speaks of it and however they call its host, and has one backend: who names it
as a worker of another one is mistaken. What one source says takes nothing away from another, and a source that fails
takes nothing away at all: workers go when they are down for long, or when the settings drop them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Final

import aiohttp

from proxy.backends.base_url import normalise_base_url
from proxy.backends.control import EventHook, end_tasks, new_session, no_events, pause
from proxy.backends.workers.finder import Finder, Finders
from proxy.backends.workers.identity import SameWorkers, has_name
from proxy.backends.workers.look import Looks
from proxy.backends.workers.settings import NAMED, REGISTERED, SourceSettings
from proxy.backends.workers.watch import WorkerWatch
from proxy.fleet.table import Fleet

log = logging.getLogger(__name__)

_FULL: Final = "the fleet has as many workers as it may have"
# How soon a name that has moved, or could not be looked up, is found to be another worker's.
_MERGE_SECONDS: Final = 30.0


class _Naming:
    """See `Naming`."""

    def __init__(self, source: FleetSource, url: str) -> None:
        self._source, self._url = source, url

    async def introduce(self, address: str) -> str | None:
        return await self._source.named_by(self._url, address)

    def changed(self, address: str) -> None:
        self._source.look_again(address)

    def gone(self, address: str) -> None:
        self._source.withdraw(address, self._url)
        self._source.look_again(address)


async def _nobody(address: str) -> bool:
    return False


class FleetSource:
    """Probes workers and polls controllers, each in a task of its own, so that one that hangs delays no other.

    workers, controllers: base address to the backend of that worker or controller; ValueError with one sentence for an
    address that cannot be used. is_own: whether a base address is that of this gateway, which is no worker of its own.
    look_up: the addresses of a host name, to know a worker again that others call by its IP address; OSError when there
    are none; None: names are not looked up. clock: seconds, monotonic. on_event: "probe" (worker, result) and
    "discovery" (controller, result).
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        workers: Mapping[str, Looks] | None = None,
        controllers: Mapping[str, Finders] | None = None,
        settings: SourceSettings | None = None,
        is_own: Callable[[str], Awaitable[bool]] = _nobody,
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
        look_up: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._fleet = fleet
        self._settings = settings or SourceSettings()
        self._is_own, self._clock, self._on_event = is_own, clock, on_event
        self._session_factory = session_factory
        self._session: aiohttp.ClientSession | None = None
        self._named = {normalise_base_url(url): looks for url, looks in (workers or {}).items()}
        self._controller_urls = {normalise_base_url(url): finders for url, finders in (controllers or {}).items()}
        self._same = SameWorkers(look_up, clock=clock)
        self._merge_soon = asyncio.Event()
        self._workers: dict[str, WorkerWatch] = {}
        self._controllers: dict[str, Finder] = {}
        self._controller_tasks: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._full_told = False
        self._taken: dict[str, set[str]] = {}  # address to who named it as a worker of another backend and was told so

    async def first_look(self) -> None:
        """Try each named worker and each controller once, then each worker that the controllers named.

        Bounded by the settings' timeouts; nobody who fails is waited for longer.
        """
        self._open()
        named = [*self._workers.values()]
        controllers = [_guarded(finder.step, finder.url) for finder in self._controllers.values()]
        await asyncio.gather(*controllers, *(_guarded(partial(self._step, watch), watch.address) for watch in named))
        found = [watch for watch in self._workers.values() if watch not in named]
        await asyncio.gather(*(_guarded(partial(self._step, watch), watch.address) for watch in found))

    async def run(self) -> None:
        """Work until cancelled. Nothing that a worker or controller does ends it."""
        self._open()
        self._running = True
        try:
            for worker in self._workers.values():
                self._spawn(self._keep_worker(worker), worker.address)
            for controller in self._controllers.values():
                self._start_controller(controller)
            await self._keep_merged()
        finally:
            await self._stop()

    def check_soon(self, address: str) -> None:
        """Probe this worker at once, because something was seen that speaks against it."""
        if address in self._workers:
            self._workers[address].wake.set()

    def look_again(self, address: str) -> None:
        """Ask this worker everything anew, because what others say of it has changed."""
        if address in self._workers:
            self._workers[address].look_again()

    async def known_as(self, address: str) -> str:
        """The address under which this worker is watched, perhaps with its host's name; else the one that is asked for.

        Waits for host names that were not looked up lately; never raises.
        """
        self._open()
        return await self._same.find(address, self._workers.keys()) or address

    def introduce(self, address: str, source: str, looks: Looks) -> str:
        """A worker was named (see `known_as`): by a controller (its address is the source), or by itself (REGISTERED).

        It is probed soon, again too when it is known already. Why it stays out, "" where it does not: it is watched as
        a worker of another backend, or there is no room for another one. Workers that only registered and were never up
        have no part in that bound, whoever lets them in has one of its own.
        """
        watch = self._workers.get(address)
        if watch is not None and watch.looks.backend != looks.backend:
            return self._told_taken(watch, source, looks.backend)
        if watch is not None:
            watch.sources.add(source)
            if source == REGISTERED:
                watch.wake.set()
            return ""
        if self.is_full():
            if not self._full_told:
                log.warning("worker %s stays out: %d workers are watched already", address, len(self._workers))
            self._full_told = True
            return _FULL
        self._add(address, self._open(), source, looks)
        return ""

    def is_full(self) -> bool:
        """Whether there is no room for another worker."""
        return sum(not each.is_newcomer for each in self._workers.values()) >= self._settings.max_workers

    def heartbeat(self, address: str, queue_length: int) -> None:
        """A worker says that it is there. Its own status is newer, unless it is too busy to answer."""
        view = self._fleet.worker(address)
        now = self._clock()
        if view is None or not view.up:
            self.check_soon(address)
        elif view.last_seen is None or now - view.last_seen > 2 * self._settings.probe_interval:
            self._fleet.seen(address, now, queue_length=queue_length, speed=view.speed)

    def sources(self, address: str) -> tuple[str, ...]:
        """Who knows of a worker: NAMED, REGISTERED, base addresses of controllers; sorted."""
        watch = self._workers.get(address)
        return tuple(sorted(watch.sources)) if watch is not None else ()

    def watch(self, address: str) -> WorkerWatch | None:
        """The watch of a worker, or None when it is not (or no longer) watched."""
        return self._workers.get(address)

    def backend(self, address: str) -> str:
        """The backend of a worker, "" for one that is not watched."""
        watch = self._workers.get(address)
        return watch.looks.backend if watch is not None else ""

    def withdraw(self, address: str, source: str) -> None:
        """A source no longer knows of a worker, which goes when it is down for long and not before."""
        watch = self._workers.get(address)
        if watch is not None and source in watch.sources and watch.sources != {source}:
            watch.sources.discard(source)

    def drop(self, address: str) -> None:
        """Forget a worker at once; what is in flight there goes on."""
        watch = self._workers.pop(address, None)
        if watch is not None:
            watch.retire()
            self._fleet.forget(address, self._clock())
            self._full_told = False
            self._taken.pop(address, None)

    def update(
        self, *, workers: Mapping[str, Looks], controllers: Mapping[str, Finders], settings: SourceSettings
    ) -> None:
        """Other settings from now on; ValueError with one sentence, and nothing changed, for a bad address.

        What is new is looked at at once, what is no longer named goes unless another source knows of it. Every worker
        is asked for its facts again, because they may be read differently now.
        """
        named = {normalise_base_url(url): looks for url, looks in workers.items()}
        urls = {normalise_base_url(url): finders for url, finders in controllers.items()}
        gone_names = self._named.keys() - named.keys()
        gone_urls = {url for url, finders in self._controller_urls.items() if urls.get(url) is not finders}
        self._settings, self._named, self._controller_urls = settings, named, urls
        self._taken.clear()
        for url in gone_urls:
            self._controllers.pop(url, None)
            task = self._controller_tasks.pop(url, None)
            if task is not None:
                task.cancel()
        for controller in self._controllers.values():
            controller.reconfigure(settings)
        if self._session is not None:
            self._follow_looks(self._session)
            self._add_missing(self._session)
        self._merge_soon.set()
        self._drop_unnamed(gone_names, gone_urls)

    def _follow_looks(self, session: aiohttp.ClientSession) -> None:
        """Look at each worker as whoever names it says now, the settings before all others."""
        for address, watch in [*self._workers.items()]:
            naming = (self._controller_urls[url].looks for url in sorted(watch.sources & self._controller_urls.keys()))
            looks = self._named.get(address) or next(naming, watch.looks)
            if looks.backend != watch.looks.backend:
                log.info("worker %s: the settings say that it is one of %s now", address, looks.backend)
                self.drop(address)
                continue
            if looks is not watch.looks:
                watch.use(looks, looks.open(session, address))
            watch.reconfigure(self._settings)

    def _drop_unnamed(self, gone_names: set[str], gone_urls: set[str]) -> None:
        for address, watch in [*self._workers.items()]:
            gone = watch.sources & {*gone_urls, *([NAMED] if address in gone_names else [])}
            if gone:
                watch.sources -= gone
                if not watch.sources:
                    log.info("worker %s: dropped, the settings no longer name it", address)
                    self.drop(address)
                elif watch.is_newcomer:
                    self._fleet.forget(address, self._clock())

    async def close(self) -> None:
        """End all tasks and close the session. The fleet stays as it is."""
        await self._stop()
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._session_factory()
            self._add_missing(self._session)
        return self._session

    def _add_missing(self, session: aiohttp.ClientSession) -> None:
        """Watch what the settings name and nobody watches yet."""
        for address, looks in self._named.items():
            if address in self._workers:
                self._workers[address].sources.add(NAMED)
            else:
                self._add(address, session, NAMED, looks)
        for url, finders in self._controller_urls.items():
            if url not in self._controllers:
                finder = self._controllers[url] = finders.open(session, url, _Naming(self, url))
                if self._running:
                    self._start_controller(finder)

    async def named_by(self, url: str, address: str) -> str | None:
        """A controller names a worker; see `Naming.introduce`."""
        if await self._is_own(address):
            log.debug("controller %s names this gateway itself, %s, which is no worker of its own", url, address)
            return None
        address = await self.known_as(address)
        finders = self._controller_urls.get(url)
        if finders is None or url not in self._controllers or self.introduce(address, url, finders.looks):
            return None
        return address

    def _told_taken(self, watch: WorkerWatch, source: str, backend: str) -> str:
        """Two name one address as workers of different backends: say so, once for each of them."""
        known = f"it is watched as a worker of {watch.looks.backend} ({', '.join(sorted(watch.sources))})"
        text = f"{source} names it as a worker of {backend}, but {known} and stays that"
        told = self._taken.setdefault(watch.address, set())
        if source not in told:
            log.warning("worker %s: %s", watch.address, text)
        told.add(source)
        return text

    async def _keep_merged(self) -> None:
        fault = ""
        while True:
            self._merge_soon.clear()
            fault = await _guarded(self._merge, "the fleet", fault)
            await pause(self._merge_soon, _MERGE_SECONDS)

    async def _merge(self) -> None:
        """Drop one of two watches of the same worker, which came to be before its name could be looked up.

        Who registered under the dropped address is told with its next heartbeat to register again. Of two backends the
        one that the settings name stays.
        """
        for address in [address for address in self._workers if has_name(address)]:
            others = self._workers.keys() - {address}
            other = await self._same.find(address, others)
            watch, twin = self._workers.get(address), self._workers.get(other or "")
            if watch is None or twin is None:
                continue
            kept, gone = (watch, twin) if NAMED in watch.sources else (twin, watch)
            if kept.looks.backend == gone.looks.backend:
                kept.sources |= gone.sources - {REGISTERED}
            log.warning("workers %s and %s are one, which is used as %s", gone.address, kept.address, kept.address)
            self.drop(gone.address)

    def _add(self, address: str, session: aiohttp.ClientSession, source: str, looks: Looks) -> None:
        look = looks.open(session, address)
        watch = WorkerWatch(look, self._fleet, self._settings, self._clock, self._on_event, looks=looks, source=source)
        self._workers[address] = watch
        if self._running:
            self._spawn(self._keep_worker(watch), address)

    def _start_controller(self, finder: Finder) -> None:
        self._controller_tasks[finder.url] = self._spawn(self._keep_controller(finder), finder.url)

    async def _step(self, watch: WorkerWatch) -> None:
        if await self._is_own(watch.address):
            watch.refuse("it is this gateway itself, which cannot be a worker of its own")
        else:
            await watch.step()

    async def _keep_worker(self, watch: WorkerWatch) -> None:
        fault = ""
        while not watch.retired and not self._is_lost(watch):
            watch.wake.clear()
            fault = await _guarded(partial(self._step, watch), watch.address, fault)
            interval = watch.interval
            gap = min(self._settings.probe_gap, interval)
            await asyncio.sleep(gap)  # whoever can wake a watch again and again makes no storm of probes
            await pause(watch.wake, interval - gap)
        if not watch.retired:
            level = logging.DEBUG if watch.is_newcomer else logging.INFO
            log.log(level, "worker %s: dropped, it was down for %g s", watch.address, self._patience(watch))
            self.drop(watch.address)

    async def _keep_controller(self, finder: Finder) -> None:
        fault = ""
        while self._controllers.get(finder.url) is finder:
            fault = await _guarded(finder.step, finder.url, fault)
            await asyncio.sleep(self._settings.list_interval)

    def _is_lost(self, watch: WorkerWatch) -> bool:
        if NAMED in watch.sources or watch.down_since is None:
            return False
        return self._clock() - watch.down_since > self._patience(watch)

    def _patience(self, watch: WorkerWatch) -> float:
        settings = self._settings
        is_silent = watch.is_newcomer and not watch.answered
        return min(settings.newcomer_seconds, settings.forget_after) if is_silent else settings.forget_after

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"watch {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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
