"""Events of the control plane and of the selection of workers: one counter for each kind, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from proxy.telemetry.cells import Labels
from proxy.telemetry.tables import CounterTable, Family, Table

# Results, reasons and states are words of the program, a few for each metric; the bound only catches a mistake.
WORDS_MAX: Final = 40


class _Event(NamedTuple):
    """An event, its counter (without `_total`) with help text and labels, and the series that exist from the start."""

    name: str
    metric: str
    text: str
    labels: tuple[str, ...]
    start: tuple[tuple[str, ...], ...] = ()


_EVENTS: Final = (
    _Event("probe", "gateway_probes", "Health probes of workers, by worker and result.", ("worker", "result")),
    _Event("discovery", "gateway_discovery", "Polls of a controller for workers, by result.", ("controller", "result")),
    _Event(
        "registration",
        "gateway_registrations",
        "Registrations sent, by controller and result.",
        ("controller", "result"),
    ),
    _Event("heartbeat", "gateway_heartbeats", "Heartbeats sent, by controller and result.", ("controller", "result")),
    _Event("selection", "gateway_selections", "Workers chosen for a request, by policy.", ("policy",)),
    _Event(
        "breaker",
        "gateway_worker_breaker_transitions",
        "Changes of a worker's breaker, by worker and new state.",
        ("worker", "state"),
    ),
    _Event(
        "degraded",
        "gateway_worker_degraded_transitions",
        "Times a worker became degraded or was well again, by worker and new state.",
        ("worker", "state"),
    ),
    _Event("retry", "gateway_retries", "Requests sent to another worker after a failure, by reason.", ("reason",)),
    _Event(
        "failover",
        "gateway_failovers",
        "Requests that another worker answered after the first one failed, by model.",
        ("model",),
    ),
    _Event(
        "resumed",
        "gateway_resumed_streams",
        "Streams that lost their worker and were taken up by another, by model and result.",
        ("model", "result"),
    ),
    _Event(
        "split_fallback",
        "gateway_split_fallbacks",
        "Requests whose side of a split had no worker, and which went to another side, by model.",
        ("model",),
    ),
    _Event(
        "mirror_skipped",
        "gateway_mirrors_skipped",
        "Requests that were not copied although their mirror wanted it, by reason.",
        ("reason",),
    ),
    _Event("fallback", "gateway_fallbacks", "Requests that went to the fallback of their model, by model.", ("model",)),
    _Event(
        "keyed_request",
        "gateway_key_requests",
        "Finished requests on routes that want a key, by the key's name and outcome.",
        ("key", "outcome"),
    ),
    _Event(
        "registered_worker",
        "gateway_worker_registrations",
        "Registrations that workers sent to this gateway, by result.",
        ("result",),
    ),
    _Event(
        "rejected_registration",
        "gateway_rejected_registrations",
        "Registrations of workers that this gateway refused, by reason.",
        ("reason",),
    ),
    _Event(
        "reload",
        "gateway_reloads",
        "Reloads of settings and rules, by result.",
        ("result",),
        (("ok",), ("refused",)),
    ),
)


def word_labels(*start: str) -> Labels:
    """Labels for words of the program; those of `start` have their place whatever comes before them."""
    labels = Labels(WORDS_MAX)
    for word in start:
        labels.fold(word)
    return labels


_OTHER: Final = Family("gateway_events", "Events that have no counter of their own, by name.", ("event",))
_FAMILIES: Final = {event.name: Family(event.metric, event.text, event.labels) for event in _EVENTS}
EVENT_FAMILIES: Final = (_OTHER, *_FAMILIES.values())


class EventCounters:
    """The counters of all events. dimensions: the labels that other metrics share, such as worker and model."""

    def __init__(self, dimensions: Mapping[str, Labels]) -> None:
        self._other = CounterTable(_OTHER, {"event": word_labels()})
        self._tables: dict[str, CounterTable] = {}
        for event in _EVENTS:
            labels = {
                label: dimensions.get(label) or word_labels(*[series[place] for series in event.start])
                for place, label in enumerate(event.labels)
            }
            self._tables[event.name] = CounterTable(_FAMILIES[event.name], labels, event.start)

    def count(self, name: str, labels: Mapping[str, object]) -> None:
        """One more event. A label that the counter lacks is left out, one that is not given is "none"."""
        table = self._tables.get(name)
        if table is None:
            self._other.increase(name)
        else:
            table.increase(*[str(labels.get(label, "")) for label in table.labels])

    def forget(self, label: str, value: str) -> None:
        """Drop the series in which this label has this value."""
        for table in self._tables.values():
            if label in table.labels:
                table.forget(label, value)

    def tables(self) -> Iterator[Table]:
        yield self._other.table()
        for table in self._tables.values():
            yield table.table()
