"""What one serving process has of the fleet: its leases and its places in queues. Control's side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from proxy.fleet.facts import AtLimit, FleetError, Kind, Outcome
from proxy.fleet.lease import Lease
from proxy.fleet.queue import Ticket
from proxy.fleet.shared import SharedFleet
from proxy.processes.wire import error_to_json
from proxy.types import Json

# How long a request waits for a copy that was told to end, where it would not wait for anything else.
_GIVE_WAY_SECONDS: Final = 0.25


class Needed(NamedTuple):
    """What a request needs that found every worker at its limit."""

    model: str
    kind: Kind
    pinned: str | None
    avoid: frozenset[str]


class Say(Protocol):
    """Tells the process something, after what has changed in the fleet until now."""

    def __call__(self, *message: Json) -> None:
        """What `Channel.send` takes."""


class ProcessLeases:
    """All of one process. number: its own, of a lease or of who waits for one.

    give_way: has a copy of a request end whose worker could have this one, says whether there is one; clock: the one of
    every time that the fleet is told.
    """

    def __init__(
        self, fleet: SharedFleet, say: Say, give_way: Callable[[Needed], bool], clock: Callable[[], float]
    ) -> None:
        self._fleet, self._say, self._give_way, self._clock = fleet, say, give_way, clock
        self._held: dict[int, tuple[Lease, bool]] = {}
        self._waiting: dict[int, Ticket] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self._waiting)

    def acquire(
        self, number: int, model: str, kind: Kind, key: str | None, pinned: str | None, avoid: list[str], spare: int
    ) -> None:
        """A lease at once, or the error that says why there is none. spare: as in `Leases.acquire`."""
        try:
            lease = self._fleet.acquire(model, kind, self._clock(), key=key, pinned=pinned, avoid=frozenset(avoid))
        except AtLimit as error:
            if spare or not self._give_way(Needed(model, kind, pinned, frozenset(avoid))):
                self._say("refused", number, error_to_json(error))
                return
            # As soon as the copy has ended there is a place, but for those who came before.
            self._queue(number, model, kind, key, pinned, avoid, beyond=True)
            asyncio.get_running_loop().call_later(_GIVE_WAY_SECONDS, self._still_at_limit, number, error)
        except FleetError as error:
            self._say("refused", number, error_to_json(error))
        else:
            self._granted(number, lease, spare=bool(spare))

    def wait(self, number: int, model: str, kind: Kind, key: str | None, pinned: str | None, avoid: list[str]) -> None:
        """A place in the queue; the process learns how it ends."""
        if self._queue(number, model, kind, key, pinned, avoid):
            self._give_way(Needed(model, kind, pinned, frozenset(avoid)))

    def _queue(
        self,
        number: int,
        model: str,
        kind: Kind,
        key: str | None,
        pinned: str | None,
        avoid: list[str],
        *,
        beyond: bool = False,
    ) -> bool:
        """Whether it waits now."""

        def granted(lease: Lease) -> None:
            self._waiting.pop(number, None)
            self._granted(number, lease, spare=False)

        def refused(error: FleetError) -> None:
            self._waiting.pop(number, None)
            self._say("refused", number, error_to_json(error))

        try:
            ticket = self._fleet.wait(
                model,
                kind,
                self._clock(),
                granted,
                refused,
                key=key,
                pinned=pinned,
                avoid=frozenset(avoid),
                beyond=beyond,
            )
        except FleetError as error:
            self._say("refused", number, error_to_json(error))
            return False
        if ticket.state == "waiting":
            self._waiting[number] = ticket
        return ticket.state == "waiting"

    def release(self, number: int, outcome: Outcome, rest: float = 0.0) -> None:
        """A lease is given back, or a place in a queue is left, whichever it is by now."""
        ticket, held = self._waiting.pop(number, None), self._held.pop(number, None)
        if ticket is not None:
            ticket.cancel()
        if held is not None:
            held[0].release(outcome, self._clock(), rest)

    def adopt(self, number: int, address: str, model: str, spare: int) -> None:
        """The process has this lease of an earlier control. spare: as in `acquire`."""
        if number not in self._held:
            self._held[number] = self._fleet.adopt(address, model, self._clock()), bool(spare)

    def end(self) -> None:
        """The process is gone; nobody knows how its requests went."""
        for number in [*self._waiting, *self._held]:
            self.release(number, "neutral")

    def spare(self) -> Iterator[tuple[int, str]]:
        """The leases of copies of requests that were not told to end, with the addresses of their workers."""
        return ((number, lease.address) for number, (lease, spare) in self._held.items() if spare)

    def ends(self, number: int) -> None:
        """The copy that has this lease was told to end."""
        self._held[number] = self._held[number][0], False

    def _still_at_limit(self, number: int, error: AtLimit) -> None:
        ticket = self._waiting.pop(number, None)
        if ticket is not None:
            ticket.cancel()
            self._say("refused", number, error_to_json(error))

    def _granted(self, number: int, lease: Lease, *, spare: bool) -> None:
        self._held[number] = lease, spare
        self._say("lease", number, lease.address, lease.model, lease.on_trial)
