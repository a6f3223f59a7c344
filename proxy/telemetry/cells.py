"""The numbers behind the metrics: plain cells that the event loop writes without a lock and a scrape copies.

One thread writes (the event loop's); any thread may read. A reader copies each table in one step first, so that it
never walks a table that grows under it. The client library's own histogram takes two locks for each observation, too
much for a call that is made once for each read from a socket.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf, isinf
from operator import add
from typing import Final

from prometheus_client.core import HistogramMetricFamily

OTHER: Final = "other"
NONE: Final = "none"
# A longer label value is a mistake or an attack, not a name somebody chose.
LABEL_LENGTH_MAX: Final = 256


class Labels:
    """The values that one label may take: at most `cap` different ones, and only those of a closed set if there is one.

    Anything else is `"other"`; an empty value is `"none"`, because an empty label means no label to Prometheus.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._known: set[str] = set()
        self._closed: frozenset[str] | None = None

    def close(self, values: Iterable[str]) -> None:
        """From now on only these values pass (still up to the cap); replaces an earlier set."""
        self._closed = frozenset(values)

    def known(self) -> list[str]:
        """The values that have a place of their own."""
        return list(self._known)

    def forget(self, value: str) -> None:
        """Give the value's place back, for things that come and go."""
        self._known.discard(value)

    def fold(self, value: str) -> str:
        if value in self._known and self._closed is None:
            return value
        if not value:
            return NONE
        if self._closed is not None and value not in self._closed:
            return OTHER
        if value in self._known:
            return value
        if len(self._known) >= self._cap or len(value) > LABEL_LENGTH_MAX:
            return OTHER
        self._known.add(value)
        return value


class HistogramCell:
    """Observations of one histogram with one set of labels; `counts` has one entry more than `bounds`, for +Inf."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def empty(self) -> bool:
        return not any(self.counts)

    def take(self, other: HistogramCell) -> None:
        """Add what another cell with the same bounds has."""
        self.counts = list(map(add, self.counts, other.counts))
        self.total += other.total

    @classmethod
    def summed(cls, bounds: Sequence[float], cells: Iterable[HistogramCell]) -> HistogramCell:
        """One for all that are not empty: a single one itself, a sum of several."""
        used = [cell for cell in cells if not cell.empty]
        if len(used) == 1:
            return used[0]
        total = cls(bounds)
        for cell in used:
            total.take(cell)
        return total

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        buckets: list[tuple[str, float]] = []
        running = 0
        counts = self.counts.copy()
        for bound, count in zip((*self.bounds, inf), counts, strict=True):
            running += count
            buckets.append(("+Inf" if isinf(bound) else repr(bound), running))
        family.add_metric(labels, buckets, self.total)
