"""One request's hold on a worker."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from proxy.fleet.breaker import Breaker
from proxy.fleet.facts import OUTCOMES, Kind, ModelFacts, Outcome, WorkerView
from proxy.fleet.leaks import LeakWatch

# A worker frees a slot a little after the last byte: some in a thread of its own, which on a loaded machine
# takes tens of milliseconds. A status is as old as the way it came.
_ENDING_SECONDS: Final = 0.5
# Of more that end in that time no worker has so many slots that all could still show.
_ENDED_MAX: Final = 64


@dataclass(slots=True, eq=False)
class Worker:
    """The fleet's own record of one worker; only `proxy.fleet` changes it. Fields as in `WorkerView`."""

    address: str
    id: str
    seed: int  # its place among others where a hash decides
    since: float
    up: bool = False
    reason: str = ""
    drained: bool = False
    last_seen: float | None = None
    queue_length: int = 0
    speed: float = 1.0
    in_flight: int = 0
    foreign: int = 0
    shown: int = 0  # requests of others by its last status
    rests_until: float = 0.0
    silent: bool = False  # it let its last status call go unanswered
    heard: float | None = None  # when something last came from it
    learned_limit: int | None = None
    models: dict[str, ModelFacts] = field(default_factory=dict)
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    breaker: Breaker = field(default_factory=Breaker)
    leak: LeakWatch = field(default_factory=LeakWatch)
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_ENDED_MAX))  # when requests of ours ended there
    on_idle: Callable[[Worker], None] | None = None  # a forgotten one leaves the table with its last lease

    def resting(self, now: float) -> bool:
        """Whether it is to be chosen only where no other has room."""
        return self.silent or self.rests_until > now

    def hear(self, now: float) -> None:
        """Something came from it: its event loop runs."""
        self.heard, self.silent = now, False

    def load(self, queue_length: int, now: float) -> None:
        """It says how many requests it holds.

        Of those that are not ours by our own count, nor may be ours that have just ended, so many are others' as a
        status before showed too, or as were sent there since.
        """
        ends = self.ends
        while ends and now - ends[0] > _ENDING_SECONDS:
            ends.popleft()
        shown = max(0, queue_length - self.in_flight - len(ends))
        self.foreign = min(shown, max(self.shown, self.foreign))
        self.queue_length, self.shown = queue_length, shown

    def served(self) -> Iterable[tuple[str, Kind]]:
        """Each pair of model and kind that it serves."""
        return ((facts.model, kind) for facts in self.models.values() for kind in facts.kinds)

    def view(self, limit: int, degraded: str) -> WorkerView:
        """A copy that stays as it is now."""
        return WorkerView(
            self.address, self.up, self.reason, self.since, self.last_seen, self.queue_length, self.speed,
            self.in_flight, tuple(self.models.values()), dict(self.outcomes), self.id, limit, self.breaker.state,
            degraded, self.drained, self.foreign, math.inf if self.silent else self.rests_until,
        )  # fmt: skip


class Lease:
    """A worker chosen for one request. Hold it until the last byte, then `release`; releasing again does nothing.

    facts are those of the moment of choosing: a request is finished with the template it was begun with. Their model
    is another than the one asked for where a fallback answers.
    """

    __slots__ = ("_number", "_on_release", "_worker", "facts", "released")

    def __init__(
        self, worker: Worker, facts: ModelFacts, number: int, on_release: Callable[[Worker, int, Outcome, float], None]
    ) -> None:
        self._worker = worker
        self._number = number
        self._on_release = on_release
        self.facts = facts
        self.released = False
        worker.in_flight += 1

    @property
    def address(self) -> str:
        """The worker's base address, as in "http://host:port"."""
        return self._worker.address

    @property
    def model(self) -> str:
        """The fleet's own name of the model that answers."""
        return self.facts.model

    @property
    def on_trial(self) -> bool:
        """Whether the worker kept failing, and this request is to tell whether it works again."""
        return self._worker.breaker.state != "closed"

    def release(self, outcome: Outcome, now: float, rest: float = 0.0) -> None:
        """Give the worker back and say how it went; only the first call counts.

        rest: for so many seconds the worker is chosen only where no other has room. For one that refuses at once: its
        load stays the lowest, so that it would attract what it does not take.
        """
        if self.released:
            return
        self.released = True
        worker = self._worker
        worker.in_flight -= 1
        worker.ends.append(now)
        worker.outcomes[outcome] += 1
        if outcome == "success":
            worker.hear(now)
        if rest > 0:
            worker.rests_until = max(worker.rests_until, now + rest)
        self._on_release(worker, self._number, outcome, now)
