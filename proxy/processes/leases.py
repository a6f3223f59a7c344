"""What one serving process has of the fleet: its leases and its places in queues. Control's side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.fleet.facts import FleetError, Kind, Outcome
from proxy.fleet.lease import Lease
from proxy.fleet.queue import Ticket
from proxy.fleet.shared import SharedFleet
from proxy.processes.wire import error_to_json
from proxy.types import Json


class Say(Protocol):
    """Tells the process something, after what has changed in the fleet until now."""

    def __call__(self, *message: Json) -> None:
        """What `Channel.send` takes."""


class ProcessLeases:
    """All of one process. number: its own, of a lease or of who waits for one.

    clock: the one of every time that the fleet is told.
    """

    def __init__(self, fleet: SharedFleet, say: Say, clock: Callable[[], float]) -> None:
        self._fleet, self._say, self._clock = fleet, say, clock
        self._held: dict[int, tuple[Lease, Kind, bool]] = {}
        self._waiting: dict[int, Ticket] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self._waiting)

    def acquire(
        self, number: int, model: str, kind: Kind, key: str | None, pinned: str | None, avoid: list[str], spare: int
    ) -> None:
        """A lease at once, or the error that says why there is none. spare: as in `Leases.acquire`."""
        try:
            lease = self._fleet.acquire(model, kind, self._clock(), key=key, pinned=pinned, avoid=frozenset(avoid))
        except FleetError as error:
            self._say("refused", number, error_to_json(error))
        else:
            self._granted(number, lease, kind, spare=bool(spare))

    def wait(self, number: int, model: str, kind: Kind, key: str | None, pinned: str | None, avoid: list[str]) -> None:
        """A place in the queue; the process learns how it ends."""

        def granted(lease: Lease) -> None:
            self._waiting.pop(number, None)
            self._granted(number, lease, kind, spare=False)

        def refused(error: FleetError) -> None:
            self._waiting.pop(number, None)
            self._say("refused", number, error_to_json(error))

        try:
            ticket = self._fleet.wait(
                model, kind, self._clock(), granted, refused, key=key, pinned=pinned, avoid=frozenset(avoid)
            )
        except FleetError as error:
            self._say("refused", number, error_to_json(error))
            return
        if ticket.state == "waiting":
            self._waiting[number] = ticket

    def release(self, number: int, outcome: Outcome, rest: float = 0.0) -> None:
        """A lease is given back, or a place in a queue is left, whichever it is by now."""
        ticket, held = self._waiting.pop(number, None), self._held.pop(number, None)
        if ticket is not None:
            ticket.cancel()
        if held is not None:
            held[0].release(outcome, self._clock(), rest)

    def adopt(self, number: int, address: str, model: str, kind: Kind) -> None:
        """The process has this lease of an earlier control."""
        if number not in self._held:
            self._held[number] = self._fleet.adopt(address, model, self._clock()), kind, False

    def end(self) -> None:
        """The process is gone; nobody knows how its requests went."""
        for number in [*self._waiting, *self._held]:
            self.release(number, "neutral")

    def spare(self) -> Iterator[tuple[int, str]]:
        """The leases of copies of requests, with the addresses of their workers."""
        return ((number, lease.address) for number, (lease, _, spare) in self._held.items() if spare)

    def _granted(self, number: int, lease: Lease, kind: Kind, *, spare: bool) -> None:
        self._held[number] = lease, kind, spare
        self._say("lease", number, lease.address, lease.model, lease.on_trial)
