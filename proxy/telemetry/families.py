"""What the cells and rows of the gateway say now, as tables of the catalog's families."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import proxy
from proxy.telemetry import catalog
from proxy.telemetry.cells import NONE, OTHER, HistogramCell
from proxy.telemetry.request import BackendMetrics, RequestMetrics, Totals
from proxy.telemetry.rows import BreakerState, ConnectionCounts, QueueRow, WorkerRow
from proxy.telemetry.tables import Key, Table

# The higher, the fewer requests the worker gets.
BREAKER_STATES: Final[Mapping[BreakerState, int]] = {"closed": 0, "half_open": 1, "open": 2}


def build_table() -> Table:
    return Table(catalog.BUILD, {(proxy.__version__, platform.python_version()): 1})


def request_tables(bundles: Iterable[RequestMetrics]) -> Iterator[Table]:
    requests: dict[Key, float] = {}
    in_flight: dict[Key, float] = {}
    durations: dict[Key, HistogramCell] = {}
    firsts: dict[Key, HistogramCell] = {}
    gaps: dict[Key, HistogramCell] = {}
    tokens: dict[Key, float] = {}
    for bundle in bundles:
        labels = bundle.route, bundle.model
        gapped = [bundle.gaps, *(backend.gaps for backend in bundle.backends.copy().values())]
        between = HistogramCell.summed(bundle.gaps.bounds, gapped)
        requests.update({(*labels, outcome): count for outcome, count in bundle.outcomes.items()})
        in_flight[labels] = bundle.in_flight
        durations[labels] = bundle.duration
        # A route that never streams has no use for two times thirty lines of noughts.
        for cell, cells in ((bundle.first, firsts), (between, gaps)):
            if not cell.empty:
                cells[labels] = cell
        for kind, count in (("prompt", bundle.prompt_tokens), ("completion", bundle.completion_tokens)):
            tokens[bundle.model, kind] = tokens.get((bundle.model, kind), 0) + count
    yield Table(catalog.REQUESTS, requests)
    yield Table(catalog.IN_FLIGHT, in_flight)
    yield Table(catalog.DURATION, durations)
    yield Table(catalog.FIRST, firsts)
    yield Table(catalog.GAPS, gaps)
    yield Table(catalog.TOKENS, tokens)


def backend_tables(bundles: Iterable[RequestMetrics], mirrored: Iterable[RequestMetrics] = ()) -> Iterator[Table]:
    """What the workers of each backend did for each model, so that two backends can be compared under one load.
    mirrored: of copies of requests.
    """
    calls: dict[tuple[str, str, str], list[BackendMetrics]] = {}
    for role, each in (("main", bundles), ("mirror", mirrored)):
        for bundle in each:
            for (name, model), backend in bundle.backends.copy().items():
                calls.setdefault((name or NONE, model, role), []).append(backend)
    sums = {labels: each[0] if len(each) == 1 else _summed(each) for labels, each in calls.items()}
    requests: dict[Key, float] = {}
    tokens: dict[Key, float] = {}
    for labels, found in sums.items():
        requests.update({(*labels, outcome): count for outcome, count in found.outcomes.items()})
        tokens.update({(*labels, "prompt"): found.prompt_tokens, (*labels, "completion"): found.completion_tokens})
    yield Table(catalog.BACKEND_REQUESTS, requests)
    yield Table(catalog.BACKEND_IN_FLIGHT, {labels: found.in_flight for labels, found in sums.items()})
    yield Table(catalog.BACKEND_TOKENS, tokens)
    yield Table(catalog.BACKEND_DURATION, {labels: found.duration for labels, found in sums.items()})
    yield Table(catalog.BACKEND_FIRST, {labels: each.first for labels, each in sums.items() if not each.first.empty})
    yield Table(catalog.BACKEND_GAPS, {labels: each.gaps for labels, each in sums.items() if not each.gaps.empty})
    yield Table(catalog.BACKEND_TOKEN, {labels: each.token for labels, each in sums.items() if not each.token.empty})


def _summed(each: list[BackendMetrics]) -> BackendMetrics:
    total = BackendMetrics(each[0].request)
    for backend in each:
        total.take(backend)
    return total


def total_tables(totals: Totals) -> Iterator[Table]:
    frames, size = totals.received_frames, totals.received_bytes
    yield Table(catalog.FRAMES, {("received",): frames, ("sent",): totals.sent_frames})
    yield Table(catalog.BYTES, {("received",): size, ("sent",): totals.sent_bytes})
    yield Table(catalog.OVERHEADS, {(phase,): cell for phase, cell in totals.phases.items()})


def controller_tables(
    counts: Mapping[str, int], accepted: Mapping[tuple[str, str], float], now: float
) -> Iterator[Table]:
    """counts: instances of each controller; accepted: when (event, controller) last succeeded, on `now`'s clock."""
    instances: dict[Key, float] = {(controller,): count for controller, count in counts.items()}
    yield Table(catalog.INSTANCES, instances)
    for event, family in catalog.AGES.items():
        ages: dict[Key, float] = {
            (controller,): max(0.0, now - when) for (name, controller), when in accepted.items() if name == event
        }
        yield Table(family, ages)


