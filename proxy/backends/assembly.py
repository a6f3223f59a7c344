"""The products around one gateway, behind names that the rest of the program can use without knowing them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from proxy.address import Address, is_wildcard
from proxy.backends.base_url import normalise_base_url
from proxy.backends.control import EventHook
from proxy.backends.dbgpt.link import RegistrarSettings
from proxy.backends.dbgpt.names import PublicNames, assign_public_names
from proxy.backends.dbgpt.registration import Membership, Registrar
from proxy.backends.declared.look import BackendRules
from proxy.backends.fastchat.look import BACKEND
from proxy.backends.fastchat.registration import Offer, offering
from proxy.backends.links import ControllerStatus
from proxy.backends.overrides import ModelOverrides
from proxy.backends.service import ELSEWHERE, STRANGER, Service, kinds_of
from proxy.backends.settings import BackendSettings
from proxy.backends.sources import Sources
from proxy.fleet.facts import KINDS, Kind
from proxy.fleet.table import Fleet
from proxy.fleet.totals import under_way
from proxy.http import Handler
from proxy.limits import FIRST_LOOK_SECONDS
from proxy.types import Json, JsonObject

if TYPE_CHECKING:
    from proxy.backends.fastchat.controller.app import Withheld
    from proxy.backends.fastchat.controller.role import ControllerRole

log = logging.getLogger(__name__)


class Advertised(NamedTuple):
    """Where a cluster finds this gateway; `port_of` gives the port of a model that has one of its own, `is_own_port`
    tells whether a port could be one of those: what is registered there without need was left over by an earlier run.
    """

    host: str
    port: int
    port_of: Callable[[str], int | None]
    is_own_port: Callable[[int], bool] = lambda _: False


class Backends:
    """The source of the fleet and the memberships of the gateway; follows the fleet by itself once `run` is under way.

    models: as made from the same settings; rules: of the backends, by their names; extra_workers: addresses beside
    those of the settings, such as the demonstration fleet's; own_ports: where this gateway listens, so that it takes no
    worker of that address; kept_workers: the file for those that register, where the settings name none. ValueError
    with one sentence for an address that cannot be used.
    """

    def __init__(
        self,
        settings: BackendSettings,
        models: ModelOverrides,
        fleet: Fleet,
        advertised: Advertised,
        *,
        rules: Mapping[str, BackendRules],
        extra_workers: Iterable[str],
        own_ports: Iterable[int],
        rng: random.Random,
        on_event: EventHook,
        kept_workers: str | None = None,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._advertised = advertised
        base = settings.fastchat.advertise or f"http://{Address(advertised.host, advertised.port)}"
        ports = frozenset(own_ports) | {address.port for address in [settings.worker_listener_address()] if address}
        self._on_event = on_event
        self._service = Service()
        self._named, self._named_at = PublicNames({}, {}), -1
        self._rejected: dict[str, str] = {}
        self._sources = Sources(
            settings,
            models,
            rules,
            fleet,
            extra_workers=extra_workers,
            own_ports=ports,
            own_addresses=[base, *(f"http://{Address(advertised.host, port)}" for port in {advertised.port, *ports})],
            on_event=on_event,
        )
        self._source = self._sources.source
        self._role = self._new_role(ports, kept_workers)
        self._registrar = Registrar(
            settings.dbgpt.controllers,
            self._memberships,
            manager=(advertised.host, advertised.port),
            is_own_port=advertised.is_own_port,
            rng=rng,
            settings=RegistrarSettings(heartbeat_interval=settings.dbgpt.heartbeat_seconds),
            on_event=on_event,
        )
        self._offering = offering(
            settings.fastchat.register_with,
            self._offer,
            worker_name=base,
            rng=rng,
            on_event=on_event,
        )
        self._unsubscribe = fleet.subscribe(self.changed)

    def _new_role(self, ports: frozenset[int], kept_workers: str | None) -> ControllerRole | None:
        accept = self._settings.fastchat.accept
        if accept is None:
            return None
        from proxy.backends.fastchat.controller.role import ControllerRole  # late: many gateways have none

        return ControllerRole(
            accept,
            self._source,
            self._sources.fastchat,
            own_ports=ports,
            kept_workers=kept_workers,
            on_event=self._on_event,
        )

    def update(self, settings: BackendSettings, models: ModelOverrides, rules: Mapping[str, BackendRules]) -> None:
        """Work with other settings and rules from now on; `models` as made from the settings."""
        self._settings = settings
        self._named_at = -1  # aliases may differ
        self._sources.update(settings, models, rules)
        if self._role is not None and settings.fastchat.accept is not None:
            self._role.update(settings.fastchat.accept)
        if not settings.dbgpt.management:
            self._service.clear()
        self._registrar.update(settings.dbgpt.controllers, settings.dbgpt.heartbeat_seconds)
        self._offering.update(settings.fastchat.register_with)

    async def first_look(self) -> None:
        """Try every worker and controller of the fleet once; whoever has not answered by then is asked again later."""
        if self._role is not None:
            await self._role.restore()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._source.first_look(), FIRST_LOOK_SECONDS)

    async def run(self) -> None:
        """Keep the fleet and the memberships up to date until cancelled."""
        roles = [] if self._role is None else [self._role.run()]
        await asyncio.gather(self._source.run(), self._registrar.run(), self._offering.run(), *roles)

    def worker_listener(self, fall_through: Handler, withheld: Withheld) -> Handler | None:
        """What serves the address with which workers register, None without one.

        fall_through: everything else, but for the methods and paths that are `withheld` there, such as operations.
        """
        if self._role is None:
            return None
        return self._role.app(
            self._fleet,
            public_names=self.public_names,
            fall_through=fall_through,
            withheld=withheld,
            in_service=self.in_service,
        )

    def changed(self) -> None:
        """Something that is registered may have changed, such as a port."""
        self._registrar.changed()
        self._offering.changed()

    def trouble(self, address: str) -> None:
        """A request to this worker failed: look at it now."""
        self._source.check_soon(address)

    async def withdraw(self) -> None:
        """Leave every cluster; ends within a few seconds."""
        self._unsubscribe()
        if self._role is not None:
            self._role.wind_down()
        await asyncio.gather(self._registrar.withdraw_all(), self._offering.withdraw_all())

    async def close(self) -> None:
        """Let go of tasks and connections."""
        await self._registrar.close()
        await self._offering.close()
        if self._role is not None:
            await self._role.close()
        await self._source.close()

    def how_to_join(self, listener: Address) -> str:
        """Where workers register, and the one flag that makes one do so."""
        accept = self._settings.fastchat.accept
        url = f"http://THIS-MACHINE:{listener.port}" if is_wildcard(listener.host) else f"http://{listener}"
        path = "/TOKEN" if accept is not None and accept.token is not None else ""
        return f"workers at http://{listener}; start FastChat workers with --controller-address {url}{path}"

    def backend(self, address: str) -> str:
        """The backend of a worker, "" for one that is not watched."""
        return self._source.backend(address)

    def sources(self, address: str) -> tuple[str, ...]:
        """Who knows of a worker: the settings, its own registration, controllers by their base address."""
        return self._source.sources(address)

    # --- names

    def public_names(self) -> dict[str, str]:
        """Public name to the fleet's own name, for every model that was ever seen and for each of its aliases."""
        return self._names().models

    def aliases(self, model: str) -> list[str]:
        """Further names under which clients know a model."""
        settings = self._settings.models.get(model)
        return [] if settings is None else list(settings.aliases)

    def _names(self) -> PublicNames:
        """Kept until the fleet or the settings change: each control call and each round of a cluster asks."""
        if self._named_at != self._fleet.version:
            aliases = {alias: name for name in sorted(self._settings.models) for alias in self.aliases(name)}
            self._named = assign_public_names((row.model for row in self._fleet.models()), aliases)
            self._named_at = self._fleet.version
        return self._named

    # --- service

    def in_service(self, model: str, kind: Kind) -> bool:
        """Whether nobody took this model out of service."""
        return self._service.answers(model, kind)

    def service_version(self) -> int:
        """Grows whenever a model is put in or out of service."""
        return self._service.version

    def adopt_out_of_service(self, rows: Iterable[tuple[str, Kind]]) -> None:
        """An earlier run of this gateway had these out of service."""
        self._service.adopt(rows)

    def operate(self, operation: str, model: str, worker_type: str | None) -> tuple[bool, str]:
        """A cluster asks to start or stop (`start_model`, `stop_model`) a model: whether it was done, and a sentence.

        To stop means to take it out of service here: its rows are withdrawn, and new requests find it unavailable.
        worker_type: as the cluster says it, None for all that the model can do.
        """
        if not self._settings.dbgpt.management or operation not in ("start_model", "stop_model"):
            return False, ELSEWHERE
        own = self.public_names().get(model, model)
        seen = frozenset(row.kind for row in self._fleet.models() if row.model == own)
        kinds = seen & kinds_of(worker_type)
        if not kinds:
            return False, STRANGER.format(model=model[:80])
        done = self._service.start(own, kinds) if operation == "start_model" else self._service.stop(own, kinds)
        self.changed()
        return True, done

    # --- clusters

    def registrations(self) -> list[tuple[str, int]]:
        """Each cluster's controller and how many entries it holds for this gateway."""
        return [(status.url, len(status.registered)) for status in self._statuses()]

    def status(self) -> list[Json]:
        """Each cluster's controller for people: url, reachable, registered, heartbeat age in seconds, last error."""
        return [_described(status) for status in self._statuses()]

    def _statuses(self) -> list[ControllerStatus]:
        return [*self._registrar.status(), *self._offering.status()]

    def offered(self) -> frozenset[str]:
        """The names of the models that FastChat's clients find here, as far as they can be answered now.

        All of them, unless the gateway stands beside FastChat's own workers in a controller's list.
        """
        fastchat = self._settings.fastchat
        wants_all = fastchat.offer == "all" or not fastchat.register_with
        serving = [view for view in self._fleet.workers() if view.up]
        others = {facts.model for view in serving for facts in view.models if facts.document.get("backend") != BACKEND}
        answerable, in_service = self._fleet.answerable(), self._service.answers
        return frozenset(
            name
            for name, model in self._names().models.items()
            if (wants_all or model in others)
            and any((model, kind) in answerable and in_service(model, kind) for kind in KINDS)
        )

    def _offer(self) -> Offer:
        return Offer(tuple(sorted(self.offered())), under_way(self._fleet))

    def _memberships(self) -> list[Membership]:
        here = self._advertised
        names = self._names()
        for called in names.rejected.keys() - self._rejected.keys():
            log.error("model %r is not registered: %s", called, names.rejected[called])
            self._on_event("registration", controller="all", result="collision")
        self._rejected = names.rejected
        answerable = self._fleet.answerable()
        at_home = self._sources.at_home()
        return [
            Membership(name, kind, here.host, here.port_of(model) or here.port, at_home.get(model, frozenset()))
            for name, model in sorted(names.models.items())
            for kind in KINDS
            if (model, kind) in answerable and self._service.answers(model, kind)
        ]


def worker_limits(settings: BackendSettings) -> dict[str, int]:
    """The most requests at once that the operator set for single workers, by address."""
    declared = {worker.url: worker.limit for worker in settings.backends if worker.limit is not None}
    return {**declared, **{normalise_base_url(url): limit for url, limit in settings.fastchat.worker_limits.items()}}


def _described(status: ControllerStatus) -> JsonObject:
    age = status.heartbeat_age
    return {
        "controller": status.url,
        "reachable": status.reachable,
        "registered": [*map(str, status.registered)],
        "heartbeat_age_seconds": None if age is None else round(age, 1),
        "error": status.error or None,
    }
