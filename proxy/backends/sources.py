"""Where the fleet comes from, as the settings say it: workers and controllers of all backends."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from proxy.backends.control import EventHook
from proxy.backends.dbgpt import discovery as dbgpt
from proxy.backends.dbgpt.discovery import DbgptFinders
from proxy.backends.declared.entries import declared_looks, planned_looks, unknown_kinds
from proxy.backends.declared.look import BackendRules
from proxy.backends.fastchat.discovery import FastChatFinders
from proxy.backends.fastchat.look import FastChatLooks
from proxy.backends.settings import BackendSettings
from proxy.backends.spreading import unknown_sides
from proxy.backends.workers.finder import Finders
from proxy.backends.workers.identity import SameWorkers
from proxy.backends.workers.look import Looks, ModelKnowledge
from proxy.backends.workers.network import NameLookUps, is_own_address
from proxy.backends.workers.ourselves import Ourselves
from proxy.backends.workers.settings import SourceSettings
from proxy.backends.workers.source import FleetSource
from proxy.fleet.table import Fleet


class Sources:
    """`source` follows the fleet; `fastchat` looks at FastChat's workers, also at those that register; `dbgpt` knows
    what DB-GPT's controllers say.

    models: as made from the same settings; rules: of the backends, by their names; extra_workers: FastChat workers
    beside those of the settings; own_ports, own_addresses: where this gateway is, which is no worker of its own.
    """

    def __init__(
        self,
        settings: BackendSettings,
        models: ModelKnowledge,
        rules: Mapping[str, BackendRules],
        fleet: Fleet,
        *,
        extra_workers: Iterable[str],
        own_ports: Collection[int],
        own_addresses: Iterable[str],
        on_event: EventHook,
    ) -> None:
        self._fleet, self._extra_workers = fleet, [*extra_workers]
        self.fastchat = FastChatLooks(models, source_settings(settings))
        self._finders = FastChatFinders(self.fastchat, time.monotonic, on_event)
        self.dbgpt = DbgptFinders(on_event)
        look_up = NameLookUps()
        self.source = FleetSource(
            fleet,
            workers=self._workers(settings, rules),
            controllers=self._controllers(settings, rules),
            settings=self.fastchat.settings,
            is_own=Ourselves(
                SameWorkers(look_up), ports=own_ports, advertised=own_addresses, is_own_host=is_own_address
            ),
            look_up=look_up,
            on_event=on_event,
        )

    def update(self, settings: BackendSettings, models: ModelKnowledge, rules: Mapping[str, BackendRules]) -> None:
        """Other settings and rules from now on."""
        self.fastchat.models, self.fastchat.settings = models, source_settings(settings)
        self.source.update(
            workers=self._workers(settings, rules),
            controllers=self._controllers(settings, rules),
            settings=self.fastchat.settings,
        )

    def at_home(self) -> dict[str, frozenset[str]]:
        """By model, the DB-GPT controllers that have all of its workers by themselves."""
        found: dict[str, frozenset[str]] = {}
        for view in self._fleet.workers():
            controllers = self.dbgpt.controllers_of(view.address) if view.up else frozenset()
            for facts in view.models if view.up else ():
                found[facts.model] = found.get(facts.model, controllers) & controllers
        return found

    def _workers(self, settings: BackendSettings, rules: Mapping[str, BackendRules]) -> dict[str, Looks]:
        fastchat = self.fastchat
        declared = declared_looks(settings.backends, rules, fastchat.models, fastchat.settings)
        return {**dict.fromkeys([*settings.fastchat.workers, *self._extra_workers], fastchat), **declared}

    def _controllers(self, settings: BackendSettings, rules: Mapping[str, BackendRules]) -> dict[str, Finders]:
        found: dict[str, Finders] = dict.fromkeys(settings.fastchat.controllers, self._finders)
        self.dbgpt.keep(settings.dbgpt.workers_from)
        if settings.dbgpt.workers_from:
            of, fastchat = rules[dbgpt.BACKEND], self.fastchat
            entry = self.dbgpt.entry
            self.dbgpt.looks = planned_looks(dbgpt.BACKEND, of, entry, fastchat.models, fastchat.settings)
            found.update(dict.fromkeys(settings.dbgpt.workers_from, self.dbgpt))
        return found


def check(settings: BackendSettings, rules: Mapping[str, BackendRules]) -> None:
    """ValueError with one sentence a line for what could not be put in force with these rules of backends."""
    if settings.fastchat.accept is not None:
        from proxy.backends.fastchat.controller.guard import Guard  # late: many gateways have none

        Guard(allow=settings.fastchat.accept.allow, addresses=settings.fastchat.accept.addresses)
    problems = unknown_kinds(settings.backends, rules)
    for name, model in settings.models.items():
        problems += unknown_sides(name, model.split, model.mirror, rules)
    if settings.dbgpt.workers_from and (dbgpt.BACKEND not in rules or rules[dbgpt.BACKEND].probe is None):
        problems.append(f"dbgpt.workers_from: no rules for the backend '{dbgpt.BACKEND}' tell how to look at a worker")
    if problems:
        raise ValueError("\n".join(problems))


def source_settings(settings: BackendSettings) -> SourceSettings:
    """How the settings want the fleet to be watched."""
    return SourceSettings(
        probe_interval=settings.fastchat.probe_seconds,
        list_interval=settings.fastchat.list_seconds,
        probes_to_down=settings.fastchat.probes_to_down,
        probes_to_up=settings.fastchat.probes_to_up,
        forget_after=settings.fastchat.forget_seconds,
        probe_embeddings=settings.fastchat.probe_embeddings,
    )
