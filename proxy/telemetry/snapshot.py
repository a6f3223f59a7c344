"""The counts of one process as bytes, for the sum of several: made in each process, read where they are added up.

JSON of one object: `format`; `tables`: by the name of a family its series, as [labels, value] or, of histograms,
[labels, counts, sum]; `rules`: the rules in force since their load, by `generation`; `known`: what the fleet has now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Final, NamedTuple

import orjson

from proxy.telemetry.catalog import BY_NAME, RULE_FAMILIES
from proxy.telemetry.cells import HistogramCell
from proxy.telemetry.metrics import Metrics, Sample
from proxy.telemetry.rules import SIDES, rule_tables
from proxy.telemetry.tables import Family, Key, Series
from proxy.types import Json

FORMAT: Final = 1
# With more pairs of route and model the reading takes more than half a millisecond, so that another thread does it.
_REQUESTS_AT_ONCE: Final = 24

# Sums of such numbers still are exact in JSON.
_NUMBER_MAX: Final = 2**62

_RULE_NAMES: Final = {family.name for family in RULE_FAMILIES}
_RULE_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "result": ("applied", "skipped"),
    "side": SIDES,
    "accepted": ("true", "false"),
}


class SnapshotError(ValueError):
    """Bytes that are no snapshot; the message says what was found where, and what was expected."""


class Known(NamedTuple):
    """The fleet's models and the addresses of its workers; the series of others are dropped."""

    models: frozenset[str]
    workers: frozenset[str]


class Document(NamedTuple):
    """A snapshot. tables: series by the family's name; since: the same of the rules in force since they were loaded;
    used: when each rule, by pack and name, took its last request, in seconds since 1970; known: None where the fleet is
    not known yet, or not to this process.
    """

    tables: Mapping[str, Mapping[Key, Series]]
    generation: int = 0
    since: Mapping[str, Mapping[Key, Series]] = {}
    used: Mapping[Key, float] = {}
    known: Known | None = None


class Snapshots:
    """The snapshots of one process. settled: whether the fleet that its metrics read is whole. Where it is not yet, as
    in a process that has just begun, nothing is forgotten because it is not there.

    One is made at a time. Send each at once: an older one that arrives after a newer one would be counted twice.
    """

    def __init__(self, metrics: Metrics, settled: Callable[[], bool] = lambda: True) -> None:
        self._metrics, self._settled = metrics, settled
        self._last = b""
        self._taking = asyncio.Lock()

    async def take(self) -> bytes:
        """Everything now."""
        async with self._taking:
            return await self._take()

    async def changed(self) -> bytes | None:
        """Everything now; None where that is what the last one said."""
        async with self._taking:
            before = self._last
            now = await self._take()
        return None if now == before else now

    async def _take(self) -> bytes:
        sample = self._metrics.sample()
        known = self._known(sample)
        if self._metrics.size <= _REQUESTS_AT_ONCE:
            self._last = dump(self._document(sample, known))
        else:
            self._last = await asyncio.to_thread(lambda: dump(self._document(sample, known)))
        return self._last

    def _known(self, sample: Sample) -> Known | None:
        models = self._metrics.models_known
        if models is None or not self._settled():
            return None
        return Known(models, frozenset(row.worker for row in sample.workers))

    def _document(self, sample: Sample, known: Known | None) -> Document:
        rules = self._metrics.rules
        in_force = rules.in_force()
        since = {key: one.since for key, one in in_force.items() if not one.since.empty}
        return Document(
            {table.family.name: table.series for table in self._metrics.tables(sample)},
            rules.generation,
            {table.family.name: table.series for table in rule_tables(since)},
            {key: one.total.used for key, one in in_force.items() if one.total.used is not None},
            known,
        )


def dump(document: Document) -> bytes:
    """The bytes of a document; histograms may be written meanwhile by another thread."""
    known = document.known
    return orjson.dumps(
        {
            "format": FORMAT,
            "tables": _fragments(document.tables),
            "rules": {
                "generation": document.generation,
                "since": _fragments(document.since),
                "used": list(document.used.items()),
            },
            "known": None if known is None else {"models": [*known.models], "workers": [*known.workers]},
        }
    )


def _fragments(tables: Mapping[str, Mapping[Key, Series]]) -> dict[str, orjson.Fragment]:
    """One table at a time, so that no step of another thread has to wait for all of them."""
    return {name: orjson.Fragment(orjson.dumps(_rows(series))) for name, series in tables.items() if series}


