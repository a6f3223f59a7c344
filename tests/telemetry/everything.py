"""Metrics in which everything was counted once, so that every family has a sample with its labels."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from proxy.telemetry.gathered import page
from proxy.telemetry.ledger import Ledger
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rows import ConnectionCounts, QueueRow, WorkerRow
from proxy.telemetry.snapshot import Snapshots


def used() -> Metrics:
    """Metrics after one of everything."""
    metrics = Metrics()
    bundle = metrics.request("generate", "vicuna")
    bundle.started()
    bundle.spent("queue", 0.0002)
    bundle.spent("connect", 0.0009)
    bundle.spent("translate", 0.00001)
    bundle.first_frame(0.3)
    backend = bundle.backend("modelserver", "vicuna")
    backend.started()
    backend.first_frame(0.2)
    backend.gap(0.02)
    backend.tokens(19, 7, 0.5)
    backend.finished("ok", 1.4)
    rule = metrics.rules.of("pack", "generate")
    rule.applied()
    rule.skipped()
    rule.failed("answer")
    rule.dropped("request", ["user"], ())
    bundle.received(12, 3400)
    bundle.sent(11, 3300)
    bundle.tokens(19, 7)
    bundle.finished("ok", 1.5)
    metrics.note("finish_synthesized")
    metrics.upstream_error("http://w:1", "reset")
    for event in ("registration", "heartbeat", "discovery"):
        metrics.on_event(event, controller="http://c:1", result="ok")
    metrics.on_event("probe", worker="http://w:1", result="ok")
    metrics.on_event("selection", policy="random")
    metrics.on_event("breaker", worker="http://w:1", state="open")
    metrics.on_event("degraded", worker="http://w:1", state="degraded")
    metrics.on_event("retry", reason="upstream_refused")
    metrics.on_event("failover", model="vicuna")
    metrics.on_event("resumed", model="vicuna", result="ok")
    metrics.on_event("fallback", model="vicuna")
    metrics.on_event("split_fallback", model="vicuna")
    metrics.on_event("mirror_skipped", reason="busy")
    metrics.on_event("keyed_request", key="team-a", outcome="ok")
    metrics.on_event("registered_worker", result="ok")
    metrics.on_event("rejected_registration", reason="not_allowed")
    metrics.on_event("reload", result="ok")
    metrics.on_event("last_resort", model="vicuna")
    metrics.waited("vicuna", 0.3)
    metrics.registered_instances("http://c:1", 3)
    metrics.watch_workers(lambda: [WorkerRow("http://w:1", True, 2, 4, 5, "half_open", True, True, "modelserver")])
    metrics.watch_queues(lambda: [QueueRow("vicuna", "llm", 3)])
    metrics.watch_connections(lambda: ConnectionCounts(1, 2, 3, 40, 5))
    return metrics


def several() -> bytes:
    """The page of a gateway with several processes, in which everything was counted once."""
    ledger = Ledger()
    ledger.joined(2**22 + 1, "control", replaces=True)
    ledger.heard(2**22 + 1, asyncio.run(Snapshots(used()).take()))
    return page(ledger.merged())


def labels_by_metric() -> dict[str, set[str]]:
    """The labels of each metric by the name under which Prometheus knows its samples, `le` of histograms included."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(several().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found
