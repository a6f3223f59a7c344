"""Several processes that count, and what their ledger says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from proxy.telemetry.catalog import BY_NAME
from proxy.telemetry.cells import HistogramCell
from proxy.telemetry.ledger import Ledger, Role, Tables
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.snapshot import Document, Snapshots, parse
from proxy.telemetry.tables import Key

OWN = 1

Numbers = dict[tuple[str, Key], tuple[float, ...]]


def nothing(_: int) -> Tables:
    return {}


def clock() -> float:
    return 1000.0


def taken(metrics: Metrics, *, settled: bool = True) -> bytes:
    return asyncio.run(Snapshots(metrics, lambda: settled).take())


def numbers(tables: Tables, *kinds: str) -> Numbers:
    """Each series of these kinds; of a histogram its buckets and sum."""
    return {
        (name, key): (*each.counts, each.total) if isinstance(each, HistogramCell) else (each,)
        for name, series in tables.items()
        if BY_NAME[name].kind in kinds
        for key, each in series.items()
    }


class Several:
    """A ledger and processes by slot: 0 is the one with the fleet."""

    def __init__(self, count: int, cap: int = 500) -> None:
        self.cap = cap
        self.ledger = Ledger(cap, own=OWN, read=nothing)
        self.pids: dict[int, int] = {}
        self.metrics: dict[int, Metrics] = {}
        self._last_pid = OWN
        for slot in range(count):
            self._begin(slot, replaces=False)

    def _begin(self, slot: int, *, replaces: bool) -> None:
        self._last_pid += 1
        role: Role = "serving" if slot else "control"
        self.pids[slot], self.metrics[slot] = self._last_pid, Metrics(label_cap=self.cap, clock=clock, wall_clock=clock)
        self.ledger.joined(self._last_pid, role, replaces=replaces)

    def hear(self, slot: int, *, settled: bool = True) -> None:
        self.ledger.heard(self.pids[slot], taken(self.metrics[slot], settled=settled))

    def replace(self, slot: int) -> None:
        """What was not heard is lost."""
        self.ledger.retire(self.pids[slot])
        self._begin(slot, replaces=True)

    def merged(self) -> Document:
        for slot in self.metrics:
            self.hear(slot)
        return self.now()

    def now(self) -> Document:
        return parse(self.ledger.merged())


def value(document: Document, name: str, *key: str) -> object:
    series: Mapping[Key, object] = document.tables.get(name, {})
    return series.get(key)
