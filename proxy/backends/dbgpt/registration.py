"""Membership in DB-GPT clusters: each controller's registry holds what the gateway can answer, and no more of it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import aiohttp

from proxy.backends.control import CallLimits, EventHook, new_session, no_events
from proxy.backends.dbgpt.controller_api import ControllerApi, Instance
from proxy.backends.dbgpt.link import ControllerLink, RegistrarSettings
from proxy.backends.dbgpt.names import assign_public_names
from proxy.backends.links import ControllerStatus, Links

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
        self._desired, self._manager, self._is_own_port = desired, manager, is_own_port
        self._settings = settings or RegistrarSettings()
        self._clock, self._rng, self._on_event = clock, rng, on_event
        self._rejected: dict[str, str] = {}
        self._links = Links(
            controllers,
            self._link,
            withdraw_timeout=self._settings.withdraw_timeout,
            session_factory=session_factory,
        )

    async def run(self) -> None:
        """Keep all controllers in step until cancelled or until `withdraw_all`."""
        await self._links.run()

    def update(self, controllers: Iterable[str], heartbeat_interval: float) -> None:
        """Other controllers from now on, or another interval. One that is left out loses our rows in the background."""
        self._settings = replace(self._settings, heartbeat_interval=heartbeat_interval)
        self._links.update(controllers)

    def changed(self) -> None:
        """The desired set may have changed: act at once. Cheap, may be called from anywhere in the loop's thread."""
        self._links.changed()

    async def withdraw_all(self) -> None:
        """Stop, and take everything back from all controllers at the same time; ends within `withdraw_timeout`."""
        await self._links.withdraw_all()

    def status(self) -> list[ControllerStatus]:
        """Each controller's state, in the order given."""
        return self._links.status()

    async def close(self) -> None:
        """End all tasks and close the session; does not withdraw."""
        await self._links.close()

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

    def _link(self, session: aiohttp.ClientSession, url: str) -> ControllerLink:
        limits = CallLimits(self._settings.connect_timeout, self._settings.call_timeout, self._settings.max_body)
        wanted = partial(self.wanted, url)
        return ControllerLink(
            ControllerApi(session, url, limits),
            wanted,
            self._is_own,
            lambda: self._settings,
            self._clock,
            self._rng,
            self._on_event,
        )

    def _is_own(self, instance: Instance) -> bool:
        host, port = self._manager
        return instance.host == host and (instance.port == port or self._is_own_port(instance.port))
