from __future__ import annotations

from prometheus_client.core import HistogramMetricFamily

from proxy.telemetry.cells import HistogramCell, Labels


def test_values_past_the_cap_are_other_and_earlier_ones_keep_their_name() -> None:
    """A flood of values cannot make more series than the cap, nor take the names of those that came first."""
    labels = Labels(2)
    assert [labels.fold(value) for value in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]


def test_a_value_outside_the_closed_set_is_other() -> None:
    """Once the set is closed a made-up value has no series, and one that was known before it has none either."""
    labels = Labels(10)
    labels.fold("old")
    labels.close(["new"])
    assert [labels.fold(value) for value in ("old", "new", "made up")] == ["other", "new", "other"]


def test_empty_and_oversized_values_have_a_name() -> None:
    """An empty label would vanish in Prometheus, and a very long one would fill it."""
    labels = Labels(10)
    assert labels.fold("") == "none"
    assert labels.fold("x" * 257) == "other"


def test_a_forgotten_value_gives_its_place_to_another() -> None:
    """Workers that come and go all their life do not use up the cap."""
    labels = Labels(1)
    labels.fold("a")
    labels.forget("a")
    assert labels.fold("b") == "b"


def test_an_observation_on_a_bound_belongs_to_it() -> None:
    """Bounds are inclusive, buckets are cumulative, and what is above the last bound is only in +Inf."""
    cell = HistogramCell((0.1, 1.0))
    for value in (0.1, 0.10001, 1.0, 7.0):
        cell.observe(value)
    family = HistogramMetricFamily("gateway_test_seconds", "A test.", labels=[])
    cell.add_to(family, [])
    assert [(sample.labels.get("le"), sample.value) for sample in family.samples[:3]] == [
        ("0.1", 1),
        ("1.0", 3),
        ("+Inf", 4),
    ]
    assert cell.total == 0.1 + 0.10001 + 1.0 + 7.0
