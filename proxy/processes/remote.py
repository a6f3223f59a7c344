"""Leases of a fleet that is another process's. The serving process's side."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from typing import Final, cast

from proxy.fleet.facts import FleetError, Kind, ModelFacts, NoWorker, Outcome
from proxy.fleet.table import Fleet
from proxy.limits import CONTROL_AWAY_SECONDS, CONTROL_LOOK_SECONDS
from proxy.processes.channel import Channel
from proxy.processes.wire import error_of
from proxy.server.leases import Leased
from proxy.types import Json

_NONE: Final[frozenset[str]] = frozenset()
_AWAY: Final = "there is nobody to ask for a worker now"
# Control hears of a worker's life no more often (seconds): it counts how long nothing came, and by tens.
_HEARD_SECONDS: Final = 1.0


class RemoteLease:
    """A worker that control chose for one request; as `proxy.fleet.lease.Lease`."""

    __slots__ = ("_leases", "address", "facts", "kind", "number", "on_trial", "released", "spare")

    def __init__(self, leases: RemoteLeases, asked: _Asked, address: str, facts: ModelFacts, *, on_trial: bool) -> None:
        self._leases = leases
        self.number, self.kind, self.spare = asked.number, asked.kind, asked.spare
        self.address, self.facts, self.on_trial = address, facts, on_trial
        self.released = False

    @property
    def model(self) -> str:
        """The fleet's own name of the model that answers."""
        return self.facts.model

    def release(self, outcome: Outcome, now: float, rest: float = 0.0) -> None:
        """Give the worker back; only the first call counts. now: control has its own."""
        if not self.released:
            self.released = True
            self._leases.released(self, outcome, rest)


class _Asked:
    """A question that control has not answered. message: as it is said, and said again to a new control; spare: for a
    copy of a request; since: monotonic.
    """

    __slots__ = ("_leases", "granted", "kind", "message", "number", "refused", "since", "spare")

    def __init__(
        self,
        leases: RemoteLeases,
        number: int,
        kind: Kind,
        message: tuple[Json, ...],
        granted: Callable[[Leased], None],
        refused: Callable[[FleetError], None],
    ) -> None:
        self._leases, self.number, self.kind, self.message = leases, number, kind, message
        self.granted, self.refused = granted, refused
        self.spare = message[0] == "acquire" and bool(message[-1])
        self.since = time.monotonic()

    def cancel(self) -> None:
        """Nobody wants it any more; nothing is called. After the end it does nothing."""
        self._leases.cancelled(self)


class RemoteLeases:
    """Implements `proxy.server.leases.Leases`. fleet: the replica, which has the facts of every worker that control
    gives.

    Without a connection to control everything waits for the next one.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._held: dict[int, RemoteLease] = {}
        self._on_worker: dict[str, int] = {}
        self._heard: dict[str, float] = {}  # when control was told of each worker in use last

    @property
    def held(self) -> list[RemoteLease]:
        """All leases."""
        return [*self._held.values()]

    def connect(self, channel: Channel) -> None:
        """There is a control, which knows of the leases; ask it what is still to be answered, in order."""
        self._channel = channel
        self._heard.clear()
        for asked in self._asked.values():
            channel.send(*asked.message)

    def disconnect(self) -> None:
        """There is none for now. A copy is not worth waiting for another."""
        self._channel = None
        self._give_up([asked for asked in self._asked.values() if asked.spare], _AWAY)

    def give_up(self, why: str) -> None:
        """No control comes: whoever waits is told so."""
        self._give_up([*self._asked.values()], why)

    def overdue(self, now: float) -> None:
        """Control answers at once, but for a place in a queue: who has no answer by now is told so. now: monotonic."""
        late = [
            asked
            for asked in self._asked.values()
            if asked.message[0] == "acquire"
            and now - asked.since >= (CONTROL_LOOK_SECONDS if asked.spare else CONTROL_AWAY_SECONDS)
        ]
        self._give_up(late, _AWAY)

    def _give_up(self, given_up: list[_Asked], why: str) -> None:
        for asked in given_up:
            self.cancelled(asked)
            asked.refused(NoWorker(why, cast("str", asked.message[2]), asked.kind))

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
        """See `Leases`. now: control has its own. A copy is not worth waiting for a control."""
        if spare and self._channel is None:
            raise NoWorker(_AWAY, model, kind)
        answer: asyncio.Future[Leased] = asyncio.get_running_loop().create_future()

        def granted(lease: Leased) -> None:
            if answer.done():  # whoever asked is cancelled in this moment
                lease.release("neutral", now)
            else:
                answer.set_result(lease)

        def refused(error: FleetError) -> None:
            if not answer.done():
                answer.set_exception(error)

        asked = self._ask("acquire", (model, kind, key, pinned, [*avoid], int(spare)), granted, refused)
        try:
            return await answer
        except asyncio.CancelledError:
            asked.cancel()
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().release("neutral", now)
            raise

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
    ) -> _Asked:
        """See `Leases`; it never raises: an error is told too. now: control has its own."""
        return self._ask("wait", (model, kind, key, pinned, [*avoid]), granted, refused)

    def heard(self, address: str, now: float) -> None:
        """See `Leases`. now: monotonic, only to compare; control has its own."""
        if self._channel is not None and now - self._heard.get(address, -math.inf) >= _HEARD_SECONDS:
            self._heard[address] = now
            self._channel.send("heard", address)

    def in_flight(self, address: str) -> int:
        """See `Leases`."""
        return self._on_worker.get(address, 0)

    def of(self, number: int) -> RemoteLease | None:
        """The lease of this number, where it is held."""
        return self._held.get(number)

    def answered(self, number: int, address: str, model: str, on_trial: bool) -> None:  # noqa: FBT001
        """Control gives this worker."""
        asked = self._asked.pop(number, None)
        view = self._fleet.worker(address)
        facts = next((facts for facts in view.models if facts.model == model), None) if view is not None else None
        if asked is None or facts is None:
            self._say("release", number, "neutral", 0.0)
            if asked is not None:
                asked.refused(NoWorker(f"worker {address} is not known here", model, asked.kind))
            return
        lease = self._held[number] = RemoteLease(self, asked, address, facts, on_trial=on_trial)
        self._on_worker[address] = self._on_worker.get(address, 0) + 1
        asked.granted(lease)

    def refused(self, number: int, error: list[Json]) -> None:
        """Control has no worker, and says why."""
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.refused(error_of(error))

    def released(self, lease: RemoteLease, outcome: Outcome, rest: float) -> None:
        """A lease was given back. A control that comes later does not even learn that it was held."""
        del self._held[lease.number]
        left = self._on_worker.pop(lease.address) - 1
        if left:
            self._on_worker[lease.address] = left
        else:
            self._heard.pop(lease.address, None)
        self._say("release", lease.number, outcome, rest)

    def cancelled(self, asked: _Asked) -> None:
        """A question is of no interest any more; control may have answered it already."""
        if self._asked.pop(asked.number, None) is not None:
            self._say("release", asked.number, "neutral", 0.0)

    def _ask(
        self,
        what: str,
        arguments: tuple[Json, ...],
        granted: Callable[[Leased], None],
        refused: Callable[[FleetError], None],
    ) -> _Asked:
        number = next(self._numbers)
        kind = cast("Kind", arguments[1])
        asked = self._asked[number] = _Asked(self, number, kind, (what, number, *arguments), granted, refused)
        self._say(*asked.message)
        return asked

    def _say(self, *message: Json) -> None:
        if self._channel is not None:
            self._channel.send(*message)
