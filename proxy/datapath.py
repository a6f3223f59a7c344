"""What one process needs to serve clients' requests, whether or not the fleet is its own."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.fleet.facts import Kind
from proxy.fleet.table import Fleet
from proxy.http import Request, Response, Streamed
from proxy.operations import InForce
from proxy.recording.recorder import Recording
from proxy.server.facilities import Directory, Facilities
from proxy.server.gateway import Gateway
from proxy.server.leases import Leases
from proxy.server.traffic import RetryBudget, Traffic
from proxy.server.turns import TakesTurns, Turns
from proxy.telemetry.metrics import Metrics
from proxy.upstream import UpstreamPool


class DataPath:
    """Serves requests by the settings and rules in force.

    now: of this process; recording: the one that is being made; processes: how many share the work.
    """

    def __init__(
        self,
        now: InForce,
        metrics: Metrics,
        rng: random.Random,
        recording: Callable[[], Recording | None],
        *,
        processes: int = 1,
    ) -> None:
        self._now, self._metrics, self._rng, self._recording = now, metrics, rng, recording
        self._processes = processes
        self.pool = UpstreamPool()
        self.gateway: Gateway | None = None
        self._budget = RetryBudget(*self._retries())
        self._traffic = self._traffic_now()

    def start(
        self,
        fleet: Fleet,
        leases: Leases,
        directory: Directory,
        *,
        trouble: Callable[[str], None],
        in_service: Callable[[str, Kind], bool],
        operate: Callable[[str, str, str | None], Awaitable[tuple[bool, str]]],
        turns: TakesTurns | None = None,
    ) -> None:
        """Take requests from now on. The arguments are those of `Facilities`."""
        self.gateway = Gateway(
            Facilities(
                table=lambda: self._now.loaded.rules.table,
                fleet=fleet,
                leases=leases,
                pool=self.pool,
                metrics=self._metrics,
                directory=directory,
                timeouts=lambda model: self._now.loaded.tuning.timeouts(model),
                trouble=trouble,
                traffic=lambda: self._traffic,
                rng=self._rng,
                in_service=in_service,
                operate=operate,
                recording=self._recording,
                turns=turns or Turns(),
                processes=self._processes,
            )
        )
        self._name_labels()

    def changed(self) -> None:
        """Other settings and rules are in force. Streams go on with what they have."""
        self._budget.configure(*self._retries())
        self._traffic = self._traffic_now()
        self._name_labels()

    async def handle(self, request: Request) -> Response | Streamed:
        """One request."""
        if self.gateway is None:
            return Response(503, b"the gateway is starting\n")
        response = await self.gateway.handle(request)
        if self._now.stopping and isinstance(response, Response):
            response.close = True
        return response

    def _retries(self) -> tuple[float, float]:
        """The share of requests that may be tried again, and this process's part of what may be beyond it."""
        share, burst = self._now.loaded.tuning.retries
        return share, min(burst, max(1.0, burst / self._processes))

    def _traffic_now(self) -> Traffic:
        return replace(self._now.loaded.tuning.traffic, budget=self._budget, accepting=lambda: self._now.accepting)

    def _name_labels(self) -> None:
        rules = self._now.loaded.rules
        self._metrics.close_labels("route", [route.name for route in rules.table.routes])
        self._metrics.close_labels("key", self._traffic.keys.names)
        self._metrics.rules.load(rules.names, self._now.generation)
