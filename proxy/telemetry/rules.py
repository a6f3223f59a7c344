"""What the rules do: taken, passed over, failed, and which fields they drop; in all and since the rules were loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, get_args

from proxy.errors import Side
from proxy.limits import DROPPED_FIELDS_MAX, FIELD_NAME_MAX
from proxy.telemetry.catalog import DROPPED_FIELDS, RULE_FAILURES, RULE_MATCHES
from proxy.telemetry.cells import OTHER
from proxy.telemetry.tables import Key, Table

SIDES: Final[tuple[Side, ...]] = get_args(Side)


class Dropped(NamedTuple):
    """A field that no rule names. accepted: the pack says why it goes nowhere."""

    side: Side
    field: str
    accepted: bool


class RuleCounts:
    """applied: requests that the rule took; skipped: that it was looked at for and did not take; failures: times that
    the rule itself failed, by side; dropped: requests by field; used: when it took the last one, on the wall clock.
    """

    __slots__ = ("applied", "dropped", "failures", "skipped", "used")

    def __init__(self) -> None:
        self.applied = 0
        self.skipped = 0
        self.failures: dict[Side, int] = dict.fromkeys(SIDES, 0)
        self.dropped: dict[Dropped, int] = {}
        self.used: float | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not (self.applied or self.skipped or self.dropped or any(self.failures.values()))


class RuleMetrics:
    """One rule of one rule set. Methods are for the event loop's thread.

    total: since the start, also by earlier rule sets with a rule of this name; since: since this rule set was loaded.
    A request that began with it counts here also when another one has taken its place meanwhile.
    """

    __slots__ = ("_clock", "since", "total")

    def __init__(self, total: RuleCounts, clock: Callable[[], float]) -> None:
        self.total = total
        self.since = RuleCounts()
        self._clock = clock

    @property
    def never_applied(self) -> bool:
        """Whether it took no request since it was loaded."""
        return not self.since.applied

    def applied(self) -> None:
        """It took a request."""
        now = self._clock()
        for counts in (self.total, self.since):
            counts.applied += 1
            counts.used = now

    def skipped(self) -> None:
        """Its path and method fit a request, its headers or its condition did not."""
        self.total.skipped += 1
        self.since.skipped += 1

    def failed(self, side: Side) -> None:
        """An expression or a mapping of it failed on a request, or on what a worker answered."""
        self.total.failures[side] += 1
        self.since.failures[side] += 1

    def dropped(self, side: Side, fields: Iterable[str], accepted: Collection[str]) -> None:
        """These fields of one request go nowhere. Those that the pack accepts always have their name, of the others
        the first ones.
        """
        total, since = self.total.dropped, self.since.dropped
        for field in fields:
            one = Dropped(side, field, field in accepted)
            if one not in total and not one.accepted and (len(total) >= DROPPED_FIELDS_MAX or not _is_name(field)):
                one = Dropped(side, OTHER, accepted=False)
            total[one] = total.get(one, 0) + 1
            since[one] = since.get(one, 0) + 1


class RuleTable:
    """The rules in force, by pack and name, and everything that was ever counted of rules; the totals of more than
    `cap` rules of all times are one, `other`.
    """

    def __init__(self, cap: int, clock: Callable[[], float] = time.time) -> None:
        self._cap = cap
        self._clock = clock
        self._totals: dict[tuple[str, str], RuleCounts] = {}
        self._now: dict[tuple[str, str], RuleMetrics] = {}
        self.generation = 0

    def load(self, rules: Iterable[tuple[str, str]], generation: int | None = None) -> None:
        """Other rules, as (pack, name), are in force from now on. generation: grows with each load, and is the same in
        all processes of a gateway that have the same rules; default: one more.
        """
        self._now = {rule: self._fresh(rule) for rule in rules}
        self.generation = self.generation + 1 if generation is None else generation

    def of(self, pack: str, name: str) -> RuleMetrics:
        """The counters of a rule in force; of another one, such as that of a request from before a reload, what it
        counts is seen in the totals alone.
        """
        rule = pack, name
        return self._now.get(rule) or self._fresh(rule)

    def _fresh(self, rule: tuple[str, str]) -> RuleMetrics:
        if rule not in self._totals and len(self._totals) >= self._cap:
            rule = OTHER, OTHER
        return RuleMetrics(self._totals.setdefault(rule, RuleCounts()), self._clock)

    def tables(self) -> Iterator[Table]:
        """All totals."""
        return rule_tables(self._totals.copy())

    def in_force(self) -> dict[tuple[str, str], RuleMetrics]:
        """The rules in force, by pack and name."""
        return self._now.copy()


def rule_tables(counted: Mapping[tuple[str, str], RuleCounts]) -> Iterator[Table]:
    """The counts of rules, by pack and name."""
    matches: dict[Key, float] = {}
    failures: dict[Key, float] = {}
    dropped: dict[Key, float] = {}
    for rule, counts in counted.items():
        matches.update({(*rule, "applied"): counts.applied, (*rule, "skipped"): counts.skipped})
        failures.update({(*rule, side): count for side, count in counts.failures.items()})
        for one, count in counts.dropped.copy().items():
            pack, route = rule
            dropped[pack, route, one.side, one.field, str(one.accepted).lower()] = count
    yield Table(RULE_MATCHES, matches)
    yield Table(RULE_FAILURES, failures)
    yield Table(DROPPED_FIELDS, dropped)


def _is_name(field: str) -> bool:
    return 0 < len(field) <= FIELD_NAME_MAX and field.isprintable()
