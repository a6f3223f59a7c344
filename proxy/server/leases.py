"""Where the data path gets a worker for a request: the fleet of this process, or one that it is asked for elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.fleet.facts import FleetError, Kind, ModelFacts, Outcome
from proxy.fleet.lease import Lease
from proxy.fleet.table import Fleet

_NONE: frozenset[str] = frozenset()


class Hold(Protocol):
    """What an attempt needs of a lease."""

    @property
    def address(self) -> str:
        """The worker's base address."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model there."""

    def release(self, outcome: Outcome, now: float, rest: float = 0.0) -> None:
        """Give the worker back; for `rest` seconds others are to be asked rather than this one."""


class Leased(Hold, Protocol):
    """A worker that was chosen for a request; see `proxy.fleet.lease.Lease`."""

    @property
    def model(self) -> str:
        """The fleet's own name of the model that answers."""

    @property
    def on_trial(self) -> bool:
        """Whether the worker kept failing, and this request is to tell whether it works again."""


class Waiting(Protocol):
    """A place in a queue."""

    def cancel(self) -> None:
        """The request waits no longer; nothing is called."""


class Leases(Protocol):
    """Leases and places in queues, as `Fleet` describes them."""

    async def acquire(
        self,
        model: str,
        kind: Kind,
        now: float,
        *,
        key: str | None = None,
        pinned: str | None = None,
        avoid: frozenset[str] = _NONE,
        spare: bool = False,
    ) -> Leased:
        """A lease at once; FleetError. spare: for a copy of a request, which gives way to clients' requests.

        Cancelled it holds nothing.
        """

    def wait(
        self,
        model: str,
        kind: Kind,
        now: float,
        granted: Callable[[Leased], None],
        refused: Callable[[FleetError], None],
        *,
        key: str | None = None,
        pinned: str | None = None,
        avoid: frozenset[str] = _NONE,
    ) -> Waiting:
        """Stand in a queue; one of the two is called once, perhaps before this returns. FleetError."""

    def heard(self, address: str, now: float) -> None:
        """Bytes of an answer came from this worker."""

    def in_flight(self, address: str) -> int:
        """Leases that this data path holds on one worker now."""


class OwnLeases:
    """Those of a fleet in the same process: nothing here ever suspends."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.heard = fleet.heard
        self.in_flight = fleet.in_flight

    async def acquire(
        self,
        model: str,
        kind: Kind,
        now: float,
        *,
        key: str | None = None,
        pinned: str | None = None,
        avoid: frozenset[str] = _NONE,
        spare: bool = False,
    ) -> Lease:
        """See `Fleet.acquire`. spare: whoever holds the copies finds the one that gives way."""
        return self._fleet.acquire(model, kind, now, key=key, pinned=pinned, avoid=avoid)

    def wait(
        self,
        model: str,
        kind: Kind,
        now: float,
        granted: Callable[[Leased], None],
        refused: Callable[[FleetError], None],
        *,
        key: str | None = None,
        pinned: str | None = None,
        avoid: frozenset[str] = _NONE,
    ) -> Waiting:
        """See `Fleet.wait`."""
        return self._fleet.wait(model, kind, now, granted, refused, key=key, pinned=pinned, avoid=avoid)
