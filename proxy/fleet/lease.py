"""One request's hold on a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.fleet.facts import OUTCOMES, ModelFacts, Outcome, WorkerView


@dataclass
class Worker:
    """The fleet's own record of one worker; only `proxy.fleet` changes it. Fields as in `WorkerView`."""

    address: str
    since: float
    up: bool = False
    reason: str = ""
    last_seen: float | None = None
    queue_length: int = 0
    speed: float = 1.0
    in_flight: int = 0
    models: dict[str, ModelFacts] = field(default_factory=dict)
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    forgotten: bool = False  # out of the fleet as soon as its last lease ends

    def view(self) -> WorkerView:
        """A copy that stays as it is now."""
        return WorkerView(
            self.address, self.up, self.reason, self.since, self.last_seen, self.queue_length, self.speed,
            self.in_flight, tuple(self.models.values()), dict(self.outcomes),
        )  # fmt: skip


class Lease:
    """A worker chosen for one request. Hold it until the last byte, then `release`; releasing again does nothing.

    facts are those of the moment of choosing: a request is finished with the template it was begun with.
    """

    __slots__ = ("_on_release", "_worker", "facts", "released")

    def __init__(self, worker: Worker, facts: ModelFacts, on_release: Callable[[Worker, Outcome], None]) -> None:
        self._worker = worker
        self._on_release = on_release
        self.facts = facts
        self.released = False
        worker.in_flight += 1

    @property
    def address(self) -> str:
        """The worker's base address, as in "http://host:port"."""
        return self._worker.address

    def release(self, outcome: Outcome = "neutral") -> None:
        """Give the worker back and say how it went; only the first call counts."""
        if self.released:
            return
        self.released = True
        self._worker.in_flight -= 1
        self._worker.outcomes[outcome] += 1
        self._on_release(self._worker, outcome)
