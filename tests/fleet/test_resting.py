"""Workers that are asked only where no other has room."""

from __future__ import annotations

import pytest

from proxy.fleet.rules import BreakerRules, FleetRules, ModelRules
from proxy.fleet.table import Fleet
from tests.fleet.making import A, B, C, facts, fleet_of, limited, report, view, wait


def chosen(fleet: Fleet, count: int, now: float) -> list[str]:
    return [fleet.acquire("m", "llm", now).address for _ in range(count)]


def test_a_worker_that_refuses_at_once_attracts_nothing() -> None:
    """While it rests others get the requests, though it has nothing to do; after that it is asked again."""
    fleet = fleet_of(A, B)
    fleet.acquire("m", "llm", 1.0, pinned=A).release("neutral", 1.0, rest=2.0)
    assert view(fleet).rests_until == 3.0
    for _ in range(20):
        lease = fleet.acquire("m", "llm", 2.9)
        assert lease.address == B
        lease.release("success", 2.9)
    busy = [fleet.acquire("m", "llm", 2.9, pinned=B) for _ in range(2)]
    assert chosen(fleet, 1, 3.0) == [A]
    assert len(busy) == 2


def test_a_resting_worker_is_used_before_anybody_waits() -> None:
    """Where no other has room it is asked after all: in turn, also by those who wait and those who name it."""
    fleet = fleet_of(A, B, rules=limited(2))
    fleet.acquire("m", "llm", 1.0, pinned=A).release("neutral", 1.0, rest=60.0)
    assert chosen(fleet, 3, 2.0) == [B, B, A]
    assert fleet.acquire("m", "llm", 2.0, pinned=A).address == A
    assert wait(fleet, now=2.0).waits
    alone = fleet_of(A)
    alone.acquire("m", "llm", 1.0).release("neutral", 1.0, rest=60.0)
    assert chosen(alone, 2, 2.0) == [A, A]


def test_a_rest_is_not_shortened() -> None:
    """Another end without a rest, or with a shorter one, leaves the longer one in force."""
    fleet = fleet_of(A, B)
    leases = [fleet.acquire("m", "llm", 1.0, pinned=A) for _ in range(3)]
    for lease, rest in zip(leases, (5.0, 0.0, 1.0), strict=True):
        lease.release("success", 2.0, rest)
    assert chosen(fleet, 3, 6.9) == [B, B, B]


def test_a_degraded_worker_comes_before_a_resting_one() -> None:
    """Lost slots make a worker the second choice, refusals the third."""
    fleet = fleet_of(A, B, C, rules=FleetRules(ModelRules(worker_limit=2), leak_seconds=30.0))
    for second in range(100, 140, 10):
        fleet.seen(B, second, queue_length=1, speed=1)
    fleet.acquire("m", "llm", 140.0, pinned=A).release("neutral", 140.0, rest=10.0)
    assert chosen(fleet, 5, 141.0) == [C, C, B, A, A]


def test_where_all_breakers_are_open_resting_workers_still_come_last() -> None:
    """The last resort is asked in the same order."""
    rules = FleetRules(ModelRules(worker_limit=2), breaker=BreakerRules(failures=1, open_seconds=60.0))
    fleet = fleet_of(A, B, rules=rules)
    for address in (A, B):
        fleet.acquire("m", "llm", 1.0, pinned=address).release("failure", 1.0, rest=5.0 if address == A else 0.0)
    assert chosen(fleet, 4, 2.0) == [B, B, A, A]


@pytest.mark.parametrize("sign", ["status", "success"])
def test_a_silent_worker_is_asked_last_until_it_is_heard(sign: str) -> None:
    """A worker that let its status call go unanswered gets nothing while others have room."""
    fleet = fleet_of(A, B, rules=limited(9))
    running = fleet.acquire("m", "llm", 1.0, pinned=A)
    broken = fleet.acquire("m", "llm", 1.0, pinned=A)
    fleet.missed(A)
    assert view(fleet).rests_until == float("inf")
    assert chosen(fleet, 5, 1e6) == [B] * 5
    fleet.seen(A, 1e6, queue_length=2, speed=1)  # its heartbeats come from elsewhere in it
    broken.release("failure", 1e6)
    assert chosen(fleet, 1, 1e6) == [B]
    if sign == "status":
        fleet.heard(A, 1e6)
    else:
        running.release("success", 1e6)
    assert fleet.last_heard(A) == 1e6
    assert chosen(fleet, 1, 1e6) == [A]


def test_a_restarted_worker_does_not_rest() -> None:
    """What the process before it refused or left unanswered is not held against the new one."""
    fleet = fleet_of(A, B)
    fleet.acquire("m", "llm", 1.0, pinned=A).release("neutral", 1.0, rest=60.0)
    fleet.missed(A)
    fleet.fail(A, "connection refused", 2.0)
    fleet.report(report(A, facts("m")), 3.0)
    assert sorted(chosen(fleet, 2, 4.0)) == [A, B]
    assert fleet.last_heard(A) == 3.0


def test_signs_of_workers_that_nobody_knows_do_nothing() -> None:
    """What is told too late of a worker that was dropped brings nothing back."""
    fleet = fleet_of()
    fleet.heard(A, 1.0)
    fleet.missed(A)
    assert fleet.last_heard(A) is None
    assert fleet.workers() == []
    with pytest.raises(LookupError):
        fleet.acquire("m", "llm", 1.0)
