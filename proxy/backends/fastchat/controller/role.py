"""The role of a FastChat controller as a whole: guard, registrations and listener, made of the settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from proxy.address import is_wildcard, parse_address
from proxy.backends.control import EventHook, no_events
from proxy.backends.fastchat.controller.app import (
    InService,
    ListenerRules,
    Withheld,
    always_in_service,
    controller_app,
    nothing_withheld,
)
from proxy.backends.fastchat.controller.guard import Guard
from proxy.backends.fastchat.controller.registry import RegistrationRow, WorkerRegistry
from proxy.backends.fastchat.look import FastChatLooks
from proxy.backends.settings import AcceptSettings
from proxy.backends.workers.network import NameLookUps, is_own_address
from proxy.backends.workers.source import FleetSource
from proxy.fleet.table import Fleet
from proxy.http import Handler


class ControllerRole:
    """Make it, `restore` before the source's first look, serve `app`, `run` it beside the source, `close` it at last.

    own_ports: where else this gateway listens; no registration may name it. kept_workers: the state file, where the
    settings name none.
    ValueError with one sentence for a setting that cannot be used.
    """

    def __init__(
        self,
        settings: AcceptSettings,
        source: FleetSource,
        looks: FastChatLooks,
        *,
        own_ports: Iterable[int],
        kept_workers: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._own_ports = [*own_ports, parse_address(settings.listen).port]
        self._rules = _rules(settings)
        self._clock, self._on_event = clock, on_event
        self.registry = WorkerRegistry(
            source,
            looks,
            self._guard(settings),
            NameLookUps(),
            state_file=settings.state_file or kept_workers,
            clock=clock,
            on_event=on_event,
        )
        looks.takes_images = self.registry.is_multimodal

    def app(
        self,
        fleet: Fleet,
        *,
        public_names: Callable[[], Mapping[str, str]],
        fall_through: Handler,
        withheld: Withheld = nothing_withheld,
        in_service: InService = always_in_service,
    ) -> Handler:
        """What serves the listening address. fall_through: the gateway's own paths, but for the methods and paths that
        are `withheld`; public_names: to the fleet's; in_service: whether the gateway serves a model."""
        return controller_app(
            self.registry,
            fleet,
            rules=lambda: self._rules,
            public_names=public_names,
            fall_through=fall_through,
            withheld=withheld,
            in_service=in_service,
            clock=self._clock,
            on_event=self._on_event,
        )

    def wind_down(self) -> None:
        """The gateway is about to stop: who is not registered asks again later, and is not told to register here."""
        self._rules = replace(self._rules, stopping=True)

    def update(self, settings: AcceptSettings) -> None:
        """Other settings from now on, but for listen and state_file; registrations that they do not allow go soon.

        ValueError, and nothing changed, for bad ones.
        """
        guard = self._guard(settings)
        self.registry.update(guard)
        self._rules = _rules(settings)

    async def restore(self) -> None:
        """Take in the workers that an earlier run of the gateway kept."""
        await self.registry.restore()

    async def run(self) -> None:
        """Keep the registrations in order until cancelled."""
        await self.registry.run()

    async def close(self) -> None:
        """Write what has not been written yet."""
        await self.registry.save()

    def rows(self) -> list[RegistrationRow]:
        """All registrations, for people."""
        return self.registry.rows()

    def _guard(self, settings: AcceptSettings) -> Guard:
        return Guard(
            allow=settings.allow,
            rewrite=settings.rewrite,
            addresses=settings.addresses,
            own_ports=self._own_ports,
            is_own=is_own_address,
        )


def _rules(settings: AcceptSettings) -> ListenerRules:
    host, port = parse_address(settings.listen)
    fixed = not is_wildcard(host) and port != 0
    url = f"http://{parse_address(settings.listen)}" if fixed else None
    return ListenerRules(settings.token, settings.hand_out, url)
