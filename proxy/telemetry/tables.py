"""Metrics between the cells and the page: what a family is, and the series that it has now.

A page, a snapshot for another process and the sum of several processes are made of the same tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from proxy.telemetry.cells import HistogramCell, Labels

# The values of a series' labels, in the order of its family's labels.
Key = tuple[str, ...]
Series = float | HistogramCell

FamilyKind = Literal["counter", "gauge", "histogram"]

# How the gauge of a whole gateway is made of those of its processes. Counters and histograms add up.
Combine = Literal[
    "sum",  # each process has its part
    "control",  # only the process that owns the fleet knows it
    "max",  # the process that is worst off
    "min",
]


class Family(NamedTuple):
    """A metric. name: a counter's is without `_total`; bounds: the upper bounds of a histogram's buckets, without +Inf;
    combine: of gauges.
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()
    kind: FamilyKind = "counter"
    combine: Combine = "sum"
    bounds: tuple[float, ...] = ()


class Table(NamedTuple):
    """A family's series now. The cells of histograms may be those that are written meanwhile."""

    family: Family
    series: Mapping[Key, Series]

    def metric(self) -> Metric:
        """What the client library renders."""
        family, series = self.family, self.series
        if family.kind == "histogram":
            histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
            for key, cell in series.items():
                if isinstance(cell, HistogramCell):
                    cell.add_to(histogram, key)
            return histogram
        made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        numbers: CounterMetricFamily | GaugeMetricFamily = made(family.name, family.text, labels=family.labels)
        for key, value in series.items():
            if not isinstance(value, HistogramCell):
                numbers.add_metric(key, value)
        return numbers


class CounterTable:
    """One counter with labels, each folded by its own `Labels`; the label sets of `start` exist at nought."""

    def __init__(self, family: Family, labels: Mapping[str, Labels], start: Iterable[Key] = ()) -> None:
        self.family = family
        self._labels = [labels[name] for name in family.labels]
        self._counts: dict[Key, float] = dict.fromkeys(start, 0.0)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.family.labels

    def increase(self, *values: str, by: float = 1.0) -> None:
        counts = self._counts
        if values in counts:  # as nearly always: its labels were folded when it was new
            counts[values] += by
            return
        key = tuple(labels.fold(value) for labels, value in zip(self._labels, values, strict=True))
        counts[key] = counts.get(key, 0.0) + by

    def forget(self, label: str, value: str) -> None:
        """Drop every series whose `label` has this value."""
        place = self.family.labels.index(label)
        for key in [key for key in self._counts if key[place] == value]:
            del self._counts[key]

    def table(self) -> Table:
        return Table(self.family, self._counts.copy())