def worker_tables(rows: Iterable[WorkerRow], cap: int) -> Iterator[Table]:
    capped = _capped(rows, cap)
    yield Table(catalog.WORKER_UP, {(row.worker,): int(row.up) for row in capped})
    yield Table(catalog.WORKER_IN_FLIGHT, {(row.worker,): row.in_flight for row in capped})
    queues: dict[Key, float] = {(row.worker,): row.queue_length for row in capped if row.queue_length is not None}
    yield Table(catalog.WORKER_QUEUE, queues)
    yield Table(catalog.WORKER_LIMIT, {(row.worker,): row.limit for row in capped if row.limit is not None})
    yield Table(catalog.WORKER_BREAKER, {(row.worker,): BREAKER_STATES[row.breaker] for row in capped})
    yield Table(catalog.WORKER_DEGRADED, {(row.worker,): int(row.degraded) for row in capped})
    yield Table(catalog.WORKER_DRAINED, {(row.worker,): int(row.drained) for row in capped})
    yield Table(catalog.WORKER_INFO, {(row.worker, row.backend or NONE): 1 for row in capped})


def queue_tables(rows: Iterable[QueueRow], waits: Mapping[str, HistogramCell]) -> Iterator[Table]:
    """rows: the queues now, those of the same model and kind are summed; waits: finished waits by model."""
    waiting: dict[Key, float] = {}
    for row in rows:
        waiting[row.model, row.kind] = waiting.get((row.model, row.kind), 0) + row.waiting
    yield Table(catalog.QUEUE_DEPTH, waiting)
    yield Table(catalog.QUEUE_WAITS, {(model,): cell for model, cell in waits.items()})


def reload_tables(*, successful: bool, loaded: float) -> Iterator[Table]:
    """loaded: when the settings and rules in use were loaded, in seconds since 1970."""
    yield Table(catalog.RELOADED, {(): int(successful)})
    yield Table(catalog.LOADED, {(): loaded})


def connection_tables(counts: ConnectionCounts) -> Iterator[Table]:
    yield Table(catalog.CONNECTIONS, {("idle",): counts.idle, ("active",): counts.active})
    yield Table(catalog.OPENED, {(): counts.opened})
    yield Table(catalog.REUSED, {(): counts.reused})
    yield Table(catalog.RETRIED, {(): counts.retried})


def _capped(rows: Iterable[WorkerRow], cap: int) -> list[WorkerRow]:
    """One row for each worker, in order of address; those past the cap become one row "other".

    Its numbers are sums, and its states those of the worst: it is up only if all are, and degraded if one is.
    """
    unique = sorted({row.worker: row for row in rows}.values(), key=lambda row: row.worker)
    kept, rest = unique[:cap], unique[cap:]
    if rest:
        queues = [row.queue_length for row in rest if row.queue_length is not None]
        limits = [row.limit for row in rest if row.limit is not None]
        other = WorkerRow(
            OTHER,
            up=all(row.up for row in rest),
            in_flight=sum(row.in_flight for row in rest),
            queue_length=sum(queues) if queues else None,
            limit=sum(limits) if limits else None,
            breaker=max((row.breaker for row in rest), key=BREAKER_STATES.__getitem__),
            degraded=any(row.degraded for row in rest),
            drained=any(row.drained for row in rest),
        )
        kept.append(other)
    return kept
