"""The counts of all processes of one gateway, those that ended included: what is added up, and what falls away.

How several processes show one page, with no socket in here:

- Each process has its `Metrics`, and `Snapshots(metrics)` (proxy/telemetry/snapshot.py). About once a second it sends
  what `await snapshots.changed()` gives, unless that is None, to the process that has the `Ledger`; asked for fresh
  numbers, it sends `await snapshots.take()`. Where `Metrics.rules.load` is called, all processes give the same
  `generation`, a number that grows with each reload. The process with the fleet says by `settled` when it knows it.
- The process that starts the others has the ledger: `joined` at each fork, `heard` for each snapshot (SnapshotError for
  bytes that are none: log it, nothing has changed), `retire` when one ended, before it is waited for. `merged()` is the
  sum as bytes, a snapshot itself.
- The process with the operator's page has `Gathered(ask)` (proxy/telemetry/gathered.py) in place of `Metrics` for
  `admin_app`, and its `rules` for `Operations`. `ask` is awaited at each scrape: let it send this process' own snapshot
  first, have the others asked, wait for a bounded time, and return `merged()`.

A ledger adds what came since a process' last snapshot, and keeps no sum for each process. So no counter of the whole
goes down, in whatever order processes come, go and forget, and a label that has its name keeps it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Literal, get_args

from prometheus_client import ProcessCollector

from proxy.limits import LABEL_VALUES_MAX
from proxy.telemetry.catalog import BY_NAME, CATALOG, IN_FLIGHT, PROCESS_FAMILIES, PROCESSES, REPLACEMENTS
from proxy.telemetry.cells import HistogramCell
from proxy.telemetry.folds import Folds
from proxy.telemetry.snapshot import Document, Known, dump, parse
from proxy.telemetry.tables import Family, Key, Series

Role = Literal["supervisor", "control", "serving"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

Tables = Mapping[str, Mapping[Key, Series]]
_Sums = dict[str, dict[Key, Series]]
_NOTHING: Final = Document({})


def process_tables(pid: int) -> Tables:
    """What the system says of one process; nothing where it does not say it, or not any more."""
    found = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {metric.name: {(): metric.samples[0].value} for metric in found}


class Ledger:
    """What all processes count together. Each is known by its pid; the one that has the ledger is `own`.

    read: what the system says of a process, as `process_tables`.
    """

    def __init__(
        self,
        label_cap: int = LABEL_VALUES_MAX,
        *,
        own: int | None = None,
        read: Callable[[int], Tables] = process_tables,
    ) -> None:
        self._read = read
        self._folds = Folds(label_cap)
        self._sums: _Sums = {}
        self._roles: dict[int, Role] = {os.getpid() if own is None else own: "supervisor"}
        self._last: dict[int, Document] = {}
        self._systems: dict[int, Tables] = {}
        self._replaced: Counter[Role] = Counter()
        self._generation = 0
        self._since: _Sums = {}
        self._used: dict[Key, float] = {}
        self._known = Known(frozenset(), frozenset())
        self._absent: set[str] = set()

    def joined(self, pid: int, role: Role, *, replaces: bool = False) -> None:
        """A process has begun. replaces: it takes the place of one that ended without being asked to."""
        self._roles[pid] = role
        self._replaced[role] += replaces

    def heard(self, pid: int, data: bytes) -> None:
        """A snapshot of a process. SnapshotError where it is none; then nothing has changed.

        KeyError for a process that has not joined, or was retired.
        """
        role = self._roles[pid]
        document = parse(data)
        last = self._last.get(pid, _NOTHING)
        self._add(self._sums, document.tables, last.tables)
        self._add_rules(document, last)
        self._last[pid] = document
        if role == "control" and document.known is not None:
            self._forget(document.known)

    def retire(self, pid: int) -> None:
        """A process ended: what it counted stays, its gauges fall away."""
        self._look(pid)
        for each in (self._roles, self._last, self._systems):
            each.pop(pid, None)

    def merged(self) -> bytes:
        """Everything, as the snapshot of a single process that had seen it all."""
        for pid in self._roles:
            self._look(pid)
        tables: _Sums = {family.name: self._gauges(family) for family in CATALOG if family.kind == "gauge"}
        roles = Counter(self._roles.values())
        tables[PROCESSES.name] = {(role,): roles[role] for role in ROLES}
        tables[REPLACEMENTS.name] = {(role,): self._replaced[role] for role in ROLES if role != "supervisor"}
        return dump(Document({**self._sums, **tables}, self._generation, self._since, self._used))

    # --- counters and histograms -------------------------------------------------------------------------------------

    def _add(self, sums: _Sums, tables: Tables, before: Tables) -> None:
        for name, series in tables.items():
            family = BY_NAME[name]
            if family.kind == "gauge":
                continue
            earlier = before.get(name, {})
            for key, now in series.items():
                more = _since(now, earlier.get(key))
                if more is not None:
                    _take(sums.setdefault(name, {}), self._folds.fold(family, key), more)

    def _add_rules(self, document: Document, last: Document) -> None:
        """What old rules still do after a reload is in the totals alone."""
        if document.generation > self._generation:
            self._generation, self._since, self._used = document.generation, {}, {}
        if document.generation == self._generation:
            self._add(self._since, document.since, last.since if last.generation == document.generation else {})
            for key, when in document.used.items():
                self._used[key] = max(when, self._used.get(key, 0.0))

    def _look(self, pid: int) -> None:
        now = self._read(pid)
        if now:
            self._add(self._sums, now, self._systems.get(pid, {}))
            self._systems[pid] = now

    # --- gauges ------------------------------------------------------------------------------------------------------

    def _gauges(self, family: Family) -> dict[Key, Series]:
        if family in PROCESS_FAMILIES:
            sources = list(self._systems.values())
        else:
            control = family.combine == "control"
            sources = [each.tables for pid, each in self._last.items() if not control or self._roles[pid] == "control"]
        combined: dict[Key, Series] = {}
        for tables in sources:
            for key, value in tables.get(family.name, {}).items():
                if isinstance(value, HistogramCell):
                    continue
                folded = key if family.combine == "control" else self._folds.shown(family, key, value)
                if folded is not None:
                    combined[folded] = _combined(family, combined.get(folded), value)
        return combined

    # --- what is gone ------------------------------------------------------------------------------------------------

    def _forget(self, known: Known) -> None:
        """Drop the series of what left the fleet, as `Metrics.forget_worker` and `forget_models` do.

        A process may count for a new model before the one with the fleet has told of it here: what was never known is
        dropped when it is absent twice.
        """
        running = {
            key[1]
            for each in self._last.values()
            for key, count in each.tables.get(IN_FLIGHT.name, {}).items()
            if not isinstance(count, HistogramCell) and count > 0
        }
        absent = set(self._folds.names("model")) - known.models - running
        for model in absent & (self._known.models | self._absent):
            self._drop("model", model)
            absent.discard(model)
        for worker in self._known.workers - known.workers:
            self._drop("worker", worker)
        self._absent, self._known = absent, known

    def _drop(self, label: Literal["model", "worker"], value: str) -> None:
        self._folds.forget(label, value)
        for name, series in self._sums.items():
            labels = BY_NAME[name].labels
            if label in labels:
                place = labels.index(label)
                for key in [key for key in series if key[place] == value]:
                    del series[key]


def _since(now: Series, before: Series | None) -> Series | None:
    """What was counted since `before`; None where nothing was. A smaller number has lost what was forgotten of it."""
    if isinstance(now, HistogramCell) and isinstance(before, HistogramCell):
        if now.counts == before.counts:
            return None
        counts = [new - old for new, old in zip(now.counts, before.counts, strict=True)]
        if min(counts) < 0:
            return None
        more = HistogramCell(now.bounds)
        more.counts, more.total = counts, max(0.0, now.total - before.total)
        return more
    if isinstance(now, HistogramCell) or isinstance(before, HistogramCell) or before is None:
        return now
    return now - before if now > before else None


def _take(sums: dict[Key, Series], key: Key, more: Series) -> None:
    found = sums.get(key)
    if isinstance(more, HistogramCell):
        if not isinstance(found, HistogramCell):
            found = sums[key] = HistogramCell(more.bounds)
        found.take(more)
    else:
        sums[key] = more if found is None or isinstance(found, HistogramCell) else found + more


def _combined(family: Family, found: Series | None, value: float) -> float:
    if found is None or isinstance(found, HistogramCell):
        return value
    if family.combine == "max":
        return max(found, value)
    return min(found, value) if family.combine == "min" else found + value
