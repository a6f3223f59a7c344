"""Every metric of the gateway, in one registry, rendered in Prometheus' text format."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.telemetry.cells import OTHER, CounterTable, Labels
from proxy.telemetry.families import (
    build_family,
    connection_families,
    controller_families,
    request_families,
    total_families,
    worker_families,
)
from proxy.telemetry.request import RequestMetrics, Totals
from proxy.telemetry.rows import ConnectionCounts, WorkerRow

# Understood by every Prometheus; the names and labels here need nothing newer.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Note = Literal[
    "finish_synthesized",  # the worker gave no finish reason, the gateway wrote one
    "text_rewritten",  # a cumulative text changed what had been sent before
    "text_shrunk",  # a cumulative text was shorter than what had been sent before
    "other",  # a note that is not in this list
]
NOTES: Final[tuple[Note, ...]] = get_args(Note)

Dimension = Literal["route", "model", "worker", "controller"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)

# Events whose last success has an age.
AGED_EVENTS: Final = ("registration", "heartbeat")
# Kinds and results are words of the program, a few for each metric; the bound only catches a mistake.
WORDS_MAX: Final = 40


class Metrics:
    """All counters of one gateway.

    registry: where they are registered (None: a registry of their own); one gateway for each registry.
    label_cap: how many routes, models, workers and controllers keep a name of their own, each; the rest is "other".
    clock: monotonic seconds, for the ages of registrations and heartbeats.
    Everything but `render` and `scrape` is for the event loop's thread.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        label_cap: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._label_cap = label_cap
        self._clock = clock
        self._labels: dict[Dimension, Labels] = {name: Labels(label_cap) for name in DIMENSIONS}
        self._totals = Totals()
        self._requests: dict[tuple[str, str], RequestMetrics] = {}
        self._instances: dict[str, int] = {}
        self._accepted: dict[tuple[str, str], float] = {}
        self._read_workers: Callable[[], Iterable[WorkerRow]] | None = None
        self._read_connections: Callable[[], ConnectionCounts] | None = None
        self._sampled: tuple[list[WorkerRow], ConnectionCounts | None] | None = None
        self._scraping = asyncio.Lock()
        self._make_counters()
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Collector(self._families))

    def _make_counters(self) -> None:
        worker, controller = self._labels["worker"], self._labels["controller"]

        def words(*start: str) -> Labels:
            labels = Labels(WORDS_MAX)
            for word in start:
                labels.fold(word)
            return labels

        self._notes = CounterTable(
            "gateway_stream_notes",
            "Repairs and losses in streams that a client does not see as an error, by kind.",
            {"note": words(*NOTES)},
            [(note,) for note in NOTES],
        )
        self._upstream_errors = CounterTable(
            "gateway_upstream_errors",
            "Failures of calls to a worker, by worker and kind.",
            {"worker": worker, "kind": words()},
        )
        self._other_events = CounterTable(
            "gateway_events", "Events that have no counter of their own, by name.", {"event": words()}
        )
        self._events: dict[str, tuple[str, CounterTable]] = {}
        for name, plural, label, labels, text in (
            ("probe", "probes", "worker", worker, "Health probes of workers, by worker and result."),
            ("discovery", "discovery", "controller", controller, "Polls of a controller for workers, by result."),
            (
                "registration",
                "registrations",
                "controller",
                controller,
                "Registrations sent, by controller and result.",
            ),
            ("heartbeat", "heartbeats", "controller", controller, "Heartbeats sent, by controller and result."),
        ):
            table = CounterTable(f"gateway_{plural}", text, {label: labels, "result": words()})
            self._events[name] = (label, table)

    def close_labels(self, dimension: Dimension, values: Collection[str]) -> None:
        """Let only these values of a dimension have series of their own; called again, it replaces the set."""
        self._labels[dimension].close(values)

    def request(self, route: str, model: str) -> RequestMetrics:
        """The counters of a route and a model: the same object for the same pair."""
        key = (self._labels["route"].fold(route), self._labels["model"].fold(model))
        bundle = self._requests.get(key)
        if bundle is None:
            bundle = self._requests[key] = RequestMetrics(*key, self._totals)
        return bundle

    def note(self, note: str, count: int = 1) -> None:
        """Something in a stream that was repaired or lost, one of `NOTES`; an unknown one is counted as "other"."""
        self._notes.increase(note if note in NOTES else OTHER, by=count)

    def upstream_error(self, worker: str, kind: str) -> None:
        self._upstream_errors.increase(worker, kind)

    def on_event(self, name: str, /, **labels: object) -> None:
        """Count one event of the control plane.

        probe(worker, result), discovery(controller, result), registration(controller, result) and
        heartbeat(controller, result) have counters of their own, other names count in `gateway_events_total`.
        Labels that the counter does not have are left out. A result of "ok" sets the age of the controller's
        registration or heartbeat to nought.
        """
        known = self._events.get(name)
        if known is None:
            self._other_events.increase(name)
            return
        label, table = known
        owner, result = str(labels.get(label, "")), str(labels.get("result", ""))
        table.increase(owner, result)
        if result == "ok" and name in AGED_EVENTS:
            self._accepted[name, self._labels["controller"].fold(owner)] = self._clock()

    def registered_instances(self, controller: str, count: int) -> None:
        """How many instances the controller holds for this gateway now."""
        self._instances[self._labels["controller"].fold(controller)] = count

    def watch_workers(self, rows: Callable[[], Iterable[WorkerRow]]) -> None:
        """Read the workers from `rows` at each scrape."""
        self._read_workers = rows

    def watch_connections(self, counts: Callable[[], ConnectionCounts]) -> None:
        """Read the connections to workers from `counts` at each scrape."""
        self._read_connections = counts

    def forget_worker(self, worker: str) -> None:
        """Drop the series of a worker that left for good, so that another can have its place under the cap."""
        self._labels["worker"].forget(worker)
        self._upstream_errors.forget("worker", worker)
        self._events["probe"][1].forget("worker", worker)

    def _read_watched(self) -> tuple[list[WorkerRow], ConnectionCounts | None]:
        rows = [] if self._read_workers is None else list(self._read_workers())
        return rows, None if self._read_connections is None else self._read_connections()

    def render(self) -> bytes:
        """Everything in text format 0.0.4 (`CONTENT_TYPE`). It takes milliseconds: on the event loop use `scrape`."""
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """`render` in another thread, with the watched rows read on the event loop, which owns them. One at a time."""
        async with self._scraping:
            self._sampled = self._read_watched()
            try:
                return await asyncio.to_thread(self.render)
            finally:
                self._sampled = None

    def _families(self) -> Iterator[Metric]:
        rows, connections = self._sampled or self._read_watched()
        yield build_family()
        yield from request_families(list(self._requests.copy().values()))
        yield from total_families(self._totals)
        for table in (self._notes, self._upstream_errors, self._other_events):
            yield table.family()
        for _, table in self._events.values():
            yield table.family()
        yield from controller_families(self._instances.copy(), self._accepted.copy(), self._clock())
        yield from worker_families(rows, self._label_cap)
        if connections is not None:
            yield from connection_families(connections)


class _Collector(Collector):
    """What the client library wants to see: an object that makes the families of one scrape."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()
