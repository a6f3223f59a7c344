"""Requests that wait for a worker: first in, first out, and no more than a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from proxy.fleet.facts import FleetError, Kind
from proxy.fleet.lease import Lease

TicketState = Literal["waiting", "granted", "refused", "cancelled"]


class Ticket:
    """One request that waits. It ends once: granted (a lease), refused (an error) or cancelled. beyond: it has a place
    also where as many wait as may.
    """

    __slots__ = ("_granted", "_refused", "avoid", "beyond", "key", "kind", "model", "pinned", "queue", "state")

    def __init__(
        self,
        model: str,
        kind: Kind,
        granted: Callable[[Lease], None],
        refused: Callable[[FleetError], None],
        *,
        key: str | None,
        pinned: str | None,
        avoid: frozenset[str],
        beyond: bool = False,
    ) -> None:
        self.beyond = beyond
        self.model, self.kind, self.key, self.pinned, self.avoid = model, kind, key, pinned, avoid
        self._granted, self._refused = granted, refused
        self.state: TicketState = "waiting"
        self.queue: TicketQueue | None = None

    def cancel(self) -> None:
        """The request waits no longer; nothing is called. After the end it does nothing."""
        self._end("cancelled")

    def grant(self, lease: Lease) -> None:
        """The fleet's: the wait is over."""
        self._end("granted")
        self._granted(lease)

    def refuse(self, error: FleetError) -> None:
        """The fleet's: there is nothing to wait for."""
        self._end("refused")
        self._refused(error)

    def _end(self, state: TicketState) -> None:
        if self.queue is not None:
            self.queue.remove(self)
        if self.state == "waiting":
            self.state = state


class TicketQueue:
    """The tickets of one model and kind. particular: how many of them not every worker of this model would suit, or
    which another model's would suit too."""

    __slots__ = ("_model", "_tickets", "particular", "used")

    def __init__(self, model: str) -> None:
        self._model = model
        self._tickets: dict[Ticket, None] = {}
        self.particular = 0
        self.used = False  # whether anybody ever waited

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)

    def append(self, ticket: Ticket) -> None:
        """To the end; out of the queue that it was in."""
        if ticket.queue is not None:
            ticket.queue.remove(ticket)
        self.used = True
        self._tickets[ticket] = None
        ticket.queue = self
        self.particular += self.is_particular(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Out of this queue, where it must be."""
        del self._tickets[ticket]
        ticket.queue = None
        self.particular -= self.is_particular(ticket)

    def is_particular(self, ticket: Ticket) -> bool:
        """Whether the ticket must be asked even where others got nothing."""
        return ticket.pinned is not None or bool(ticket.avoid) or ticket.model != self._model
