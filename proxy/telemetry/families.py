"""What one scrape says: the cells and rows of the gateway as metric families, with their names and help texts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import proxy
from proxy.telemetry.cells import OTHER
from proxy.telemetry.request import RequestMetrics, Totals
from proxy.telemetry.rows import ConnectionCounts, WorkerRow


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
        for outcome, count in bundle.outcomes.items():
            requests.add_metric([*labels, outcome], count)
        in_flight.add_metric(labels, bundle.in_flight)
        for cell, family in ((bundle.duration, duration), (bundle.first, first), (bundle.gaps, gaps)):
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
    up = GaugeMetricFamily("gateway_worker_up", "1 if requests go to the worker, else 0.", labels=["worker"])
    in_flight = GaugeMetricFamily(
        "gateway_worker_in_flight", "Requests of this gateway that the worker holds now.", labels=["worker"]
    )
    queue = GaugeMetricFamily(
        "gateway_worker_queue_length", "Queue length that the worker reported last.", labels=["worker"]
    )
    for row in _capped(rows, cap):
        up.add_metric([row.worker], int(row.up))
        in_flight.add_metric([row.worker], row.in_flight)
        if row.queue_length is not None:
            queue.add_metric([row.worker], row.queue_length)
    yield from (up, in_flight, queue)


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
    """One row for each worker, in order of address; those past the cap become one row "other", up only if all are."""
    unique = sorted({row.worker: row for row in rows}.values())
    kept, rest = unique[:cap], unique[cap:]
    if rest:
        queues = [row.queue_length for row in rest if row.queue_length is not None]
        everyone_up = all(row.up for row in rest)
        kept.append(WorkerRow(OTHER, everyone_up, sum(row.in_flight for row in rest), sum(queues) if queues else None))
    return kept
