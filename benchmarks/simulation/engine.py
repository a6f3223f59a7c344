"""Discrete events: workers with slots and a queue inside each, requests that arrive, and whoever sends them on."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.simulation.load import Job

# The gateway's own limits as they are set when nobody sets them; a figure says how often they would have been met.
QUEUE_LENGTH = 64


@dataclass
class Station:
    """One worker: `slots` requests at a time, `speed` tokens a second each; further ones wait inside it, in order."""

    number: int
    slots: int
    speed: float
    running: int = 0
    most_running: int = 0
    most_queued: int = 0
    queue: deque[Job] = field(default_factory=deque)

    @property
    def queue_length(self) -> int:
        """What the worker itself reports: requests it works on and requests that wait inside it."""
        return self.running + len(self.queue)


class Dispatcher(Protocol):
    """Whoever decides which worker gets a request, and when."""

    def arrived(self, job: Job) -> None:
        """A request came; `Simulation.send` it on now or later."""

    def finished(self, job: Job, station: Station) -> None:
        """A worker has ended a request."""


@dataclass
class Record:
    """What happened, by request number. waits: seconds until a slot began; ends: when the answer was whole."""

    waits: list[float]
    ends: list[float]
    served_by: list[int]
    crowded: int = 0  # arrivals that found the gateway's usual queue limit waiting


class Simulation:
    """Plays `jobs` on `stations`; `run` once."""

    def __init__(self, stations: Sequence[Station], jobs: Sequence[Job]) -> None:
        self.stations = stations
        self.now = 0.0
        self.waiting = 0
        self._jobs = jobs
        self._left = len(jobs)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._dispatcher: Dispatcher | None = None
        self._sent = [False] * len(jobs)
        self._record = Record([-1.0] * len(jobs), [-1.0] * len(jobs), [-1] * len(jobs))

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time; at the same time in the order in which it was asked for."""
        self._number += 1
        heapq.heappush(self._events, (time, self._number, action))

    def every(self, seconds: float, first: float, action: Callable[[], None]) -> None:
        """Do something again and again, as long as requests are under way."""

        def tick() -> None:
            if self._left:
                action()
                self.at(self.now + seconds, tick)

        self.at(first, tick)

    def send(self, job: Job, station: Station) -> None:
        """The request goes to this worker. RuntimeError when it was sent before."""
        if self._sent[job.number]:
            raise RuntimeError(f"request {job.number} was sent twice, now to worker {station.number}")
        self._sent[job.number] = True
        if station.running < station.slots:
            self._begin(job, station)
        else:
            station.queue.append(job)
            station.most_queued = max(station.most_queued, len(station.queue))

    def run(self, dispatcher: Dispatcher) -> Record:
        """Until every request has been answered. RuntimeError when one never is."""
        self._dispatcher = dispatcher
        coming = iter(self._jobs)
        self._next_arrival(coming)
        while self._events and self._left:
            self.now, _, action = heapq.heappop(self._events)
            action()
        if self._left:
            raise RuntimeError(f"{self._left} requests were never answered")
        return self._record

    def _next_arrival(self, coming: Iterator[Job]) -> None:
        job = next(coming, None)
        if job is not None:
            self.at(job.arrives, lambda: self._arrive(job, coming))

    def _arrive(self, job: Job, coming: Iterator[Job]) -> None:
        self._next_arrival(coming)
        self._record.crowded += self.waiting >= QUEUE_LENGTH
        self.waiting += 1
        self._known().arrived(job)

    def _begin(self, job: Job, station: Station) -> None:
        station.running += 1
        station.most_running = max(station.most_running, station.running)
        self.waiting -= 1
        self._record.waits[job.number] = self.now - job.arrives
        self._record.served_by[job.number] = station.number
        self.at(self.now + job.tokens / station.speed, lambda: self._end(job, station))

    def _end(self, job: Job, station: Station) -> None:
        station.running -= 1
        self._left -= 1
        self._record.ends[job.number] = self.now
        if station.queue:
            self._begin(station.queue.popleft(), station)
        self._known().finished(job, station)

    def _known(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("the simulation has not been started")
        return self._dispatcher