def _rows(series: Mapping[Key, Series]) -> list[tuple[object, ...]]:
    return [
        (key, each.counts, each.total) if isinstance(each, HistogramCell) else (key, each)
        for key, each in series.items()
    ]


def parse(data: bytes) -> Document:
    """What `dump` made. SnapshotError where it did not."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise SnapshotError(f"a snapshot of metrics is not JSON: {error}") from None
    whole = _object(found, "a snapshot", {"format", "tables", "rules", "known"})
    if whole["format"] != FORMAT:
        raise SnapshotError(f"a snapshot has the format {whole['format']!r:.40}, expected {FORMAT}")
    rules = _object(whole["rules"], "rules", {"generation", "since", "used"})
    if type(rules["generation"]) is not int or rules["generation"] < 0:
        raise SnapshotError("rules: generation is no count")
    since = _tables(rules["since"], "rules.since")
    if not since.keys() <= _RULE_NAMES:
        raise SnapshotError("rules.since has metrics that are not about rules")
    used = _series(_Used, rules["used"], "rules.used")
    return Document(
        _tables(whole["tables"], "tables"),
        rules["generation"],
        since,
        {key: when for key, when in used.items() if not isinstance(when, HistogramCell)},
        _known(whole["known"]),
    )


_Used: Final = Family("used", "", ("pack", "route"))


def _object(found: Json, where: str, names: set[str]) -> dict[str, Json]:
    if not isinstance(found, dict) or found.keys() != names:
        raise SnapshotError(f"{where}: expected an object of {', '.join(sorted(names))}")
    return found


def _list(found: Json, where: str) -> list[Json]:
    if not isinstance(found, list):
        raise SnapshotError(f"{where}: expected a list, found {type(found).__name__}")
    return found


def _known(found: Json) -> Known | None:
    if found is None:
        return None
    known = _object(found, "known", {"models", "workers"})
    return Known(
        frozenset(_texts(known["models"], "known.models")), frozenset(_texts(known["workers"], "known.workers"))
    )


def _texts(found: Json, where: str) -> Key:
    texts = _list(found, where)
    if not all(isinstance(text, str) for text in texts):
        raise SnapshotError(f"{where}: expected texts")
    return tuple(str(text) for text in texts)


def _tables(found: Json, where: str) -> dict[str, dict[Key, Series]]:
    if not isinstance(found, dict):
        raise SnapshotError(f"{where}: expected an object by names of metrics")
    unknown = found.keys() - BY_NAME.keys()
    if unknown:
        raise SnapshotError(f"{where}: there is no metric {min(unknown)[:80]!r}")
    return {name: _series(BY_NAME[name], rows, f"{where}.{name}") for name, rows in found.items()}


def _series(family: Family, found: Json, where: str) -> dict[Key, Series]:
    series: dict[Key, Series] = {}
    for row in _list(found, where):
        parts = _list(row, where)
        if len(parts) != (3 if family.kind == "histogram" else 2):
            raise SnapshotError(f"{where}: a series has {len(parts)} parts")
        key = _texts(parts[0], where)
        if len(key) != len(family.labels) or key in series:
            raise SnapshotError(f"{where}: {key!r:.80} are not the labels {', '.join(family.labels)} of one series")
        if family in RULE_FAMILIES:
            _check_words(family, key, where)
        value = _number(parts[-1], family, where)
        series[key] = value if family.kind != "histogram" else _cell(family, _list(parts[1], where), value, where)
    return series


def _check_words(family: Family, key: Key, where: str) -> None:
    for label, word in zip(family.labels, key, strict=True):
        words = _RULE_WORDS.get(label, (word,))
        if word not in words:
            raise SnapshotError(f"{where}: {label} is {word[:40]!r}, expected {', '.join(words)}")


def _number(found: Json, family: Family, where: str) -> float:
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not isfinite(found):
        raise SnapshotError(f"{where}: expected a number, found {found!r:.40}")
    if family.kind != "gauge" and not 0 <= found < _NUMBER_MAX:
        raise SnapshotError(f"{where}: {found} is no count")
    return found


def _cell(family: Family, counts: list[Json], total: float, where: str) -> HistogramCell:
    cell = HistogramCell(family.bounds)
    if len(counts) != len(cell.counts):
        raise SnapshotError(f"{where}: {len(counts)} buckets, expected {len(cell.counts)}")
    numbers = [count for count in counts if type(count) is int]
    if len(numbers) != len(counts) or min(numbers) < 0 or max(numbers) >= _NUMBER_MAX:
        raise SnapshotError(f"{where}: a bucket is no count")
    cell.counts, cell.total = numbers, total
    return cell
