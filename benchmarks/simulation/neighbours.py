"""How the gateway's two neighbours choose a worker. Both send every request on at once; it waits inside the worker."""

from __future__ import annotations

import random
from functools import partial

from benchmarks.simulation.engine import Simulation, Station
from benchmarks.simulation.load import Job

HEARTBEAT_SECONDS = 45.0


class RandomChoice:
    """DB-GPT 0.8.2: any of the healthy instances of a model, each as likely as the others."""

    def __init__(self, simulation: Simulation, rng: random.Random) -> None:
        self._simulation = simulation
        self._rng = rng

    def arrived(self, job: Job) -> None:
        self._simulation.send(job, self._rng.choice(self._simulation.stations))

    def finished(self, job: Job, station: Station) -> None:
        """It is not told."""


class ShortestQueue:
    """FastChat 0.2.36's controller with its default method, `shortest_queue`.

    The controller divides a worker's queue length by its speed, takes the first of the smallest, and adds one to its
    length. Only the worker's heartbeat corrects the length, each worker's at a phase of its own.
    true_speeds: every worker of FastChat 0.2.36 reports speed 1 whatever it runs on; True is how it would be if they
    told the truth.
    """

    def __init__(self, simulation: Simulation, rng: random.Random, *, true_speeds: bool = False) -> None:
        self._simulation = simulation
        self._lengths = [0] * len(simulation.stations)
        self._speeds = [station.speed if true_speeds else 1.0 for station in simulation.stations]
        for station in simulation.stations:
            first = rng.random() * HEARTBEAT_SECONDS
            simulation.every(HEARTBEAT_SECONDS, first, partial(self._heartbeat, station))

    def arrived(self, job: Job) -> None:
        shares = [length / speed for length, speed in zip(self._lengths, self._speeds, strict=True)]
        chosen = shares.index(min(shares))
        self._lengths[chosen] += 1
        self._simulation.send(job, self._simulation.stations[chosen])

    def finished(self, job: Job, station: Station) -> None:
        """It is not told."""

    def _heartbeat(self, station: Station) -> None:
        self._lengths[station.number] = station.queue_length
