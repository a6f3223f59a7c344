"""Drained workers that are not in the table: taken away for maintenance, they come back as drained as they went."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.fleet.lease import Worker


class Away:
    """Up to `most` records; the longest away go first. Each is of a worker that is down and has nothing in flight."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        """Those that are still drained."""
        return (worker for worker in self._workers.values() if worker.drained)

    def put(self, worker: Worker) -> None:
        """A drained worker has left the table."""
        worker.reason = "not known any more; it stays drained until it is enabled"
        self._workers[worker.address] = worker
        while len(self._workers) > self._most:
            del self._workers[next(iter(self._workers))]

    def take(self, address: str) -> Worker | None:
        """The record of a worker that is back, if there is one."""
        return self._workers.pop(address, None)

    def find(self, name: str) -> Worker | None:
        """By address or id; also one that was enabled meanwhile, so that whoever did it is shown what became of it."""
        return next((worker for worker in self._workers.values() if name in (worker.address, worker.id)), None)
