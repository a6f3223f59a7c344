"""Membership in DB-GPT clusters: each controller's registry holds what the gateway can answer, and no more of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import aiohttp

from proxy.backends.control import CallLimits, EventHook, base_urls, end_tasks, new_session, no_events
from proxy.backends.dbgpt.controller_api import ControllerApi, Instance
from proxy.backends.dbgpt.link import ControllerLink, ControllerStatus, RegistrarSettings
from proxy.backends.dbgpt.names import assign_public_names

log = logging.getLogger(__name__)

# Without this row a cluster cannot list models that could be started, and says that it found no worker instances.
MANAGER_KEY: Final = "WorkerManager@service"


class Membership(NamedTuple):
    """One model that the gateway answers at host:port.

    worker_type: "llm" or "text2vec"; not_with: controllers that have all of its workers already.
    """

    model_name: str
    worker_type: str
    host: str
    port: int
    not_with: frozenset[str] = frozenset()


class Registrar:
    """One independent loop for each controller; a dead one delays no other.

    controllers: base addresses; ValueError with one sentence for one that cannot be used. desired: called whenever
    needed, must be quick. manager: host and port of the gateway's worker API, registered always. is_own_port: whether a
    further port of that host is the gateway's; rows that are not desired are removed from its ports. clock: seconds,
    monotonic. on_event: "registration" and "heartbeat" (controller, result); result "collision" (with controller
    "all") when a model stays out because another has its public name.
    """

    def __init__(
        self,
        controllers: Iterable[str],
        desired: Callable[[], Iterable[Membership]],
        *,
        manager: tuple[str, int],
        rng: random.Random,
        is_own_port: Callable[[int], bool] = lambda _: False,
        settings: RegistrarSettings | None = None,
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._urls = base_urls(controllers)
        self._desired, self._manager, self._is_own_port = desired, manager, is_own_port
        self._settings = settings or RegistrarSettings()
        self._session_factory, self._clock, self._rng, self._on_event = session_factory, clock, rng, on_event
        self._session: aiohttp.ClientSession | None = None
        self._links: dict[str, ControllerLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._running = False
        self._rejected: dict[str, str] = {}
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Keep all controllers in step until cancelled or until `withdraw_all`."""
        self._open()
        if not self._stopped.is_set():
            self._running = True
            for url, link in self._links.items():
                self._start(url, link)
        try:
            await self._stopped.wait()
        finally:
            await self._stop_links()

    def update(self, controllers: Iterable[str], heartbeat_interval: float) -> None:
        """Other controllers from now on, or another interval. One that is left out loses our rows in the background."""
        urls = base_urls(controllers)
        self._settings = replace(self._settings, heartbeat_interval=heartbeat_interval)
        self._urls = urls
        if self._session is None or self._stopped.is_set():
            return
        for url in self._links.keys() - set(urls):
            work = self._leave(self._links.pop(url), self._tasks.pop(url, None), self._leaving.get(url))
            self._leaving[url] = asyncio.create_task(work, name=f"leave {url}")
        for link in self._links.values():
            link.settings = self._settings
        for url in urls:
            if url not in self._links:
                link = self._links[url] = self._link(url, self._session)
                if self._running:
                    self._start(url, link)
        self.changed()

    def changed(self) -> None:
        """The desired set may have changed: act at once. Cheap, may be called from anywhere in the loop's thread."""
        for link in self._links.values():
            link.wake.set()

    async def withdraw_all(self) -> None:
        """Stop, and take everything back from all controllers at the same time; ends within `withdraw_timeout`."""
        self._stopped.set()
        await self._stop_links()
        links = self._links.values()
        work = {asyncio.create_task(link.withdraw_all(), name=f"withdraw {link.url}") for link in links}
        if work or self._leaving:
            leaving = set(self._leaving.values())
            _, late = await asyncio.wait(work | leaving, timeout=self._settings.withdraw_timeout)
            await end_tasks(late)
        for link in links:
            _tell_what_is_left(link)

    def status(self) -> list[ControllerStatus]:
        """Each controller's state, in the order given."""
        return [
            self._links[url].status() if url in self._links else ControllerStatus(url, None, (), None, "")
            for url in self._urls
        ]

    async def close(self) -> None:
        """End all tasks and close the session; does not withdraw."""
        self._stopped.set()
        await self._stop_links()
        await end_tasks(self._leaving.values())
        if self._session is not None:
            await self._session.close()

    def wanted(self, controller: str = "") -> frozenset[Instance]:
        """The rows that this controller should hold now."""
        memberships = list(self._desired())
        names = assign_public_names(membership.model_name for membership in memberships)
        for model in names.rejected.keys() - self._rejected.keys():
            log.error("model %r is not registered: %s", model, names.rejected[model])
            self._on_event("registration", controller="all", result="collision")
        self._rejected = names.rejected
        public = {model: name for name, model in names.models.items()}
        rows = {
            Instance(f"{public[membership.model_name]}@{membership.worker_type}", membership.host, membership.port)
            for membership in memberships
            if membership.model_name in public and controller not in membership.not_with
        }
        return frozenset(rows | {Instance(MANAGER_KEY, *self._manager)})

    def _open(self) -> None:
        if self._session is None:
            self._session = self._session_factory()
            self._links = {url: self._link(url, self._session) for url in self._urls}

    def _link(self, url: str, session: aiohttp.ClientSession) -> ControllerLink:
        limits = CallLimits(self._settings.connect_timeout, self._settings.call_timeout, self._settings.max_body)
        api = ControllerApi(session, url, limits)
        return ControllerLink(
            api, partial(self.wanted, url), self._is_own, self._settings, self._clock, self._rng, self._on_event
        )

    def _is_own(self, instance: Instance) -> bool:
        host, port = self._manager
        return instance.host == host and (instance.port == port or self._is_own_port(instance.port))

    def _start(self, url: str, link: ControllerLink) -> None:
        self._tasks[url] = asyncio.create_task(self._keep(url, link), name=f"register {url}")

    async def _keep(self, url: str, link: ControllerLink) -> None:
        if url in self._leaving:  # it was left a moment ago, and what is entered now must not be taken back
            await asyncio.wait([self._leaving[url]])
        await link.run()

    async def _leave(
        self, link: ControllerLink, task: asyncio.Task[None] | None, before: asyncio.Task[None] | None
    ) -> None:
        """Take our rows back from a controller that is none of ours any more."""
        await end_tasks([task] if task is not None else [])
        if before is not None:
            await asyncio.wait([before])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(link.withdraw_all(), self._settings.withdraw_timeout)
        _tell_what_is_left(link)

    async def _stop_links(self) -> None:
        self._running = False
        tasks, self._tasks = list(self._tasks.values()), {}
        await end_tasks(tasks)


def _tell_what_is_left(link: ControllerLink) -> None:
    if left := link.left():
        log.warning("controller %s: may still hold %s until its heartbeat timeout", link.url, ", ".join(map(str, left)))
