"""What a serving process knows of control's fleet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from proxy.fleet.facts import Kind, WorkerReport
from proxy.fleet.rules import FleetRules
from proxy.fleet.shared import SharedFleet
from proxy.limits import FLEET_MODELS_PER_WORKER_MAX, FLEET_WORKERS_MAX
from proxy.processes.wire import facts_of, facts_to_json, worker_to_json
from proxy.types import Json, JsonObject


class Replica:
    """`fleet` answers questions as control's does; its load, breakers and queues are not those of control's.

    ports: of models that have one of their own; requests: under way in all processes; on_gone: told the address of each
    worker that control does not know any more.
    """

    def __init__(self, rules: FleetRules, on_gone: Callable[[str], None]) -> None:
        self.fleet = SharedFleet(
            max_workers=FLEET_WORKERS_MAX, max_models_per_worker=FLEET_MODELS_PER_WORKER_MAX, rules=rules
        )
        self._on_gone = on_gone
        self.names: dict[str, str] = {}
        self.offered: frozenset[str] = frozenset()
        self.ports: dict[str, int] = {}
        self.requests = 0
        self.version = 0  # of everything but the fleet
        self.is_complete = False  # it was told everything once
        self._out: frozenset[tuple[str, Kind]] = frozenset()
        self._mentioned: set[str] = set()  # since the beginning of everything

    def configure(self, rules: FleetRules) -> None:
        """Other rules, and other settings, from now on."""
        self.version += 1
        self.fleet.configure(rules, time.monotonic())

    def in_service(self, model: str, kind: Kind) -> bool:
        """Whether a model takes new requests."""
        return (model, kind) not in self._out

    def worker(self, told: JsonObject) -> None:
        """A worker is as this says from now on."""
        fleet, now = self.fleet, time.monotonic()
        address, models = cast("str", told["address"]), cast("list[Json]", told["models"])
        self._mentioned.add(address)
        facts = tuple(facts_of(each) for each in models)
        if told["up"]:
            fleet.report(WorkerReport(address, facts), now)
        else:
            if facts:  # the facts of a worker that is down are asked for too
                fleet.report(WorkerReport(address, facts), now)
            fleet.fail(address, cast("str", told["reason"]), now)
        (fleet.drain if told["drained"] else fleet.enable)(address, now)

    def gone(self, address: str) -> None:
        """Control's fleet has no such worker any more."""
        self.fleet.enable(address, time.monotonic())  # or it would be kept as one that is drained
        self.fleet.forget(address, time.monotonic())
        self._on_gone(address)

    def remembered(self, rows: list[list[Json]]) -> None:
        """What control remembers of models; the beginning of everything."""
        self._mentioned = set()
        for address, facts in rows:
            self.fleet.remember(cast("str", address), facts_of(facts))

    def complete(self) -> None:
        """That was everything: what was not mentioned is of an earlier control."""
        self.is_complete = True
        for view in self.fleet.workers():
            if view.address not in self._mentioned:
                self.gone(view.address)

    def told(self, name: str, value: Json) -> bool:
        """One of the things that are told as a whole; whether there is such a one."""
        if name == "names":
            self.names = cast("dict[str, str]", value)
        elif name == "offered":
            self.offered = frozenset(cast("list[str]", value))
        elif name == "out_of_service":
            self._out = frozenset((model, kind) for model, kind in cast("list[tuple[str, Kind]]", value))
        elif name == "ports":
            self.ports = cast("dict[str, int]", value)
        else:
            return False
        self.version += 1
        return True

    def state(self) -> JsonObject:
        """Everything, for a control that begins anew."""
        out: list[Json] = [[model, kind] for model, kind in sorted(self._out)]
        return {
            "remembered": [[address, facts_to_json(facts)] for address, facts in self.fleet.remembered()],
            "workers": [worker_to_json(view) for view in self.fleet.workers()],
            "out_of_service": out,
            "ports": {**self.ports},
        }
