"""What a fleet as a whole has to do."""

from __future__ import annotations

from proxy.fleet.table import Fleet


def under_way(fleet: Fleet) -> int:
    """Requests that its workers hold for this gateway, and those that wait for one."""
    return sum(view.in_flight for view in fleet.workers()) + sum(row.waiting for row in fleet.queues())
