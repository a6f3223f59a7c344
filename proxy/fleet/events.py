"""What the fleet tells about itself: for counters, and one sentence for the log where something changed."""

from __future__ import annotations

from typing import Protocol

from proxy.fleet.facts import BreakerState
from proxy.fleet.lease import Worker
from proxy.fleet.pool import Pool


class FleetEvent(Protocol):
    """Hears what happens. text: one sentence for the log, or "" for what is only counted. It must neither raise nor
    change the fleet."""

    def __call__(self, name: str, text: str, /, **labels: str) -> None:
        """name and labels: selection(policy), breaker(worker, state), last_resort(model), degraded(worker, state),
        drained(worker, state), fallback(model)."""


class Announcer:
    """Makes the events. What goes on for many requests (a fallback, a last resort) has a text only when it begins."""

    def __init__(self, on_event: FleetEvent | None) -> None:
        self._on_event = on_event
        self._falling: set[str] = set()  # models for which another answers
        self._resorting: set[str] = set()  # models whose workers' breakers are all open

    def selected(self, worker: Worker, pool: Pool, model: str, before: BreakerState) -> None:
        """A request for `model` got a lease in this pool. before: the worker's breaker until then."""
        if self._on_event is None:
            return
        self._on_event("selection", "", policy=pool.rules.policy)
        if worker.breaker.state != before:
            self.breaker(worker)
        if pool.last_resort:
            text = f'each worker left for model "{pool.model}" keeps failing; requests go there all the same'
            self._on_event("last_resort", _once(text, pool.model, self._resorting), model=pool.model)
        elif self._resorting:
            self._resorting.discard(pool.model)
        if pool.model != model:
            text = f'model "{model}" has no worker; "{pool.model}" answers'
            self._on_event("fallback", _once(text, model, self._falling), model=model)
        elif self._falling:
            self._falling.discard(model)

    def breaker(self, worker: Worker) -> None:
        """A worker's breaker has changed."""
        if self._on_event is not None:
            state = worker.breaker.state
            self._on_event("breaker", f"worker {worker.address} {_BREAKER[state]}", worker=worker.address, state=state)

    def degraded(self, worker: Worker, sentence: str) -> None:
        """A worker's lost slots have changed; "": there are none any more."""
        if self._on_event is not None:
            text = sentence or f"worker {worker.address} has all its slots again"
            self._on_event("degraded", text, worker=worker.address, state="degraded" if sentence else "ok")

    def drained(self, worker: Worker) -> None:
        """A worker was taken out of use or put back."""
        if self._on_event is not None:
            state = "drained" if worker.drained else "enabled"
            text = f"worker {worker.address} gets {'no new requests' if worker.drained else 'requests again'}"
            self._on_event("drained", text, worker=worker.address, state=state)


def _once(text: str, model: str, told: set[str]) -> str:
    if model in told:
        return ""
    told.add(model)
    return text


_BREAKER: dict[BreakerState, str] = {
    "closed": "answers again: it is used as before",
    "open": "keeps failing: it is left alone for a while",
    "half_open": "is tried with one request",
}
