"""The page and the rules' counts of all processes together, as `Metrics` has them for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.errors import Side
from proxy.telemetry.catalog import CATALOG, DROPPED_FIELDS, PROCESS_FAMILIES, RULE_FAILURES, RULE_MATCHES
from proxy.telemetry.cells import HistogramCell
from proxy.telemetry.rules import SIDES, Dropped, RuleTable
from proxy.telemetry.snapshot import Document, parse
from proxy.telemetry.tables import Table

_SIDES: Final[dict[str, Side]] = {side: side for side in SIDES}


def page(merged: bytes) -> bytes:
    """Text format 0.0.4, as `Metrics.render`, of the bytes of `Ledger.merged`. SnapshotError where they are none."""
    document = parse(merged)
    registry = CollectorRegistry()
    PlatformCollector(registry=registry)
    registry.register(_Sums(document))
    return generate_latest(registry)


class _Sums(Collector):
    def __init__(self, document: Document) -> None:
        self._document = document

    def collect(self) -> Iterator[Metric]:
        for family in CATALOG:
            series = self._document.tables.get(family.name, {})
            if series or family not in PROCESS_FAMILIES:  # not every system tells them
                yield Table(family, series).metric()


def rule_table(merged: bytes) -> RuleTable:
    """The counts of the rules in force since they were loaded, and when they took their last requests.

    SnapshotError for bytes that `Ledger.merged` did not make.
    """
    document = parse(merged)
    counted = [key for series in document.since.values() for key in series]
    rules = {(pack, name) for pack, name, *_ in [*counted, *document.used]}
    table = RuleTable(len(rules))
    table.load(rules, document.generation)
    for family in (RULE_MATCHES, RULE_FAILURES, DROPPED_FIELDS):
        for (pack, name, *labels), count in document.since.get(family.name, {}).items():
            if not isinstance(count, HistogramCell):
                _count(table, (pack, name), labels, int(count))
    for pack, name in rules:
        table.of(pack, name).total.used = document.used.get((pack, name))
    return table


def _count(table: RuleTable, rule: tuple[str, str], labels: list[str], count: int) -> None:
    since = table.of(*rule).since
    match labels:
        case ["applied"]:
            since.applied = count
        case ["skipped"]:
            since.skipped = count
        case [word]:
            since.failures[_SIDES[word]] = count
        case [word, field, accepted]:
            since.dropped[Dropped(_SIDES[word], field, accepted == "true")] = count


class Gathered:
    """What the operator's pages show of all processes. ask: the bytes of `Ledger.merged`, as fresh as can be had."""

    def __init__(self, ask: Callable[[], Awaitable[bytes]]) -> None:
        self._ask = ask
        self._scraping = asyncio.Lock()

    async def scrape(self) -> bytes:
        """The page, rendered in another thread; one at a time."""
        async with self._scraping:
            return await asyncio.to_thread(page, await self._ask())

    async def rules(self) -> RuleTable:
        """The counts of the rules."""
        return await asyncio.to_thread(rule_table, await self._ask())
