"""What operators see: the state of the fleet, the models and the rules as JSON documents. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from proxy.fleet.facts import Kind, WorkerView
from proxy.fleet.rules import FleetRules
from proxy.fleet.table import Fleet
from proxy.reload import utc
from proxy.ruleset import RuleSet
from proxy.telemetry.log import escape
from proxy.telemetry.rules import RuleMetrics, RuleTable
from proxy.types import Json, JsonObject

# A page for people shows so many names; the documents have all.
_NAMES_SHOWN = 20
_NAME_CHARS = 80


def names_for_people(names: Iterable[str]) -> str:
    """Names that a worker chose in one line of text: nothing that does not print, none longer than a line."""
    all_names = list(names)
    more = len(all_names) - _NAMES_SHOWN
    shown = [escape(name, _NAME_CHARS) for name in all_names[:_NAMES_SHOWN]]
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)


def worker_document(view: WorkerView, now: float, sources: Iterable[str], backend: str) -> JsonObject:
    """One worker; times in seconds. backend: "" for one that nobody watches any more."""
    return {
        "id": view.id,
        "address": view.address,
        "backend": backend or None,
        "up": view.up,
        "reason": view.reason or None,
        "for_seconds": round(now - view.since, 1),
        "models": [{"model": facts.model, "kinds": [*sorted(facts.kinds)]} for facts in view.models],
        "in_flight": view.in_flight,
        "limit": view.limit,
        "queue_length": view.queue_length,
        "foreign": view.foreign,
        "speed": view.speed,
        "breaker": view.breaker,
        "degraded": view.degraded or None,
        "drained": view.drained,
        "sources": [*sources],
        "outcomes": {str(outcome): count for outcome, count in view.outcomes.items()},
    }


def model_documents(
    fleet: Fleet,
    rules: FleetRules,
    names: Mapping[str, str],
    aliases: Callable[[str], list[str]],
    in_service: Callable[[str, Kind], bool],
) -> list[Json]:
    """Each model and kind that was ever seen. names: the fleet's own name to the one under which clients know it."""
    waiting = {(row.model, row.kind): row.waiting for row in fleet.queues()}
    documents: list[Json] = []
    for row in fleet.models():
        called: list[Json] = [*aliases(row.model)]
        documents.append(
            {
                "model": row.model,
                "name": names.get(row.model),
                "kind": row.kind,
                "answerable": row.answerable and in_service(row.model, row.kind),
                "in_service": in_service(row.model, row.kind),
                "workers": row.workers,
                "aliases": called,
                "fallback": rules.of(row.model).fallback,
                "waiting": waiting.get((row.model, row.kind), 0),
            }
        )
    return documents


def rules_summary(rules: RuleSet, counted: RuleTable) -> JsonObject:
    """What the rules did since they were loaded. never_applied: routes that took no request; failures: times that a
    rule failed itself; dropped_fields: fields that went nowhere, without those that the packs accept.
    """
    since = [counted.of(*rule).since for rule in rules.names]
    return {
        "never_applied": sum(not counts.applied for counts in since[: len(rules.table.routes)]),
        "failures": sum(sum(counts.failures.values()) for counts in since),
        "dropped_fields": sum(not one.accepted for counts in since for one in counts.dropped),
    }


def rules_document(
    rules: RuleSet, counted: RuleTable, loaded_at: str, last_reload: JsonObject | None, *, never: bool | None
) -> JsonObject:
    """Packs, routes and operations of backends with their places and what they did since they were loaded, and how the
    last reload ended. never: only those that took no request since then (True), or only the others (False).
    """
    routes: list[Json] = []
    for route in [*rules.table.routes, *rules.beside]:
        counts = counted.of(route.pack, route.name)
        if never in {None, counts.never_applied}:
            said: JsonObject = {"route": route.name, "pack": route.pack, "methods": [*route.methods]}
            routes.append({**said, "path": route.path, "place": route.place, **_rule_counts(counts)})
    operations: list[Json] = []
    for asking in rules.askings:
        counts = counted.of(asking.pack, asking.name)
        if never in {None, counts.never_applied}:
            said = {"backend": asking.backend, "operation": asking.operation, "name": asking.name}
            operations.append({**said, "place": asking.place, **_rule_counts(counts)})
    packs: list[Json] = [*rules.packs]
    return {
        "packs": packs,
        "routes": routes,
        "operations": operations,
        "tests": len(rules.tests),
        "loaded_at": loaded_at,
        "last_reload": last_reload,
    }


def _rule_counts(counted: RuleMetrics) -> JsonObject:
    since, used = counted.since, counted.total.used
    failures: JsonObject = {side: count for side, count in since.failures.items() if count}
    dropped: list[Json] = [
        {"side": one.side, "field": one.field, "accepted": one.accepted, "requests": count}
        for one, count in sorted(since.dropped.items(), key=lambda item: (item[0].accepted, -item[1], item[0]))
    ]
    return {
        "never_applied": counted.never_applied,
        "applied": since.applied,
        "skipped": since.skipped,
        "failures": failures,
        "last_applied": None if used is None else utc(used),
        "dropped": dropped,
    }
