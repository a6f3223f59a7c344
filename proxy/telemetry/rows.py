"""States that belong to other parts of the gateway and are read from them at each scrape."""

from __future__ import annotations

from typing import Literal, NamedTuple

BreakerState = Literal["closed", "half_open", "open"]


class WorkerRow(NamedTuple):
    """The state of one worker now.

    worker: its address. queue_length: as the worker reported it, None before it did. limit: most requests that it gets
    at once, None where there is none. degraded: it is used only where no other worker is left. drained: it gets no new
    requests, because an operator said so. backend: what kind of server it is, "" where nobody knows.
    """

    worker: str
    up: bool
    in_flight: int
    queue_length: int | None
    limit: int | None = None
    breaker: BreakerState = "closed"
    degraded: bool = False
    drained: bool = False
    backend: str = ""


class QueueRow(NamedTuple):
    """Requests that wait now for a worker of this model that can do what `kind` says."""

    model: str
    kind: str
    waiting: int


class ConnectionCounts(NamedTuple):
    """Connections to workers: now idle, now active; opened, reused, and retried since the start.

    retried: requests that were sent again on a fresh connection, because a kept one was dead.
    """

    idle: int
    active: int
    opened: int
    reused: int
    retried: int
