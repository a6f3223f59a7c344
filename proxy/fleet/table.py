"""The fleet: a table of workers, what each can answer, and which of them takes the next request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from proxy.fleet.away import Away
from proxy.fleet.desk import Desk
from proxy.fleet.events import Announcer, FleetEvent
from proxy.fleet.facts import (
    KINDS,
    FleetError,
    FleetFull,
    Kind,
    ModelFacts,
    ModelRow,
    QueueRow,
    WorkerReport,
    WorkerView,
    worker_id,
)
from proxy.fleet.leaks import leak_sentence
from proxy.fleet.lease import Lease, Worker
from proxy.fleet.memory import Key, Memory
from proxy.fleet.pool import Pool
from proxy.fleet.queue import Ticket
from proxy.fleet.rules import FleetRules
from proxy.fleet.select import Draws, EvenDraws, hash64, least_in_flight

Listener = Callable[[], None]
_NONE: Final[frozenset[str]] = frozenset()


class Fleet:
    """Workers by address.

    A worker is up from a full look that succeeded (`report`) until something says otherwise (`fail`). Facts of a model
    are remembered when its workers are down or forgotten, so that questions about it can always be answered; up to
    `max_remembered` pairs of model and kind, the longest unseen go first, and no more models that one worker brought
    than it may serve at once. A worker that is drained stays so until it is enabled, also when it is forgotten and
    comes back.

    rng breaks ties and throws the dice of the policies; without one they fall in a fixed, even order.
    `now` is in seconds, on any clock that never goes back. `version` grows with every change of the answerable set or
    of known facts; listeners are called after it has grown. They are called inside the change and must neither raise
    nor change the fleet.
    """

    def __init__(
        self,
        *,
        max_workers: int,
        max_models_per_worker: int,
        max_remembered: int = 1_000,
        rules: FleetRules | None = None,
        rng: Draws | None = None,
        on_event: FleetEvent | None = None,
    ) -> None:
        self._max_workers = max_workers
        self._max_models = max_models_per_worker
        self._rng = rng or EvenDraws()
        self._announcer = Announcer(on_event)
        self._workers: dict[str, Worker] = {}
        self._pools: dict[Key, Pool] = {}
        self._away = Away(max_workers)
        self._memory = Memory(max_remembered, max_models_per_worker)
        self._rules = rules or FleetRules()
        self._desk = Desk(self._workers, self._pools, self._memory, self._rules, self._rng, self._announcer)
        self._listeners: list[Listener] = []
        self.version = 0

    # Changes of what is known

    def configure(self, rules: FleetRules, now: float) -> None:
        """Other rules from now on. Who waits already goes on waiting, also beyond a bound that has become smaller."""
        self._rules = self._desk.rules = rules
        for pool in self._pools.values():
            pool.configure(rules.of(pool.model))
        for worker in self._workers.values():
            self._reseat(worker, worker.served())
        self._changed()
        self._desk.serve(now)

    def report(self, report: WorkerReport, now: float) -> None:
        """A full look at a worker succeeded: it is up, with exactly these models. FleetFull when a bound is passed.

        Its load is taken from here when it comes up; while it is up, `seen` tells it."""
        if len(report.models) > self._max_models:
            raise FleetFull(
                f"worker {report.address} has {len(report.models)} models, at most {self._max_models} are taken"
            )
        worker = self._record(report.address, now)
        models = {facts.model: facts for facts in report.models}
        changed = not worker.up or models != worker.models
        before = [*worker.served()]
        if not worker.up:
            worker.up, worker.reason, worker.since = True, "", now
            worker.leak.reset()
            self._reset_breaker(worker)
            worker.rests_until, worker.shown = 0.0, report.queue_length  # nothing of ours has just ended there
            worker.hear(now)
            self._status(worker, report.queue_length, now)
        worker.models, worker.learned_limit = models, report.limit
        worker.speed, worker.last_seen = report.speed, now
        self._reseat(worker, [*before, *worker.served()])
        if changed:
            self._remember(worker)
            self._changed()
        self._desk.serve(now)

    def seen(self, address: str, now: float, *, queue_length: int, speed: float, limit: int | None = None) -> None:
        """A worker answered a cheap status call. Does not bring a worker up: its facts may have changed.

        limit: None leaves what is known of it."""
        worker = self._workers.get(address)
        if worker is None:
            return
        slots, learned = worker.leak.slots, worker.learned_limit
        worker.learned_limit = learned if limit is None else limit
        worker.speed, worker.last_seen = speed, now
        self._status(worker, queue_length, now)
        if (slots, learned) != (worker.leak.slots, worker.learned_limit):
            self._reseat(worker, worker.served())
        self._desk.serve(now)

    def heard(self, address: str, now: float) -> None:
        """Something came from this worker that a stuck one does not send: a status, bytes of an answer."""
        if (worker := self._workers.get(address)) is not None:
            worker.hear(now)

    def missed(self, address: str) -> None:
        """This worker did not answer a status call in time: until it is heard it is chosen only where no other has
        room."""
        if (worker := self._workers.get(address)) is not None:
            worker.silent = True

    def fail(self, address: str, reason: str, now: float) -> None:
        """A worker cannot be used, for this reason. One that was never up is listed too. FleetFull as in `report`."""
        worker = self._record(address, now)
        was_up, worker.up, worker.reason = worker.up, False, reason
        if was_up:
            worker.since = now
            self._withdrawn(worker, now)

    def forget(self, address: str, now: float) -> None:
        """Take a worker out of the table; what is in flight there goes on and is counted until it ends."""
        worker = self._workers.get(address)
        if worker is None:
            return
        was_up, worker.up, worker.reason = worker.up, False, "forgotten"
        if worker.in_flight == 0:
            self._gone(worker)
        else:
            worker.on_idle = self._gone
        if was_up:
            worker.since = now
            self._withdrawn(worker, now)

    def drain(self, worker: str, now: float) -> bool:
        """The worker (address or id) gets nothing new; what is in flight there goes on. False: there is no such one."""
        return self._set_drained(worker, now, drained=True)

    def enable(self, worker: str, now: float) -> bool:
        """The worker (address or id) is used again, also where its breaker was open. False: there is no such one."""
        return self._set_drained(worker, now, drained=False)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each growth of `version`; the answer ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # Requests

    def acquire(
        self,
        model: str,
        kind: Kind,
        now: float,
        *,
        key: str | None = None,
        pinned: str | None = None,
        avoid: frozenset[str] = _NONE,
    ) -> Lease:
        """A lease at once, on the worker that the model's policy chooses, or on one of its fallback's.

        key: what a consistent hash looks at; pinned: address or id of the only worker that will do; avoid: addresses
        that will not. UnknownModel; NoWorker, also where only those to avoid are left; UnknownWorker (pinned); AtLimit.
        """
        return self._desk.acquire(model, kind, now, key, pinned, avoid)

    def wait(
        self,
        model: str,
        kind: Kind,
        now: float,
        granted: Callable[[Lease], None],
        refused: Callable[[FleetError], None],
        *,
        key: str | None = None,
        pinned: str | None = None,
        avoid: frozenset[str] = _NONE,
        beyond: bool = False,
    ) -> Ticket:
        """Stand in the model's queue after an `acquire` that found all at their limit. One of the two is called once,
        perhaps before this returns, unless the ticket is cancelled; they must not raise. A lease that nobody wants any
        more may be released in them. QueueFull, and what `acquire` raises but AtLimit. beyond: also where as many wait
        as may, for one for which something is about to end.
        """
        ticket = Ticket(model, kind, granted, refused, key=key, pinned=pinned, avoid=avoid, beyond=beyond)
        self._desk.wait(ticket, now)
        return ticket

    def least_loaded(self, model: str, kind: Kind | None, now: float) -> str | None:
        """The address of the worker with the least to do, for a client that goes there by itself; None: no worker.

        It counts there as another's request until the worker's next status, as long as the worker has room: limits do
        not hold for it, and clients that only ask for addresses make no worker look busier than full.
        """
        pools = [pool for k in KINDS if kind in (None, k) and (pool := self._pools.get((model, k))) and pool.seats]
        workers = [worker for pool in pools for worker in pool.with_room(now, None, _NONE)]
        workers = workers or [worker for pool in pools for worker, _ in pool.seats]
        if not workers:
            return None
        chosen = least_in_flight(list(dict.fromkeys(workers)), None, self._rng)
        chosen.foreign += chosen.in_flight + chosen.foreign < self._limit(chosen, model)
        chosen.leak.lent(now)
        return chosen.address

    # Questions

    def known(self, model: str, kind: Kind | None = None) -> ModelFacts | None:
        """The facts of a model, also while nobody can answer it; None when it was never seen (with this kind).

        Workers that may be used come first, then its fallback's, then those that may not be used. When they differ the
        one with the shortest context speaks for all, because a request that fits it fits each of them.
        """
        kinds = KINDS if kind is None else (kind,)
        names = self._rules.chain(model)
        for name in names:
            pools = [pool for k in kinds if (pool := self._pools.get((name, k)))]
            found = _shortest(name, (worker for pool in pools for worker, _ in pool.seats))
            if found is not None:
                return found
        for name in names:
            serving = (
                w for w in self._workers.values() if name in w.models and not w.models[name].kinds.isdisjoint(kinds)
            )
            found = _shortest(name, serving)
            found = found or next((facts for k in kinds if (facts := self._memory.get((name, k)))), None)
            if found is not None:
                return found
        return None

    def knows(self, model: str) -> bool:
        """Whether `known` has an answer."""
        return any((name, kind) in self._memory for name in self._rules.chain(model) for kind in KINDS)

    def models(self) -> list[ModelRow]:
        """Each (model, kind) ever seen or with a fallback that was, sorted, with whether it can be answered now."""
        keys = {*self._memory.keys(), *self._lent(self._memory.__contains__)}
        rows = ((model, kind, self._answering(model, kind)) for model, kind in sorted(keys))
        return [ModelRow(model, kind, workers > 0, workers) for model, kind, workers in rows]

    def answerable(self) -> frozenset[Key]:
        """Each (model, kind) that a worker can answer now, with those whose fallback can."""
        own = {key for key, pool in self._pools.items() if pool.seats}
        return frozenset(own.union(self._lent(own.__contains__)))

    def workers(self) -> list[WorkerView]:
        """All workers by address, with those that are drained and not in the table any more."""
        return [self._view(worker) for worker in sorted([*self._workers.values(), *self._away], key=_address)]

    def worker(self, address: str) -> WorkerView | None:
        """One worker by address or id, or None."""
        worker = self._find(address)
        return None if worker is None else self._view(worker)

    def queues(self) -> list[QueueRow]:
        """How many wait for each model and kind for which anybody ever waited, sorted."""
        return [QueueRow(*key, len(pool.queue)) for key, pool in sorted(self._pools.items()) if pool.queue.used]

    def is_up(self, address: str) -> bool:
        """Whether this worker answers; it may be drained."""
        return address in self._workers and self._workers[address].up

    def in_flight(self, address: str) -> int:
        """Leases held on one worker now; 0 for a worker that is not in the table."""
        return self._workers[address].in_flight if address in self._workers else 0

    def last_heard(self, address: str) -> float | None:
        """When something last came from this worker: as in `heard`, or a request that it served. None: never."""
        return self._workers[address].heard if address in self._workers else None

    # Inside

    def _record(self, address: str, now: float) -> Worker:
        worker = self._workers.get(address)
        if worker is None:
            if len(self._workers) >= self._max_workers:
                raise FleetFull(f"worker {address} stays out: the fleet holds {self._max_workers} workers already")
            worker = self._away.take(address) or Worker(address, worker_id(address), hash64(address), since=now)
            self._workers[address] = worker
        worker.on_idle = None
        return worker

    def _find(self, name: str) -> Worker | None:
        worker = self._workers.get(name)
        worker = worker or next((worker for worker in self._workers.values() if worker.id == name), None)
        return worker or self._away.find(name)

    def _gone(self, worker: Worker) -> None:
        del self._workers[worker.address]
        if worker.drained:
            self._away.put(worker)

    def _set_drained(self, name: str, now: float, *, drained: bool) -> bool:
        worker = self._find(name)
        if worker is None:
            return False
        if not drained:
            self._reset_breaker(worker)
        if worker.drained != drained:
            worker.drained = drained
            self._announcer.drained(worker)
            self._reseat(worker, worker.served())
            self._changed()
        self._desk.serve(now)
        return True

    def _reset_breaker(self, worker: Worker) -> None:
        was_closed = worker.breaker.state == "closed"
        worker.breaker.reset()
        if not was_closed:
            self._announcer.breaker(worker)

    def _status(self, worker: Worker, queue_length: int, now: float) -> None:
        """What the worker says of its own load."""
        worker.load(queue_length, now)
        slots = worker.leak.slots
        worker.leak.status(queue_length, now, self._rules.leak_seconds, idle=worker.in_flight == 0)
        if worker.leak.slots != slots:
            self._announcer.degraded(worker, self._degraded(worker))

    def _withdrawn(self, worker: Worker, now: float) -> None:
        self._reseat(worker, worker.served())
        self._changed()
        self._desk.serve(now)

    def _reseat(self, worker: Worker, keys: Iterable[Key]) -> None:
        """Bring the worker's places in these pools up to date."""
        served = set(worker.served()) if worker.up and not worker.drained else ()
        for key in dict.fromkeys(keys):
            if key in served and key not in self._pools:
                self._pools[key] = Pool(*key, self._rules.of(key[0]))
            if key in self._pools:
                self._pools[key].seat(worker, self._limit(worker, key[0]) if key in served else None)

    def _limit(self, worker: Worker, model: str | None) -> int:
        return max(1, self._rules.limit(worker.address, model, worker.learned_limit) - worker.leak.slots)

    def _degraded(self, worker: Worker) -> str:
        return leak_sentence(worker.address, worker.leak.slots, self._rules.leak_seconds)

    def _view(self, worker: Worker) -> WorkerView:
        limit = max(self._limit(worker, model) for model in worker.models or (None,))
        return worker.view(limit, self._degraded(worker))

    def _remember(self, worker: Worker) -> None:
        for facts in worker.models.values():
            self._memory.remember(facts, worker.address)
        if self._memory.crowded(worker.address):
            held = {key for each in self._workers.values() for key in each.served()}
            for key in self._memory.shrink(worker.address, held):
                self._pools.pop(key, None)

    def _lent(self, own: Callable[[Key], bool]) -> Iterator[Key]:
        """Each (model, kind) with a fallback for which `own` holds."""
        for model in self._rules.models:
            for name in self._rules.chain(model)[1:]:
                yield from ((model, kind) for kind in KINDS if own((name, kind)))

    def _answering(self, model: str, kind: Kind) -> int:
        pools = (self._pools.get((name, kind)) for name in self._rules.chain(model))
        return next((len(pool.seats) for pool in pools if pool is not None and pool.seats), 0)

    def _changed(self) -> None:
        self.version += 1
        for listener in tuple(self._listeners):
            listener()


def _address(worker: Worker) -> str:
    return worker.address


def _shortest(model: str, workers: Iterable[Worker]) -> ModelFacts | None:
    found = [(worker.models[model].context_length, worker.address, worker.models[model]) for worker in workers]
    return min(found, key=lambda item: item[:2])[2] if found else None
