from __future__ import annotations

from proxy.limits import DROPPED_FIELDS_MAX
from proxy.telemetry.rules import Dropped, RuleTable


def totals(table: RuleTable) -> dict[tuple[str, ...], float]:
    """Series that are not nought, by the values of their labels."""
    samples = [sample for one in table.tables() for sample in one.metric().samples if sample.value]
    return {tuple(sample.labels.values()): sample.value for sample in samples}


def test_a_rule_that_came_back_goes_on_where_it_was() -> None:
    """Prometheus sees one counter that grows, whatever rule sets there were; the page sees the last one's part."""
    table = RuleTable(10)
    table.load([("p", "a"), ("p", "b")])
    table.of("p", "a").applied()
    table.load([("p", "b")])
    table.of("p", "b").skipped()
    table.load([("p", "a")])
    assert table.of("p", "a").never_applied
    table.of("p", "a").applied()
    assert (table.of("p", "a").since.applied, table.of("p", "a").total.applied) == (1, 2)
    assert totals(table) == {("p", "a", "applied"): 2, ("p", "b", "skipped"): 1}


def test_the_time_of_the_last_use_outlives_a_reload() -> None:
    """So that a rule that took nothing since can be told from one that never took anything."""
    now = [100.0]
    table = RuleTable(10, lambda: now[0])
    table.load([("p", "a")])
    table.of("p", "a").applied()
    table.load([("p", "a")])
    now[0] = 200.0
    assert (table.of("p", "a").total.used, table.of("p", "a").since.used) == (100.0, None)


def test_the_rules_of_all_times_are_bounded() -> None:
    """However many rules come and go, only so many have series of their own; the others are one."""
    table = RuleTable(2)
    for name in "abcd":
        table.load([("p", name)])
        table.of("p", name).applied()
    assert totals(table) == {("p", "a", "applied"): 1, ("p", "b", "applied"): 1, ("other", "other", "applied"): 2}
    assert table.of("p", "d").since.applied == 1


def test_an_accepted_field_has_its_name_however_many_others_there_are() -> None:
    """A caller who invents names can hide none that the pack knows; and accepted is not lost."""
    table = RuleTable(10)
    rule = table.of("p", "a")
    for number in range(DROPPED_FIELDS_MAX + 7):
        rule.dropped("request", [f"x{number}"], {"user"})
    rule.dropped("request", ["user"], {"user"})
    rule.dropped("answer", ["x"], ())
    found = rule.total.dropped
    assert found[Dropped("request", "user", accepted=True)] == 1
    assert found[Dropped("request", "other", accepted=False)] == 7
    assert found[Dropped("answer", "other", accepted=False)] == 1
    assert len(found) == DROPPED_FIELDS_MAX + 3
    assert rule.since.dropped == found
