"""Slots of a worker that nobody gives back."""

from __future__ import annotations

import pytest

from proxy.fleet.leaks import LeakWatch
from proxy.fleet.rules import FleetRules, ModelRules
from proxy.fleet.table import Fleet
from tests.fleet.making import A, B, Heard, facts, fleet_of, report, view, wait

RULES = FleetRules(ModelRules(worker_limit=3), leak_seconds=30.0)


def statuses(fleet: Fleet, address: str, lengths: list[int], begin: float, step: float = 10.0) -> float:
    """These queue lengths, one each ten seconds; the time of the last."""
    for number, length in enumerate(lengths):
        fleet.seen(address, begin + number * step, queue_length=length, speed=1)
    return begin + (len(lengths) - 1) * step


def test_the_least_of_all_statuses_is_lost() -> None:
    """What comes and goes is other clients' work; what never goes away is lost."""
    watch = LeakWatch()
    for now, length in ((0.0, 5), (10.0, 2), (20.0, 4), (29.9, 3)):
        watch.status(length, now, 30.0, idle=True)
        assert watch.slots == 0
    watch.status(6, 30.0, 30.0, idle=True)
    assert watch.slots == 2


@pytest.mark.parametrize("lengths", [[1, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0]])
def test_a_worker_that_was_ever_empty_has_lost_nothing(lengths: list[int]) -> None:
    """One status without a request starts the time anew."""
    watch = LeakWatch()
    for number, length in enumerate(lengths):
        watch.status(length, 10.0 * number, 30.0, idle=True)
    assert watch.slots == 0


def test_a_leaked_slot_is_told_and_taken_off_the_limit() -> None:
    """The operator reads how many slots are gone and what to do; the worker is given fewer requests."""
    heard = Heard()
    fleet = fleet_of(A, rules=RULES, heard=heard)
    statuses(fleet, A, [2, 2, 2, 2], 100.0)
    assert heard.of("degraded") == [f"{A} degraded"]
    assert view(fleet).degraded == heard.texts[-1]
    assert heard.texts[-1] == (
        "worker http://a:1 holds 2 requests though it got none from here for 30 s: "
        "restart it to free the slots, unless other clients use it"
    )
    assert view(fleet).limit == 1
    lease = fleet.acquire("m", "llm", 131.0)
    waiter = wait(fleet, now=131.0)
    assert waiter.waits
    statuses(fleet, A, [3, 3], 132.0)
    assert view(fleet).limit == 1
    lease.release("success", 143.0)
    assert not waiter.waits


def test_one_request_at_a_time_goes_even_where_every_slot_is_lost() -> None:
    """A limit never falls under one: the worker may be wrong about itself."""
    fleet = fleet_of(A, rules=RULES)
    statuses(fleet, A, [7, 7, 7, 7], 100.0)
    assert view(fleet).limit == 1
    assert fleet.acquire("m", "llm", 131.0).address == A


def test_it_ends_when_the_queue_is_shorter() -> None:
    """When other clients' requests end, the worker is whole again at once and those who wait get in."""
    heard = Heard()
    fleet = fleet_of(A, rules=RULES, heard=heard)
    at = statuses(fleet, A, [2, 2, 2, 2], 100.0)
    fleet.acquire("m", "llm", at)
    waiters = [wait(fleet, now=at) for _ in range(3)]
    fleet.seen(A, at + 1, queue_length=1, speed=1)
    assert heard.of("degraded") == [f"{A} degraded", f"{A} ok"]
    assert (view(fleet).degraded, view(fleet).limit) == ("", 3)
    assert [waiter.waits for waiter in waiters] == [False, False, True]


def test_what_is_left_after_that_is_found_anew() -> None:
    """Three lost slots of which one came back are two, after another such time."""
    fleet = fleet_of(A, rules=RULES)
    at = statuses(fleet, A, [3, 3, 3, 3, 2], 100.0)
    assert view(fleet).degraded == ""
    statuses(fleet, A, [2, 2, 2], at + 10)
    assert "holds 2 requests" in view(fleet).degraded


@pytest.mark.parametrize("touch", ["held", "released", "handed out"])
def test_a_worker_with_something_of_ours_is_not_suspected(touch: str) -> None:
    """A queue that our own requests explain, or those of clients we sent there, is no leak."""
    fleet = fleet_of(A, rules=RULES)
    held = fleet.acquire("m", "llm", 99.0) if touch == "held" else None
    for now in range(100, 200, 5):
        if touch == "released" and now % 20 == 0:
            fleet.acquire("m", "llm", now).release("success", now)
        if touch == "handed out" and now % 20 == 0:
            fleet.least_loaded("m", None, now)
        fleet.seen(A, now, queue_length=1, speed=1)
    assert view(fleet).degraded == ""
    assert held is None or view(fleet).in_flight == 1


def test_a_client_that_was_handed_the_address_may_stay() -> None:
    """A stream of a client that goes there by itself is no lost slot, however long after the address was given."""
    fleet = fleet_of(A, rules=RULES)
    fleet.least_loaded("m", None, 1.0)
    statuses(fleet, A, [0, 1, 1, 1, 1, 1, 1], 2.0)  # the first one came before the client did
    assert view(fleet).degraded == ""
    at = statuses(fleet, A, [0, 1, 1, 1, 1], 100.0)
    assert "holds 1 request " in view(fleet).degraded
    assert at == 140.0


def test_an_address_is_not_lent_for_ever() -> None:
    """A slot that is lost while the address was lent is found when no client can be there any more."""
    fleet = fleet_of(A, rules=RULES)
    fleet.least_loaded("m", None, 0.0)
    at = statuses(fleet, A, [1] * 359, 10.0)
    assert view(fleet).degraded == ""
    statuses(fleet, A, [1] * 4, at + 10)
    assert "holds 1 request " in view(fleet).degraded


def test_a_degraded_worker_is_the_second_choice() -> None:
    """Healthy workers come first; what a degraded one still has is used before anybody waits."""
    fleet = fleet_of(A, B, rules=RULES)
    statuses(fleet, A, [1, 1, 1, 1], 100.0)
    assert [fleet.acquire("m", "llm", 131.0).address for _ in range(5)] == [B, B, B, A, A]
    assert wait(fleet, now=131.0).waits


def test_a_restarted_worker_is_whole() -> None:
    """After a restart nothing of the old process is held against the worker."""
    fleet = fleet_of(A, rules=RULES)
    at = statuses(fleet, A, [2, 2, 2, 2], 100.0)
    fleet.fail(A, "connection refused", at + 1)
    fleet.report(report(A, facts("m"), queue_length=2), at + 2)
    assert (view(fleet).degraded, view(fleet).limit) == ("", 3)
