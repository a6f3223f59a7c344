"""The gateway's own fleet table as a dispatcher: the code that serves is the code that is simulated."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from benchmarks.simulation.engine import Simulation, Station
from benchmarks.simulation.load import Job
from proxy.fleet.facts import AtLimit, FleetError, ModelFacts, WorkerReport
from proxy.fleet.lease import Lease
from proxy.fleet.rules import FleetRules, ModelRules, PolicyName
from proxy.fleet.table import Fleet

MODEL = "simulated"
# As often as the gateway asks each worker how it is.
PROBE_SECONDS = 2.0
NO_LIMIT = 1_000_000


class GatewayChoice:
    """Leases from a `Fleet` whose workers' limits are the workers' slots; what does not fit waits in its queue.

    The queue is unbounded here, so that the same requests are served by everything that is compared.
    limited: False leaves the workers' limits out, so that every request is sent on at once and waits inside its worker:
    then only the policy is left of what the gateway does.
    """

    def __init__(self, simulation: Simulation, rng: random.Random, policy: PolicyName, *, limited: bool = True) -> None:
        self._simulation = simulation
        self._limited = limited
        self._leases: dict[int, Lease] = {}
        self._stations = {f"http://worker-{station.number}": station for station in simulation.stations}
        rules = FleetRules(
            default=ModelRules(policy=policy, queue_length=10**9, queue_seconds=float("inf")),
            models={},
            worker_limits={},
        )
        self._fleet = Fleet(max_workers=len(self._stations), max_models_per_worker=1, rules=rules, rng=rng)
        for address, station in self._stations.items():
            facts = ModelFacts(MODEL, frozenset(("llm",)), 4096, None, {"model": MODEL, "address": address})
            report = WorkerReport(address, (facts,), queue_length=0, speed=station.speed, limit=self._limit(station))
            self._fleet.report(report, simulation.now)
            first = rng.random() * PROBE_SECONDS
            simulation.every(PROBE_SECONDS, first, partial(self._probe, address, station))

    def arrived(self, job: Job) -> None:
        granted: Callable[[Lease], None] = partial(self._granted, job)
        now = self._simulation.now
        try:
            lease = self._fleet.acquire(MODEL, "llm", now, key=job.session)
        except AtLimit:
            self._fleet.wait(MODEL, "llm", now, granted, _refused, key=job.session)
        else:
            granted(lease)

    def finished(self, job: Job, station: Station) -> None:
        self._leases.pop(job.number).release("success", self._simulation.now)

    def held(self) -> int:
        """Leases that have not come back."""
        return sum(view.in_flight for view in self._fleet.workers())

    def _granted(self, job: Job, lease: Lease) -> None:
        self._leases[job.number] = lease
        self._simulation.send(job, self._stations[lease.address])

    def _limit(self, station: Station) -> int:
        return station.slots if self._limited else NO_LIMIT

    def _probe(self, address: str, station: Station) -> None:
        self._fleet.seen(
            address,
            self._simulation.now,
            queue_length=station.queue_length,
            speed=station.speed,
            limit=self._limit(station),
        )


def _refused(error: FleetError) -> None:
    raise error
