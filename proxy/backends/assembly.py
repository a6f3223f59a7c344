"""The products around one gateway, behind names that the rest of the program can use without knowing them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from proxy.backends.control import EventHook
from proxy.backends.dbgpt.link import RegistrarSettings
from proxy.backends.dbgpt.names import assign_public_names
from proxy.backends.dbgpt.registration import Membership, Registrar
from proxy.backends.fastchat.source import FleetSource
from proxy.backends.fastchat.source_settings import SourceSettings
from proxy.backends.overrides import ModelOverrides
from proxy.backends.settings import BackendSettings
from proxy.fleet.table import Fleet
from proxy.limits import FIRST_LOOK_SECONDS
from proxy.types import Json, JsonObject


class Advertised(NamedTuple):
    """Where a cluster finds this gateway; `port_of` gives the port of a model that has one of its own."""

    host: str
    port: int
    port_of: Callable[[str], int | None]


class Backends:
    """The source of the fleet and the memberships of the gateway; follows the fleet by itself once `run` is under way.

    extra_workers: addresses beside those of the settings, such as the demonstration fleet's. ValueError with one
    sentence for an address or a model's template that cannot be used.
    """

    def __init__(
        self,
        settings: BackendSettings,
        fleet: Fleet,
        advertised: Advertised,
        *,
        extra_workers: Iterable[str],
        rng: random.Random,
        on_event: EventHook,
    ) -> None:
        self._fleet = fleet
        self._advertised = advertised
        self._source = FleetSource(
            fleet,
            workers=[*settings.fastchat.workers, *extra_workers],
            controllers=settings.fastchat.controllers,
            models=ModelOverrides(settings.models, settings.defaults),
            settings=SourceSettings(
                probe_interval=settings.fastchat.probe_seconds,
                list_interval=settings.fastchat.list_seconds,
                probe_embeddings=settings.fastchat.probe_embeddings,
            ),
            on_event=on_event,
        )
        self._registrar = Registrar(
            settings.dbgpt.controllers,
            self._memberships,
            manager=(advertised.host, advertised.port),
            rng=rng,
            settings=RegistrarSettings(heartbeat_interval=settings.dbgpt.heartbeat_seconds),
            on_event=on_event,
        )
        self._unsubscribe = fleet.subscribe(self._registrar.changed)

    async def first_look(self) -> None:
        """Try every worker and controller of the fleet once; whoever has not answered by then is asked again later."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._source.first_look(), FIRST_LOOK_SECONDS)

    async def run(self) -> None:
        """Keep the fleet and the memberships up to date until cancelled."""
        await asyncio.gather(self._source.run(), self._registrar.run())

    def changed(self) -> None:
        """Something that is registered may have changed, such as a port."""
        self._registrar.changed()

    def trouble(self, address: str) -> None:
        """A request to this worker failed: look at it now."""
        self._source.check_soon(address)

    async def withdraw(self) -> None:
        """Leave every cluster."""
        self._unsubscribe()
        await self._registrar.withdraw_all()

    async def close(self) -> None:
        """Let go of tasks and connections."""
        await self._registrar.close()
        await self._source.close()

    def public_names(self) -> dict[str, str]:
        """Public name to the fleet's own name, for every model that was ever seen."""
        return assign_public_names(row.model for row in self._fleet.models()).models

    def registrations(self) -> list[tuple[str, int]]:
        """Each cluster's controller and how many rows it holds for this gateway."""
        return [(status.url, len(status.registered)) for status in self._registrar.status()]

    def status(self) -> list[Json]:
        """Each cluster's controller for people: url, reachable, registered, heartbeat age in seconds, last error."""
        return [_described(status._asdict()) for status in self._registrar.status()]

    def _memberships(self) -> list[Membership]:
        here = self._advertised
        return [
            Membership(model, kind, here.host, here.port_of(model) or here.port)
            for model, kind in sorted(self._fleet.answerable())
        ]


def _described(status: dict[str, object]) -> JsonObject:
    rows = status["registered"]
    age = status["heartbeat_age"]
    reachable = status["reachable"]
    return {
        "controller": str(status["url"]),
        "reachable": reachable if isinstance(reachable, bool) else None,
        "registered": [str(row) for row in rows] if isinstance(rows, tuple) else [],
        "heartbeat_age_seconds": round(age, 1) if isinstance(age, float) else None,
        "error": str(status["error"]) or None,
    }
