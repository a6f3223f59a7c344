"""Every metric of the gateway, in one registry, rendered in Prometheus' text format."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.telemetry import catalog
from proxy.telemetry.buckets import QUEUE_WAIT
from proxy.telemetry.cells import OTHER, HistogramCell, Labels
from proxy.telemetry.events import EventCounters, word_labels
from proxy.telemetry.families import (
    backend_tables,
    build_table,
    connection_tables,
    controller_tables,
    queue_tables,
    reload_tables,
    request_tables,
    total_tables,
    worker_tables,
)
from proxy.telemetry.request import RequestMetrics, Totals
from proxy.telemetry.rows import ConnectionCounts, QueueRow, WorkerRow
from proxy.telemetry.rules import RuleTable
from proxy.telemetry.tables import CounterTable, Table

# Understood by every Prometheus; the names and labels here need nothing newer.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Note = Literal[
    "finish_synthesized",  # the worker gave no finish reason, the gateway wrote one
    "reasoning_unopened",  # a closing tag of a thought that no opening tag had begun
    "text_rewritten",  # a cumulative text changed what had been sent before
    "text_shrunk",  # a cumulative text was shorter than what had been sent before
    "other",  # a note that is not in this list
]
NOTES: Final[tuple[Note, ...]] = get_args(Note)

Dimension = Literal["route", "model", "worker", "controller", "key"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)

WaitResult = Literal[
    "granted",  # it got a worker
    "timeout",  # it waited as long as it may
    "refused",  # the last worker went away
    "left",  # its client left
]

# Events whose last success has an age.
AGED_EVENTS: Final = ("registration", "heartbeat")


class Sample(NamedTuple):
    """What other parts of the gateway own, as it was when a scrape began."""

    workers: list[WorkerRow]
    queues: list[QueueRow]
    connections: ConnectionCounts | None


class Metrics:
    """All counters of one gateway.

    registry: where they are registered (None: a registry of their own); one gateway for each registry.
    label_cap: how many values of each label of `DIMENSIONS` keep a name of their own; the rest is "other".
    clock: monotonic seconds, for the ages of registrations and heartbeats.
    wall_clock: seconds since 1970, for the time of the last reload; what was loaded at the start counts as one.
    rules: the counters of each rule.
    Everything but `render` and `scrape` is for the event loop's thread.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        label_cap: int = 500,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._label_cap = label_cap
        self._clock = clock
        self._wall_clock = wall_clock
        self._labels: dict[Dimension, Labels] = {name: Labels(label_cap) for name in DIMENSIONS}
        self._totals = Totals()
        self.rules = RuleTable(label_cap, wall_clock)
        self._requests: dict[tuple[str, str], RequestMetrics] = {}
        self._mirrored: dict[tuple[str, str], RequestMetrics] = {}
        self._instances: dict[str, int] = {}
        self._accepted: dict[tuple[str, str], float] = {}
        self._waits: dict[str, HistogramCell] = {}
        self._reloaded = True
        self._loaded_at = wall_clock()
        self._read_workers: Callable[[], Iterable[WorkerRow]] | None = None
        self._read_queues: Callable[[], Iterable[QueueRow]] | None = None
        self._read_connections: Callable[[], ConnectionCounts] | None = None
        self._sampled: Sample | None = None
        self.models_known: frozenset[str] | None = None
        self._scraping = asyncio.Lock()
        self._make_counters()
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Collector(self._families))

    def _make_counters(self) -> None:
        words = {"note": word_labels(*NOTES), "kind": word_labels(), "result": word_labels(*get_args(WaitResult))}
        labels: dict[str, Labels] = words | dict(self._labels.items())
        self._notes = CounterTable(catalog.NOTES, labels, [(note,) for note in NOTES])
        self._upstream_errors = CounterTable(catalog.UPSTREAM_ERRORS, labels)
        self._queue_ends = CounterTable(catalog.QUEUE_ENDS, labels)
        self._events = EventCounters({str(name): labels for name, labels in self._labels.items()})

    def close_labels(self, dimension: Dimension, values: Collection[str]) -> None:
        """Let only these values of a dimension have series of their own; called again, it replaces the set."""
        self._labels[dimension].close(values)

    def request(self, route: str, model: str) -> RequestMetrics:
        """The counters of a route and a model: the same object for the same pair."""
        key = (self._labels["route"].fold(route), self._labels["model"].fold(model))
        bundle = self._requests.get(key)
        if bundle is None:
            bundle = self._requests[key] = RequestMetrics(*key, self._totals, self._labels["model"].fold)
        return bundle

    def mirrored(self, route: str, model: str) -> RequestMetrics:
        """The counters of copies of requests, as `request`: nothing of them is among those of the requests."""
        key = (self._labels["route"].fold(route), self._labels["model"].fold(model))
        bundle = self._mirrored.get(key)
        if bundle is None:
            bundle = self._mirrored[key] = RequestMetrics(*key, Totals(), self._labels["model"].fold)
        return bundle

    def note(self, note: str, count: int = 1) -> None:
        """Something in a stream that was repaired or lost, one of `NOTES`; an unknown one is counted as "other"."""
        self._notes.increase(note if note in NOTES else OTHER, by=count)

    def upstream_error(self, worker: str, kind: str) -> None:
        self._upstream_errors.increase(worker, kind)

    def waited(self, model: str, seconds: float, result: WaitResult = "granted") -> None:
        """A request's wait for a worker is over. Call it for each request that could not have one at once."""
        name = self._labels["model"].fold(model)
        cell = self._waits.get(name)
        if cell is None:
            cell = self._waits[name] = HistogramCell(QUEUE_WAIT)
        cell.observe(seconds)
        self._queue_ends.increase(model, result)

    def on_event(self, name: str, /, **labels: object) -> None:
        """Count one event.

        Those with counters of their own are in `proxy.telemetry.events`, other names count in `gateway_events_total`.
        Labels that the counter does not have are left out. registration and heartbeat: a result of "ok" sets the age
        of the controller's last one to nought. reload: a result of "ok" says that the last one was successful, any
        other that it was not.
        """
        self._events.count(name, labels)
        succeeded = labels.get("result") == "ok"
        if name == "reload":
            self._reloaded = succeeded
            self._loaded_at = self._wall_clock() if succeeded else self._loaded_at
        elif succeeded and name in AGED_EVENTS:
            controller = self._labels["controller"].fold(str(labels.get("controller", "")))
            self._accepted[name, controller] = self._clock()

    def registered_instances(self, controller: str, count: int) -> None:
        """How many instances the controller holds for this gateway now."""
        self._instances[self._labels["controller"].fold(controller)] = count

    def watch_workers(self, rows: Callable[[], Iterable[WorkerRow]]) -> None:
        """Read the workers from `rows` at each scrape."""
        self._read_workers = rows

    def watch_queues(self, rows: Callable[[], Iterable[QueueRow]]) -> None:
        """Read from `rows` at each scrape how many requests wait."""
        self._read_queues = rows

    def watch_connections(self, counts: Callable[[], ConnectionCounts]) -> None:
        """Read the connections to workers from `counts` at each scrape."""
        self._read_connections = counts

    def forget_worker(self, worker: str) -> None:
        """Drop the series of a worker that left for good, so that another can have its place under the cap."""
        self._labels["worker"].forget(worker)
        self._upstream_errors.forget("worker", worker)
        self._events.forget("worker", worker)

    def forget_models(self, known: Collection[str]) -> None:
        """Drop the series of every model but the known ones, as `forget_worker`; those of running requests stay."""
        self.models_known = frozenset(known)
        labels = self._labels["model"]
        running = {OTHER, "", *(model for (_, model), bundle in self._requests.items() if bundle.in_flight)}
        for model in [name for name in labels.known() if name not in known and name not in running]:
            labels.forget(model)
            for bundles in (self._requests, self._mirrored):
                for key in [key for key in bundles if key[1] == model]:
                    del bundles[key]
            self._waits.pop(model, None)
            self._queue_ends.forget("model", model)
            self._events.forget("model", model)

    @property
    def size(self) -> int:
        """How many pairs of route and model have counters, which is most of what there is."""
        return len(self._requests) + len(self._mirrored)

    def sample(self) -> Sample:
        """What other parts of the gateway own, now."""
        fold = self._labels["model"].fold
        queues = [] if self._read_queues is None else list(self._read_queues())
        return Sample(
            [] if self._read_workers is None else list(self._read_workers()),
            [row._replace(model=fold(row.model)) for row in queues],
            None if self._read_connections is None else self._read_connections(),
        )

    def render(self) -> bytes:
        """Everything in text format 0.0.4 (`CONTENT_TYPE`). It takes milliseconds: on the event loop use `scrape`."""
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """`render` in another thread, with the watched rows read on the event loop, which owns them. One at a time."""
        async with self._scraping:
            self._sampled = self.sample()
            try:
                return await asyncio.to_thread(self.render)
            finally:
                self._sampled = None

    def _families(self) -> Iterator[Metric]:
        for table in self.tables(self._sampled or self.sample()):
            yield table.metric()

    def tables(self, sample: Sample) -> Iterator[Table]:
        """Everything that the page shows beside the client library's own, for any thread. sample: `sample()`, just made
        in the event loop's thread.
        """
        yield build_table()
        bundles = list(self._requests.copy().values())
        yield from request_tables(bundles)
        yield from backend_tables(bundles, list(self._mirrored.copy().values()))
        yield from self.rules.tables()
        yield from total_tables(self._totals)
        for counters in (self._notes, self._upstream_errors, self._queue_ends):
            yield counters.table()
        yield from self._events.tables()
        yield from controller_tables(self._instances.copy(), self._accepted.copy(), self._clock())
        yield from reload_tables(successful=self._reloaded, loaded=self._loaded_at)
        yield from worker_tables(sample.workers, self._label_cap)
        yield from queue_tables(sample.queues, self._waits.copy())
        if sample.connections is not None:
            yield from connection_tables(sample.connections)


class _Collector(Collector):
    """What the client library wants to see: an object that makes the families of one scrape."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()
