"""Where a request gets a worker, at once or after waiting."""

from __future__ import annotations

from collections.abc import Container, Mapping

from proxy.fleet.events import Announcer
from proxy.fleet.facts import (
    AtLimit,
    FleetError,
    Kind,
    ModelFacts,
    NoWorker,
    Outcome,
    QueueFull,
    UnknownModel,
    UnknownWorker,
)
from proxy.fleet.lease import Lease, Worker
from proxy.fleet.memory import Key, Memory
from proxy.fleet.pool import Pool
from proxy.fleet.queue import Ticket
from proxy.fleet.rules import FleetRules
from proxy.fleet.select import Draws

_NAME_SHOWN = 100  # characters of a name that a client chose, in a message


class Desk:
    """Leases and queues over the fleet's tables, which it reads and the fleet changes.

    Whoever changes something that could let a waiting request in calls `serve` afterwards.
    """

    def __init__(
        self,
        workers: Mapping[str, Worker],
        pools: Mapping[Key, Pool],
        memory: Memory,
        rules: FleetRules,
        rng: Draws,
        announcer: Announcer,
    ) -> None:
        self._workers = workers
        self._pools = pools
        self._memory = memory
        self.rules = rules
        self._rng = rng
        self._announcer = announcer
        self._busy: dict[Key, Pool] = {}  # at least those whose queue is not empty
        self._serving = self._serve_again = False

    def acquire(
        self, model: str, kind: Kind, now: float, key: str | None, pinned: str | None, avoid: frozenset[str]
    ) -> Lease:
        """A lease at once; see `Fleet.acquire`."""
        pool = self._pools.get((model, kind))
        if pool is None or not pool.seats or avoid or pinned is not None:
            pool = self._usable(model, kind, pinned, avoid)[0]
        if pool.queue:
            self.serve(now, (pool.model,))  # time alone may have let one in, and nobody passes those who wait
        worker = pool.choose(self._rng, now, key, pinned, avoid)
        if worker is None:
            raise AtLimit(f'every worker that may answer model "{pool.model}" ({kind}) is at its limit', model, kind)
        return self._lease(worker, pool, model, now)

    def wait(self, ticket: Ticket, now: float) -> None:
        """Put a new ticket into the queue where it belongs; see `Fleet.wait`."""
        self._enqueue(ticket, self._usable(ticket.model, ticket.kind, ticket.pinned, ticket.avoid))
        self.serve(now)

    def serve(self, now: float, models: Container[str] | None = None) -> None:
        """Give those who wait what there is. models: those for which something has changed; None: perhaps all.

        What it calls may release a lease or cancel a ticket: that is seen to in another round.
        """
        if self._serving:
            self._serve_again = True
            return
        self._serving = True
        try:
            while self._busy:
                self._serve_again = False
                for key, pool in tuple(self._busy.items()):
                    if models is None or pool.model in models or pool.queue.particular:
                        self._serve_pool(pool, now)
                    if not pool.queue:
                        self._busy.pop(key, None)
                if not self._serve_again:
                    break
                models = None
        finally:
            self._serving = False

    def _lease(self, worker: Worker, pool: Pool, model: str, now: float) -> Lease:
        before = worker.breaker.state
        number = worker.breaker.begin(now)
        lease = Lease(worker, worker.models[pool.model], number, self._released)
        self._announcer.selected(worker, pool, model, before)
        return lease

    def adopt(self, worker: Worker, facts: ModelFacts, now: float) -> Lease:
        """A lease that is held already; see `SharedFleet.adopt`."""
        return Lease(worker, facts, worker.breaker.begin(now), self._released)

    def _released(self, worker: Worker, number: int, outcome: Outcome, now: float) -> None:
        """Where a lease ends. `outcome` is already counted in the worker's record."""
        worker.leak.touched()
        before = worker.breaker.state
        worker.breaker.end(number, outcome, now, self.rules.breaker)
        if worker.breaker.state != before:
            self._announcer.breaker(worker)
        if worker.on_idle is not None and worker.in_flight == 0:
            worker.on_idle(worker)
        if self._busy:
            self.serve(now, worker.models)

    def _serve_pool(self, pool: Pool, now: float) -> None:
        none_left = False
        for ticket in tuple(pool.queue):
            particular = pool.queue.is_particular(ticket)
            if ticket.queue is not pool.queue or (none_left and not particular):
                continue
            if not self._settle(ticket, pool, now) and not particular:
                none_left = True
                if not pool.queue.particular:
                    return

    def _settle(self, ticket: Ticket, pool: Pool, now: float) -> bool:
        """Whether the ticket, which waits in this pool, waits there no longer."""
        try:
            pools = self._usable(ticket.model, ticket.kind, ticket.pinned, ticket.avoid)
            lease = self._from_queue(ticket, pool, pools, now)
            if lease is None and pool in pools:
                return False
            if lease is None:
                self._enqueue(ticket, pools)
                return True
        except FleetError as error:
            ticket.refuse(error)
            return True
        ticket.grant(lease)
        return True

    def _from_queue(self, ticket: Ticket, pool: Pool, pools: list[Pool], now: float) -> Lease | None:
        """A lease in the ticket's own pool, or in a better one where nobody waits."""
        for other in pools:
            if other is pool or not other.queue:
                worker = other.choose(self._rng, now, ticket.key, ticket.pinned, ticket.avoid)
                if worker is not None:
                    return self._lease(worker, other, ticket.model, now)
            if other is pool:
                break
        return None

    def _enqueue(self, ticket: Ticket, pools: list[Pool]) -> None:
        for pool in pools:
            if ticket.beyond or len(pool.queue) < pool.rules.queue_length:
                pool.queue.append(ticket)
                self._busy[pool.model, pool.kind] = pool
                return
        raise QueueFull(
            f'{len(pools[0].queue)} requests wait for model "{ticket.model}" ({ticket.kind}) already, '
            f"at most {pools[0].rules.queue_length} may",
            ticket.model,
            ticket.kind,
        )

    def _usable(self, model: str, kind: Kind, pinned: str | None, avoid: frozenset[str]) -> list[Pool]:
        """The pools that may answer, best first and at least one; the error that says why none may."""
        if pinned is not None:
            return [self._pool_of(pinned, model, kind, avoid)]
        pools = [pool for name in self.rules.chain(model) if (pool := self._pools.get((name, kind))) is not None]
        pools = [pool for pool in pools if pool.usable(avoid)]
        if not pools:
            raise self._refusal(model, kind, avoid)
        return pools

    def _pool_of(self, pinned: str, model: str, kind: Kind, avoid: frozenset[str]) -> Pool:
        name = pinned if len(pinned) <= _NAME_SHOWN else pinned[:_NAME_SHOWN] + "..."
        worker = next((w for w in self._workers.values() if pinned in (w.address, w.id)), None)
        pool = self._pools.get((model, kind))
        if worker is None:
            raise UnknownWorker(f'no worker "{name}" is known', model, kind)
        if (facts := worker.models.get(model)) is None or kind not in facts.kinds:
            raise UnknownWorker(f'worker "{name}" does not serve model "{model}" ({kind})', model, kind)
        if worker.address in avoid:
            raise NoWorker(f'the only worker that was asked for, "{name}", has failed already', model, kind)
        if pool is None or all(seated is not worker for seated, _ in pool.seats):
            raise UnknownWorker(f'worker "{name}" is not used now: {_why_not(worker)}', model, kind)
        return pool

    def _refusal(self, model: str, kind: Kind, avoid: frozenset[str]) -> UnknownModel | NoWorker:
        names = [name for name in self.rules.chain(model) if (name, kind) in self._memory]
        if names:
            workers = [worker for worker in self._workers.values() if not worker.models.keys().isdisjoint(names)]
            reasons = [f"{w.address}: {'to be avoided' if w.address in avoid else _why_not(w)}" for w in workers][:3]
            detail = f" ({'; '.join(reasons)})" if reasons else ""
            return NoWorker(f'no worker can answer model "{model}" ({kind}) now{detail}', model, kind)
        kinds = self._memory.kinds(model)
        if kinds:
            return UnknownModel(f'model "{model}" does not offer {kind}, only {", ".join(kinds)}', model, kind)
        return UnknownModel(f'no worker serves a model "{model}"', model, kind)


def _why_not(worker: Worker) -> str:
    return worker.reason or ("drained" if worker.drained else "up")
