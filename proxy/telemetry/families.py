"""What one scrape says: the cells and rows of the gateway as metric families, with their names and help texts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import proxy
from proxy.telemetry.cells import NONE, OTHER, HistogramCell
from proxy.telemetry.request import BackendMetrics, RequestMetrics, Totals
from proxy.telemetry.rows import BreakerState, ConnectionCounts, QueueRow, WorkerRow

# The higher, the fewer requests the worker gets.
BREAKER_STATES: Final[Mapping[BreakerState, int]] = {"closed": 0, "half_open": 1, "open": 2}


def build_family() -> Metric:
    family = GaugeMetricFamily(
        "gateway_build_info", "Version of the gateway and of Python; always 1.", labels=["version", "python"]
    )
    family.add_metric([proxy.__version__, platform.python_version()], 1)
    return family


def request_families(bundles: Iterable[RequestMetrics]) -> Iterator[Metric]:
    pair = ["route", "model"]
    requests = CounterMetricFamily(
        "gateway_requests", "Finished requests, by route, model and outcome.", labels=[*pair, "outcome"]
    )
    in_flight = GaugeMetricFamily("gateway_in_flight", "Requests that are being served now.", labels=pair)
    duration = HistogramMetricFamily(
        "gateway_request_duration_seconds", "From a request's arrival to the end of its answer.", labels=pair
    )
    first = HistogramMetricFamily(
        "gateway_time_to_first_frame_seconds",
        "From a request's arrival to the first frame of its stream.",
        labels=pair,
    )
    gaps = HistogramMetricFamily(
        "gateway_inter_frame_seconds", "Between two reads of a worker's stream that carried frames.", labels=pair
    )
    tokens: dict[tuple[str, str], int] = {}
    for bundle in bundles:
        labels = [bundle.route, bundle.model]
        between = HistogramCell(bundle.gaps.bounds)
        for cell in (bundle.gaps, *(backend.gaps for backend in bundle.backends.copy().values())):
            between.take(cell)
        for outcome, count in bundle.outcomes.items():
            requests.add_metric([*labels, outcome], count)
        in_flight.add_metric(labels, bundle.in_flight)
        for cell, family in ((bundle.duration, duration), (bundle.first, first), (between, gaps)):
            # A route that never streams has no use for two times thirty lines of noughts.
            if cell is bundle.duration or not cell.empty:
                cell.add_to(family, labels)
        for kind, count in (("prompt", bundle.prompt_tokens), ("completion", bundle.completion_tokens)):
            tokens[bundle.model, kind] = tokens.get((bundle.model, kind), 0) + count
    usage = CounterMetricFamily(
        "gateway_tokens", "Tokens that workers reported, by model and type.", labels=["model", "type"]
    )
    for key, count in tokens.items():
        usage.add_metric(key, count)
    yield from (requests, in_flight, duration, first, gaps, usage)


def backend_families(bundles: Iterable[RequestMetrics], mirrored: Iterable[RequestMetrics] = ()) -> Iterator[Metric]:
    """What the workers of each backend did for each model, so that two backends can be compared under one load.
    mirrored: of copies of requests.
    """
    sums: dict[tuple[str, str, str], BackendMetrics] = {}
    for role, each in (("main", bundles), ("mirror", mirrored)):
        for bundle in each:
            for (name, model), backend in bundle.backends.copy().items():
                sums.setdefault((name or NONE, model, role), BackendMetrics(bundle)).take(backend)
    names = ["backend", "model", "role"]
    requests = CounterMetricFamily(
        "gateway_backend_requests", "Calls to workers, by backend, model, role and outcome.", labels=[*names, "outcome"]
    )
    in_flight = GaugeMetricFamily("gateway_backend_in_flight", "Calls to workers under way.", labels=names)
    tokens = CounterMetricFamily(
        "gateway_backend_tokens",
        "Tokens that workers reported, by backend, model, role and type.",
        labels=[*names, "type"],
    )
    histograms = {
        "duration": ("request_duration_seconds", "From a call to a worker to its end."),
        "first": ("first_frame_seconds", "From a call to a worker to its first frame."),
        "gaps": ("inter_frame_seconds", "Between two reads of a worker's stream that carried frames."),
        "token": ("time_per_token_seconds", "Time for a token after the first, the mean of one stream."),
    }
    families = {
        name: HistogramMetricFamily(f"gateway_backend_{suffix}", text, labels=names)
        for name, (suffix, text) in histograms.items()
    }
    for labels, found in sums.items():
        in_flight.add_metric(labels, found.in_flight)
        for outcome, count in found.outcomes.items():
            requests.add_metric([*labels, outcome], count)
        tokens.add_metric([*labels, "prompt"], found.prompt_tokens)
        tokens.add_metric([*labels, "completion"], found.completion_tokens)
        for name, family in families.items():
            cell: HistogramCell = getattr(found, name)
            if name == "duration" or not cell.empty:
                cell.add_to(family, labels)
    yield from (requests, in_flight, tokens, *families.values())


def total_families(totals: Totals) -> Iterator[Metric]:
    frames = CounterMetricFamily(
        "gateway_frames", "Stream frames received from workers and sent to clients.", labels=["direction"]
    )
    frames.add_metric(["received"], totals.received_frames)
    frames.add_metric(["sent"], totals.sent_frames)
    size = CounterMetricFamily(
        "gateway_bytes", "Body bytes received from workers and sent to clients.", labels=["direction"]
    )
    size.add_metric(["received"], totals.received_bytes)
    size.add_metric(["sent"], totals.sent_bytes)
    overhead = HistogramMetricFamily(
        "gateway_overhead_seconds", "Time that the gateway adds to a request, by phase.", labels=["phase"]
    )
    for phase, cell in totals.phases.items():
        cell.add_to(overhead, [phase])
    yield from (frames, size, overhead)


def controller_families(
    counts: Mapping[str, int], accepted: Mapping[tuple[str, str], float], now: float
) -> Iterator[Metric]:
    """counts: instances of each controller; accepted: when (event, controller) last succeeded, on `now`'s clock."""
    instances = GaugeMetricFamily(
        "gateway_registered_instances", "Instances that a controller holds for this gateway.", labels=["controller"]
    )
    for controller, count in counts.items():
        instances.add_metric([controller], count)
    yield instances
    for event in ("registration", "heartbeat"):
        family = GaugeMetricFamily(
            f"gateway_{event}_age_seconds",
            f"Time since a controller last accepted a {event}.",
            labels=["controller"],
        )
        for (name, controller), when in accepted.items():
            if name == event:
                family.add_metric([controller], max(0.0, now - when))
        yield family


