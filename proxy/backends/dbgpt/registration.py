"""Membership in DB-GPT clusters: each controller's registry holds what the gateway can answer, and no more of it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import aiohttp

from proxy.backends.control import CallLimits, EventHook, end_tasks, new_session, no_events, normalise_base_url
from proxy.backends.dbgpt.controller_api import ControllerApi, Instance
from proxy.backends.dbgpt.link import ControllerLink, ControllerStatus, RegistrarSettings
from proxy.backends.dbgpt.names import assign_public_names

log = logging.getLogger(__name__)

# Without this row a cluster cannot list models that could be started, and says that it found no worker instances.
MANAGER_KEY: Final = "WorkerManager@service"


class Membership(NamedTuple):
    """One model that the gateway answers at host:port. worker_type: "llm" or "text2vec"."""

    model_name: str
    worker_type: str
    host: str
    port: int


class Registrar:
    """One independent loop for each controller; a dead one delays no other.

    controllers: base addresses; ValueError with one sentence for one that cannot be used. desired: called whenever
    needed, must be quick. manager: host and port of the gateway's worker API, registered always. clock: seconds,
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
        settings: RegistrarSettings | None = None,
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._urls = list(dict.fromkeys(normalise_base_url(url) for url in controllers))
        self._desired, self._manager = desired, manager
        self._settings = settings or RegistrarSettings()
        self._session_factory, self._clock, self._rng, self._on_event = session_factory, clock, rng, on_event
        self._session: aiohttp.ClientSession | None = None
        self._links: list[ControllerLink] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._rejected: dict[str, str] = {}
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Keep all controllers in step until cancelled or until `withdraw_all`."""
        self._open()
        if not self._stopped.is_set():
            self._tasks = [asyncio.create_task(link.run(), name=f"register {link.url}") for link in self._links]
        try:
            await self._stopped.wait()
        finally:
            await self._stop_links()

    def changed(self) -> None:
        """The desired set may have changed: act at once. Cheap, may be called from anywhere in the loop's thread."""
        for link in self._links:
            link.wake.set()

    async def withdraw_all(self) -> None:
        """Stop, and take everything back from all controllers at the same time; ends within `withdraw_timeout`."""
        self._stopped.set()
        await self._stop_links()
        work = [asyncio.create_task(link.withdraw_all(), name=f"withdraw {link.url}") for link in self._links]
        if work:
            _, late = await asyncio.wait(work, timeout=self._settings.withdraw_timeout)
            await end_tasks(late)
        for link in self._links:
            if left := link.left():
                log.warning(
                    "controller %s: may still hold %s until its heartbeat timeout", link.url, ", ".join(map(str, left))
                )

    def status(self) -> list[ControllerStatus]:
        """Each controller's state, in the order given."""
        if not self._links:
            return [ControllerStatus(url, None, (), None, "") for url in self._urls]
        return [link.status() for link in self._links]

    async def close(self) -> None:
        """End all tasks and close the session; does not withdraw."""
        self._stopped.set()
        await self._stop_links()
        if self._session is not None:
            await self._session.close()

    def wanted(self) -> frozenset[Instance]:
        """The rows that every controller should hold now."""
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
            if membership.model_name in public
        }
        return frozenset(rows | {Instance(MANAGER_KEY, *self._manager)})

    def _open(self) -> None:
        if self._session is not None:
            return
        self._session = self._session_factory()
        limits = CallLimits(self._settings.connect_timeout, self._settings.call_timeout, self._settings.max_body)
        self._links = [
            ControllerLink(
                ControllerApi(self._session, url, limits),
                self.wanted,
                self._settings,
                self._clock,
                self._rng,
                self._on_event,
            )
            for url in self._urls
        ]

    async def _stop_links(self) -> None:
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)
