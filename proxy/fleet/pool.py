"""The workers that may answer one model and kind, and those who wait for them."""

from __future__ import annotations

from proxy.fleet.facts import Kind
from proxy.fleet.lease import Worker
from proxy.fleet.queue import TicketQueue
from proxy.fleet.rules import ModelRules
from proxy.fleet.select import Draws, Policy, new_policy


class Pool:
    """seats: each worker that is up, not drained and serves this, with the most requests it may have; last_resort:
    whether the breakers of all that could be chosen the last time were open, but for a pinned
    one, whose request says itself where it goes."""

    __slots__ = ("_policy", "kind", "last_resort", "model", "queue", "rules", "seats")

    def __init__(self, model: str, kind: Kind, rules: ModelRules) -> None:
        self.model = model
        self.kind: Kind = kind
        self.rules = rules
        self.seats: list[tuple[Worker, int]] = []
        self.queue = TicketQueue(model)
        self.last_resort = False
        self._policy: Policy = new_policy(rules.policy)

    def configure(self, rules: ModelRules) -> None:
        """Other rules from now on; a policy that stays keeps its turns."""
        if rules.policy != self.rules.policy:
            self._policy = new_policy(rules.policy)
        self.rules = rules

    def seat(self, worker: Worker, limit: int | None) -> None:
        """The worker may have so many requests; None: it is not here."""
        place = next((index for index, seat in enumerate(self.seats) if seat[0] is worker), None)
        if limit is None:
            self.seats = [seat for seat in self.seats if seat[0] is not worker]
        elif place is None:
            self.seats.append((worker, limit))
        else:
            self.seats[place] = worker, limit

    def usable(self, avoid: frozenset[str]) -> bool:
        """Whether there is a worker beside those to avoid, with or without room."""
        return any(worker.address not in avoid for worker, _ in self.seats)

    def choose(
        self, rng: Draws, now: float, key: str | None, pinned: str | None, avoid: frozenset[str]
    ) -> Worker | None:
        """The worker for one request by the policy; None where each that may be used is at its limit."""
        workers = self.with_room(now, pinned, avoid)
        if len(workers) > 1:
            return self._policy(workers, key, rng)
        return workers[0] if workers else None

    def with_room(self, now: float, pinned: str | None, avoid: frozenset[str]) -> list[Worker]:
        """The workers below their limit whose breaker admits a request; where no breaker does, those below their limit.
        Degraded ones only where no other has room, and those that rest only where neither has."""
        free: list[Worker] = []
        spare: list[Worker] = []
        resting: list[Worker] = []
        shut: list[Worker] = []
        admitted = False
        for worker, limit in self.seats:
            if (avoid and worker.address in avoid) or (
                pinned is not None and pinned not in (worker.address, worker.id)
            ):
                continue
            admits = worker.breaker.state == "closed" or worker.breaker.admits(now)
            admitted = admitted or admits
            if worker.in_flight >= limit:
                continue
            if not admits:
                shut.append(worker)
            elif worker.silent or worker.rests_until > now:
                resting.append(worker)
            else:
                (spare if worker.leak.slots else free).append(worker)
        self.last_resort = not admitted and pinned is None
        if admitted:
            return free or spare or resting
        return [worker for worker in shut if not worker.resting(now)] or shut