def worker_families(rows: Iterable[WorkerRow], cap: int) -> Iterator[Metric]:
    def gauge(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"gateway_worker_{name}", text, labels=["worker"])

    up = gauge("up", "1 if the worker answers, else 0.")
    in_flight = gauge("in_flight", "Requests of this gateway that the worker holds now.")
    queue = gauge("queue_length", "Queue length that the worker reported last.")
    limit = gauge("limit", "Most requests of this gateway that the worker gets at once.")
    breaker = gauge("breaker_state", "State of the worker's breaker: 0 closed, 1 half open, 2 open.")
    degraded = gauge("degraded", "1 if the worker is used only where no other is left, else 0.")
    drained = gauge("drained", "1 if an operator took the worker out of service, else 0.")
    info = GaugeMetricFamily(
        "gateway_worker_info", "What kind of server the worker is; always 1.", labels=["worker", "backend"]
    )
    for row in _capped(rows, cap):
        labels = [row.worker]
        info.add_metric([row.worker, row.backend or NONE], 1)
        up.add_metric(labels, int(row.up))
        in_flight.add_metric(labels, row.in_flight)
        breaker.add_metric(labels, BREAKER_STATES[row.breaker])
        degraded.add_metric(labels, int(row.degraded))
        drained.add_metric(labels, int(row.drained))
        if row.queue_length is not None:
            queue.add_metric(labels, row.queue_length)
        if row.limit is not None:
            limit.add_metric(labels, row.limit)
    yield from (up, in_flight, queue, limit, breaker, degraded, drained, info)


def queue_families(rows: Iterable[QueueRow], waits: Mapping[str, HistogramCell]) -> Iterator[Metric]:
    """rows: the queues now, those of the same model and kind are summed; waits: finished waits by model."""
    depth = GaugeMetricFamily(
        "gateway_queue_depth", "Requests that wait for a worker now, by model and kind.", labels=["model", "kind"]
    )
    waiting: dict[tuple[str, str], int] = {}
    for row in rows:
        waiting[row.model, row.kind] = waiting.get((row.model, row.kind), 0) + row.waiting
    for labels, count in waiting.items():
        depth.add_metric(labels, count)
    yield depth
    wait = HistogramMetricFamily(
        "gateway_queue_wait_seconds", "Time that a request waited for a worker, however it ended.", labels=["model"]
    )
    for model, cell in waits.items():
        cell.add_to(wait, [model])
    yield wait


def reload_families(*, successful: bool, loaded: float) -> Iterator[Metric]:
    """loaded: when the settings and rules in use were loaded, in seconds since 1970."""
    last = "1 if the last reload of settings and rules succeeded, else 0."
    yield GaugeMetricFamily("gateway_config_last_reload_successful", last, value=int(successful))
    when = "When the settings and rules in use were loaded, in seconds since 1970."
    yield GaugeMetricFamily("gateway_config_last_reload_success_timestamp_seconds", when, value=loaded)


def connection_families(counts: ConnectionCounts) -> Iterator[Metric]:
    now = GaugeMetricFamily("gateway_upstream_connections", "Connections to workers, by state.", labels=["state"])
    now.add_metric(["idle"], counts.idle)
    now.add_metric(["active"], counts.active)
    yield now
    opened = "Connections to workers that were opened."
    yield CounterMetricFamily("gateway_upstream_connections_opened", opened, value=counts.opened)
    reused = "Requests that went over a connection that was already open."
    yield CounterMetricFamily("gateway_upstream_connections_reused", reused, value=counts.reused)
    retried = "Requests that were sent again on a fresh connection, because a kept one was dead."
    yield CounterMetricFamily("gateway_upstream_connections_retried", retried, value=counts.retried)


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
