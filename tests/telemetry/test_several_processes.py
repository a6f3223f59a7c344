from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.telemetry.cells import NONE, OTHER
from proxy.telemetry.gathered import page, rule_table
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.request import OUTCOMES
from proxy.telemetry.snapshot import parse
from tests.telemetry.several import Numbers, Several, clock, numbers, taken

SLOTS: Final = 3
# Sums of these are exact in any order.
SECONDS: Final = (0.0, 1 / 1024, 0.25, 3.5, 4096.0)
NAMES: Final = ("a", "b", "c", "")


def _request(metrics: Metrics, name: str, seconds: float) -> None:
    bundle = metrics.request(f"route {name}", name)
    bundle.started()
    bundle.first_frame(seconds)
    backend = bundle.backend("server", name)
    backend.started()
    backend.gap(seconds)
    backend.tokens(3, 5, seconds)
    backend.finished("ok", seconds)
    bundle.received(2, 30)
    bundle.tokens(3, 5)
    bundle.finished(OUTCOMES[len(name)], seconds)


def _begun(metrics: Metrics, name: str, seconds: float) -> None:
    metrics.request("route", name).started()
    metrics.request("route", name).spent("queue", seconds)
    metrics.mirrored("route", name).backend("", name).started()


def _rule(metrics: Metrics, name: str, seconds: float) -> None:
    rule = metrics.rules.of("pack", name)
    rule.applied() if seconds else rule.skipped()
    rule.failed("answer")
    rule.dropped("request", [f"field {name} {seconds}"], ())


def _events(metrics: Metrics, name: str, seconds: float) -> None:
    metrics.note("text_shrunk", int(seconds))
    metrics.upstream_error(name, "reset")
    metrics.waited(name, seconds, "left")
    metrics.on_event("retry", reason=f"reason {name}")
    metrics.on_event("breaker", worker=name, state="open")
    metrics.on_event("unheard of")


Act = Callable[[Metrics, str, float], None]
ACTS: Final[tuple[Act, ...]] = (_request, _begun, _rule, _events)

# A slot, what happens there: it counts something, its snapshot comes (None), or it is replaced ("replace").
Step = tuple[int, Act | str | None, str, float]
STEPS: Final = st.lists(
    st.tuples(
        st.integers(0, SLOTS - 1),
        st.sampled_from([*ACTS, *ACTS, None, "replace"]),
        st.sampled_from(NAMES),
        st.sampled_from(SECONDS),
    ),
    max_size=25,
)


def _loaded(several: Several) -> None:
    for metrics in several.metrics.values():
        if not metrics.rules.generation:
            metrics.rules.load([("pack", name) for name in NAMES], 1)


@given(STEPS)
def test_the_sum_is_what_one_process_would_have_counted(steps: list[Step]) -> None:
    """Whoever counted what, and however often processes were heard and replaced meanwhile."""
    several, one = Several(SLOTS), Metrics(clock=clock, wall_clock=clock)
    one.rules.load([("pack", name) for name in NAMES])
    _loaded(several)
    replaced = False
    for slot, act, name, seconds in steps:
        if act is None:
            several.hear(slot)
        elif isinstance(act, str):
            several.hear(slot)
            several.replace(slot)
            _loaded(several)
            replaced = True
        else:
            act(several.metrics[slot], name, seconds)
            act(one, name, seconds)
    merged, expected = several.merged(), parse(taken(one))
    kinds = ("counter", "histogram", "gauge")
    assert _counted(numbers(merged.tables, *kinds[:2])) == numbers(expected.tables, *kinds[:2])
    assert numbers(merged.since, "counter") == numbers(expected.since, "counter")
    assert merged.used == expected.used
    if not replaced:
        assert _counted(numbers(merged.tables, "gauge")) == numbers(expected.tables, "gauge")


def _counted(found: Numbers) -> Numbers:
    return {series: value for series, value in found.items() if not series[0].startswith("gateway_process")}


@given(STEPS, st.integers(1, 3))
@example([(1, _request, "a", 1.0), (1, None, "", 0.0), (0, _request, "b", 1.0), (1, "replace", "", 0.0)], 1)
def test_no_counter_goes_down_and_no_series_goes_away(steps: list[Step], cap: int) -> None:
    """A process may end at any moment, heard or not, and names may be more than have a place."""
    several = Several(SLOTS, cap)
    before: Numbers = {}
    for slot, act, name, seconds in steps:
        if act is None:
            several.hear(slot)
        elif isinstance(act, str):
            several.replace(slot)
        else:
            act(several.metrics[slot], name, seconds)
        now = numbers(several.now().tables, "counter", "histogram")
        assert before.keys() <= now.keys()
        for series, values in before.items():
            assert all(old <= new for old, new in zip(values, now[series], strict=True)), series
        before = now
    _assert_capped(several.merged().tables.get("gateway_requests", {}), cap)


def _assert_capped(keys: object, cap: int) -> None:
    assert isinstance(keys, dict)
    for place in (0, 1):
        assert len({key[place] for key in keys} - {OTHER, NONE}) <= cap


def test_the_page_of_several_is_the_page_of_one() -> None:
    """The same lines: names, help texts, labels, buckets and values; only what the system says of a process differs,
    and what tells of several.
    """
    several, one = Several(SLOTS), Metrics(clock=clock, wall_clock=clock)
    for slot, metrics in several.metrics.items():
        for act in ACTS:
            act(metrics, NAMES[slot], 0.25)
            act(one, NAMES[slot], 0.25)
    several.merged()
    merged, single = page(several.ledger.merged()).decode(), one.render().decode()
    told = [line for line in single.splitlines() if "process_" not in line]
    lines = [line for line in merged.splitlines() if "process_" not in line and "gateway_processes" not in line]
    connections = [line for line in lines if "gateway_upstream_connections" in line]  # `one` was given none to watch
    assert sorted(line for line in lines if line not in connections) == sorted(told)
    comments = [line for line in lines if line.startswith("#") and line not in connections]
    assert comments == [line for line in told if line.startswith("#")]


def test_rules_of_all_processes_show_since_the_last_load() -> None:
    """A reload begins anew although processes load one after another; what old rules still do is in the totals."""
    several = Several(2)
    rules = [("pack", "a"), ("pack", "b")]
    first, second = several.metrics.values()
    for metrics in (first, second):
        metrics.rules.load(rules, 7)
        metrics.rules.of("pack", "a").applied()
    several.merged()
    assert rule_table(several.ledger.merged()).of("pack", "a").since.applied == 2
    first.rules.load(rules, 8)
    first.rules.of("pack", "a").dropped("request", ["x"], {"x"})
    second.rules.of("pack", "a").applied()
    several.merged()
    table = rule_table(several.ledger.merged())
    assert (table.of("pack", "a").never_applied, table.of("pack", "a").total.used) == (True, 1000.0)
    assert list(table.of("pack", "a").since.dropped.values()) == [1]
    assert table.of("pack", "b").never_applied
    second.rules.load(rules, 8)
    for _ in range(2):  # as many as before
        second.rules.of("pack", "a").applied()
    second.rules.of("pack", "b").skipped()
    second.rules.of("pack", "b").failed("answer")
    merged = several.merged()
    table = rule_table(several.ledger.merged())
    assert (table.of("pack", "b").since.skipped, table.of("pack", "b").since.failures["answer"]) == (1, 1)
    assert table.of("pack", "a").since.applied == 2
    assert merged.tables["gateway_rule_matches"]["pack", "a", "applied"] == 5
