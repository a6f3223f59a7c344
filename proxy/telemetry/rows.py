"""States that belong to other parts of the gateway and are read from them at each scrape."""

from __future__ import annotations

from typing import NamedTuple


class WorkerRow(NamedTuple):
    """The state of one worker now. worker: its address; queue_length: as the worker reported it, None before it did."""

    worker: str
    up: bool
    in_flight: int
    queue_length: int | None


class ConnectionCounts(NamedTuple):
    """Connections to workers: now idle, now active; opened, reused, and retried since the start.

    retried: requests that were sent again on a fresh connection, because a kept one was dead.
    """

    idle: int
    active: int
    opened: int
    reused: int
    retried: int
