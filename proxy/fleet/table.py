"""The fleet: a table of workers, what each can answer, and which of them takes the next request."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from proxy.fleet.facts import (
    KINDS,
    FleetFull,
    Kind,
    ModelFacts,
    ModelRow,
    NoWorker,
    Outcome,
    UnknownModel,
    WorkerReport,
    WorkerView,
)
from proxy.fleet.lease import Lease, Worker
from proxy.fleet.select import least_in_flight

Key = tuple[str, Kind]
Listener = Callable[[], None]


class Fleet:
    """Workers by address.

    A worker is up from a full look that succeeded (`report`) until something says otherwise (`fail`). Facts of a model
    are remembered when its workers are down or forgotten, so that questions about it can always be answered; up to
    `max_remembered` pairs of model and kind, the longest unseen go first.

    `version` grows with every change of the answerable set or of known facts; listeners are called after it has grown.
    They are called inside the change and must neither raise nor change the fleet.
    """

    def __init__(self, *, max_workers: int, max_models_per_worker: int, max_remembered: int = 1_000) -> None:
        self._max_workers = max_workers
        self._max_models = max_models_per_worker
        self._max_remembered = max_remembered
        self._workers: dict[str, Worker] = {}
        self._up: dict[Key, list[Worker]] = {}
        self._remembered: dict[Key, ModelFacts] = {}
        self._listeners: list[Listener] = []
        self.version = 0

    # Changes

    def report(self, report: WorkerReport, now: float) -> None:
        """A full look at a worker succeeded: it is up, with exactly these models. FleetFull when a bound is passed."""
        if len(report.models) > self._max_models:
            raise FleetFull(
                f"worker {report.address} has {len(report.models)} models, at most {self._max_models} are taken"
            )
        worker = self._record(report.address, now)
        models = {facts.model: facts for facts in report.models}
        changed = not worker.up or models != worker.models
        if not worker.up:
            worker.up, worker.reason, worker.since = True, "", now
        worker.models = models
        worker.queue_length, worker.speed, worker.last_seen = report.queue_length, report.speed, now
        if changed:
            for facts in report.models:
                self._remember(facts)
            self._refresh()

    def seen(self, address: str, now: float, *, queue_length: int, speed: float) -> None:
        """A worker answered a cheap status call. Does not bring a worker up: its facts may have changed."""
        worker = self._workers.get(address)
        if worker is not None:
            worker.queue_length, worker.speed, worker.last_seen = queue_length, speed, now

    def fail(self, address: str, reason: str, now: float) -> None:
        """A worker cannot be used, for this reason. One that was never up is listed too. FleetFull as in `report`."""
        worker = self._record(address, now)
        was_up, worker.up, worker.reason = worker.up, False, reason
        if was_up:
            worker.since = now
            self._refresh()

    def forget(self, address: str) -> None:
        """Take a worker out of the table; what is in flight there goes on and is counted until it ends."""
        worker = self._workers.get(address)
        if worker is None:
            return
        was_up, worker.up, worker.reason = worker.up, False, "forgotten"
        worker.forgotten = True
        if worker.in_flight == 0:
            del self._workers[address]
        if was_up:
            self._refresh()

    def acquire(self, model: str, kind: Kind, rng: random.Random) -> Lease:
        """A lease on the least loaded worker that is up for this model and kind; UnknownModel or NoWorker otherwise."""
        workers = self._up.get((model, kind))
        if not workers:
            raise self._refusal(model, kind)
        worker = least_in_flight(workers, rng)
        return Lease(worker, worker.models[model], self._released)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each growth of `version`; the answer ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # Questions

    def known(self, model: str, kind: Kind | None = None) -> ModelFacts | None:
        """The facts of a model, also while nobody can answer it; None when it was never seen (with this kind).

        Workers that are up come before workers that are down. When they differ the one with the shortest context
        speaks for all, because a request that fits it fits each of them.
        """
        kinds = KINDS if kind is None else (kind,)
        for up in (True, False):
            found = [
                (worker.models[model].context_length, worker.address, worker.models[model])
                for worker in self._workers.values()
                if worker.up is up and model in worker.models and not worker.models[model].kinds.isdisjoint(kinds)
            ]
            if found:
                return min(found, key=lambda item: item[:2])[2]
        return next((self._remembered[model, k] for k in kinds if (model, k) in self._remembered), None)

    def models(self) -> list[ModelRow]:
        """Each (model, kind) ever seen, sorted, with whether it can be answered now."""
        return [
            ModelRow(model, kind, bool(self._up.get((model, kind))), len(self._up.get((model, kind), ())))
            for model, kind in sorted(self._remembered)
        ]

    def answerable(self) -> frozenset[Key]:
        """Each (model, kind) that a worker can answer now."""
        return frozenset(self._up)

    def workers(self) -> list[WorkerView]:
        """All workers, by address."""
        return [self._workers[address].view() for address in sorted(self._workers)]

    def worker(self, address: str) -> WorkerView | None:
        """One worker, or None."""
        worker = self._workers.get(address)
        return None if worker is None else worker.view()

    def is_up(self, address: str) -> bool:
        """Whether this worker may be given requests."""
        return address in self._workers and self._workers[address].up

    def in_flight(self, address: str) -> int:
        """Leases held on one worker now; 0 for a worker that is not in the table."""
        return self._workers[address].in_flight if address in self._workers else 0

    # Inside

    def _record(self, address: str, now: float) -> Worker:
        worker = self._workers.get(address)
        if worker is None:
            if len(self._workers) >= self._max_workers:
                raise FleetFull(f"worker {address} stays out: the fleet holds {self._max_workers} workers already")
            worker = self._workers[address] = Worker(address, since=now)
        worker.forgotten = False
        return worker

    def _released(self, worker: Worker, outcome: Outcome) -> None:
        """Where a lease ends. `outcome` is already counted in the worker's record."""
        if worker.forgotten and worker.in_flight == 0 and self._workers.get(worker.address) is worker:
            del self._workers[worker.address]

    def _remember(self, facts: ModelFacts) -> None:
        for kind in facts.kinds:
            self._remembered.pop((facts.model, kind), None)
            self._remembered[facts.model, kind] = facts
        for key in self._forgettable(len(self._remembered) - self._max_remembered):
            del self._remembered[key]

    def _forgettable(self, count: int) -> list[Key]:
        if count <= 0:
            return []
        held = set(self._keys())
        return [key for key in self._remembered if key not in held][:count]

    def _keys(self) -> Iterator[Key]:
        for worker in self._workers.values():
            for facts in worker.models.values():
                for kind in facts.kinds:
                    yield facts.model, kind

    def _refresh(self) -> None:
        up: dict[Key, list[Worker]] = {}
        for worker in self._workers.values():
            if worker.up:
                for facts in worker.models.values():
                    for kind in facts.kinds:
                        up.setdefault((facts.model, kind), []).append(worker)
        self._up = up
        self.version += 1
        for listener in tuple(self._listeners):
            listener()

    def _refusal(self, model: str, kind: Kind) -> UnknownModel | NoWorker:
        if (model, kind) in self._remembered:
            reasons = [f"{w.address}: {w.reason}" for w in self._workers.values() if model in w.models and not w.up][:3]
            detail = f" ({'; '.join(reasons)})" if reasons else ""
            return NoWorker(f'no worker can answer model "{model}" ({kind}) now{detail}', model, kind)
        kinds = sorted(k for m, k in self._remembered if m == model)
        if kinds:
            return UnknownModel(f'model "{model}" does not offer {kind}, only {", ".join(kinds)}', model, kind)
        return UnknownModel(f'no worker serves a model "{model}"', model, kind)
