"""A worker that keeps failing is left alone for a while, then tried with one request."""

from __future__ import annotations

from collections import deque
from typing import Final

from proxy.fleet.facts import BreakerState, Outcome
from proxy.fleet.rules import BreakerRules

# The share of failures is that of the last twenty outcomes, and says nothing before there are ten.
_WINDOW: Final = 20
_WINDOW_LEAST: Final = 10


class Breaker:
    """One worker's. `begin` gives a number to hand to `end`: it tells a trial, and requests from before an opening.

    closed: requests go there. open: none, until `open_seconds` have gone by. half_open: one at a time, whose success
    closes and whose failure opens for twice as long. A neutral outcome changes nothing, but another trial may begin,
    as it may when the trial has gone on for as long as it was open: a long answer is no reason to stay away. The first
    of several trials that fails opens it, however many began after that one.
    """

    __slots__ = ("_failures", "_first", "_latest", "_number", "_open_for", "_recent", "_trials", "_until", "state")

    def __init__(self) -> None:
        self.state: BreakerState = "closed"
        self._failures = 0  # in a row
        self._recent: deque[bool] = deque(maxlen=_WINDOW)  # True: a failure
        self._number = 0
        self._first = 0  # smaller numbers began before the last opening and say nothing about now
        self._trials: set[int] = set()  # the numbers of those under way since the last opening
        self._latest = -1  # the one of them that began last
        self._until = 0.0  # when the next trial may begin
        self._open_for = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may go there now."""
        if self.state == "closed":
            return True
        return now >= self._until

    def begin(self, now: float) -> int:
        """A request goes there: as a trial where `admits` says so and it is not closed, else as a last resort."""
        if self.state == "closed":
            return self._number
        self._number += 1
        if self.admits(now):
            self._latest = self._number
            self._trials.add(self._number)
            self._until = now + self._open_for
            self.state = "half_open"
        return self._number

    def end(self, number: int, outcome: Outcome, now: float, rules: BreakerRules) -> None:
        """A request ended with this outcome."""
        trial = number in self._trials
        self._trials.discard(number)
        if trial and number == self._latest:
            self._until = now
        if outcome == "neutral" or number < self._first:
            return
        if self.state == "closed":
            self._count(now, rules, failed=outcome == "failure")
        elif outcome == "success":
            self._close()
        elif trial:
            self._open(now, min(2 * self._open_for, rules.most_open_seconds))

    def reset(self) -> None:
        """Closed, as on the first day; what is under way says nothing any more."""
        self._close()
        self._number += 1
        self._first = self._number

    def _count(self, now: float, rules: BreakerRules, *, failed: bool) -> None:
        self._recent.append(failed)
        if not failed:
            self._failures = 0
            return
        self._failures += 1
        known = len(self._recent)
        often = known >= _WINDOW_LEAST and sum(self._recent) >= rules.share * known
        if often or self._failures >= rules.failures:
            self._open(now, rules.open_seconds)

    def _open(self, now: float, seconds: float) -> None:
        self.state = "open"
        self._open_for = seconds
        self._until = now + seconds
        self._trials.clear()
        self._number += 1
        self._first = self._number

    def _close(self) -> None:
        self.state = "closed"
        self._trials.clear()
        self._failures = 0
        self._recent.clear()
