"""Fleets, and what listens to them, for the tests of this folder."""

from __future__ import annotations

import random

from proxy.fleet.facts import FleetError, Kind, ModelFacts, WorkerReport, WorkerView
from proxy.fleet.lease import Lease
from proxy.fleet.queue import Ticket
from proxy.fleet.rules import FleetRules, ModelRules
from proxy.fleet.table import Fleet

A, B, C = "http://a:1", "http://b:2", "http://c:3"
NOBODY: frozenset[str] = frozenset()


class Heard:
    """The fleet's events, as (name, labels joined by a space), and their texts."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def __call__(self, name: str, text: str, /, **labels: str) -> None:
        self.events.append((name, " ".join(labels.values())))
        if text:
            self.texts.append(text)

    def of(self, name: str) -> list[str]:
        """The labels of each event of this name."""
        return [labels for heard, labels in self.events if heard == name]


class Waiter:
    """One who waits: what came of it."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.errors: list[FleetError] = []
        self.ticket: Ticket | None = None

    @property
    def lease(self) -> Lease:
        """The one lease that was granted."""
        (lease,) = self.leases
        return lease

    @property
    def waits(self) -> bool:
        """Whether nothing has come of it yet."""
        return not self.leases and not self.errors


def facts(model: str, *kinds: Kind, context: int = 2048) -> ModelFacts:
    return ModelFacts(model, frozenset(kinds or ("llm",)), context, None, {"model": model, "context_length": context})


def report(address: str, *models: ModelFacts, queue_length: int = 0, speed: float = 1.0) -> WorkerReport:
    return WorkerReport(address, models, queue_length, speed)


def fleet_of(
    *addresses: str, rules: FleetRules | None = None, model: str = "m", heard: Heard | None = None, seed: int = 1
) -> Fleet:
    """A fleet whose workers are up at 0 s and serve one model."""
    fleet = Fleet(
        max_workers=100, max_models_per_worker=8, rules=rules or FleetRules(), rng=random.Random(seed), on_event=heard
    )
    for address in addresses:
        fleet.report(report(address, facts(model)), 0.0)
    return fleet


def view(fleet: Fleet, address: str = A) -> WorkerView:
    """What the fleet says of a worker, which it knows."""
    found = fleet.worker(address)
    assert found is not None
    return found


def limited(limit: int = 1, queue_length: int = 64, **models: ModelRules) -> FleetRules:
    """Rules with this limit on each worker."""
    return FleetRules(ModelRules(worker_limit=limit, queue_length=queue_length), models)


def wait(
    fleet: Fleet,
    model: str = "m",
    now: float = 1.0,
    *,
    pinned: str | None = None,
    avoid: frozenset[str] = NOBODY,
) -> Waiter:
    """Stand in the queue."""
    waiter = Waiter()
    waiter.ticket = fleet.wait(
        model, "llm", now, waiter.leases.append, waiter.errors.append, pinned=pinned, avoid=avoid
    )
    return waiter


def waiting(fleet: Fleet, model: str = "m") -> int:
    """How many wait for this model."""
    return sum(row.waiting for row in fleet.queues() if row.model == model)
