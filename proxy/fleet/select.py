"""Which of several workers gets the next request."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """What a policy may look at."""

    @property
    def in_flight(self) -> int:
        """Requests that the gateway has on this worker now."""


W = TypeVar("W", bound=Loaded)


def least_in_flight(workers: Sequence[W], rng: random.Random) -> W:
    """The least loaded of `workers` (at least one); among equals a random one, so that a quiet fleet is used evenly."""
    least = min(worker.in_flight for worker in workers)
    ties = [worker for worker in workers if worker.in_flight == least]
    return ties[0] if len(ties) == 1 else rng.choice(ties)
