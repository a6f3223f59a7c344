"""A worker that keeps failing is left alone, and comes back."""

from __future__ import annotations

import pytest

from proxy.fleet.breaker import Breaker
from proxy.fleet.facts import BreakerState, Outcome
from proxy.fleet.rules import BreakerRules, FleetRules, ModelRules
from proxy.fleet.table import Fleet
from tests.fleet.making import A, B, Heard, facts, fleet_of, report, view, wait

RULES = BreakerRules(failures=3, share=0.5, open_seconds=5.0, most_open_seconds=15.0)
FLEET = FleetRules(ModelRules(worker_limit=10), breaker=RULES)


def run(breaker: Breaker, outcome: Outcome, now: float) -> None:
    """One request that begins and ends."""
    breaker.end(breaker.begin(now), outcome, now, RULES)


def state_of(breaker: Breaker) -> BreakerState:
    """Its state, which the type checker takes for changed by each call."""
    return breaker.state


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(RULES.failures):
        run(breaker, "failure", now)
    assert state_of(breaker) == "open"
    return breaker


def state(fleet: Fleet, address: str) -> BreakerState:
    return view(fleet, address).breaker


def fail_until_open(fleet: Fleet, address: str, now: float) -> None:
    for _ in range(RULES.failures):
        fleet.acquire("m", "llm", now, pinned=address).release("failure", now)
    assert state(fleet, address) == "open"


def test_callers_errors_never_open_it() -> None:
    """Any number of requests that the callers got wrong or left says nothing about the worker."""
    breaker = Breaker()
    for _ in range(500):
        run(breaker, "neutral", 1.0)
    assert state_of(breaker) == "closed"


def test_callers_errors_do_not_hide_failures() -> None:
    """Failures with callers' errors in between are still failures in a row."""
    breaker = Breaker()
    for _ in range(RULES.failures):
        run(breaker, "neutral", 1.0)
        run(breaker, "failure", 1.0)
    assert state_of(breaker) == "open"


def test_a_success_ends_the_row() -> None:
    """A worker that fails now and then is not left alone."""
    breaker = Breaker()
    for _ in range(50):
        for outcome in ("failure", "success", "success"):
            run(breaker, outcome, 1.0)
    assert state_of(breaker) == "closed"


def test_half_of_many_is_too_much_and_half_of_few_is_not() -> None:
    """Failing every second time opens it, but not before there are ten outcomes to judge by."""
    breaker = Breaker()
    states = []
    for number in range(10):
        run(breaker, "success" if number % 2 == 0 else "failure", 1.0)
        states.append(state_of(breaker))
    assert states == ["closed"] * 9 + ["open"]


def test_after_closing_the_past_is_forgotten() -> None:
    """One failure of a worker that came back is one, whatever its share was before."""
    breaker = Breaker()
    for number in range(10):
        run(breaker, "success" if number % 2 == 0 else "failure", 1.0)
    run(breaker, "success", 7.0)
    run(breaker, "failure", 8.0)
    assert state_of(breaker) == "closed"


def test_old_outcomes_are_forgotten() -> None:
    """What happened more than twenty requests ago neither condemns nor excuses a worker."""
    breaker = Breaker()
    for _ in range(200):
        run(breaker, "success", 1.0)
    for number in range(20):
        run(breaker, "success" if number % 2 == 0 else "failure", 1.0)
    assert state_of(breaker) == "open"


def test_one_trial_at_a_time_after_the_open_time() -> None:
    """Nothing goes there while it is open, then one request, and nothing beside that one."""
    breaker = opened(0.0)
    assert not breaker.admits(4.9)
    assert breaker.admits(5.0)
    trial = breaker.begin(5.0)
    assert state_of(breaker) == "half_open"
    assert not breaker.admits(5.0)
    assert not breaker.admits(9.9)
    breaker.end(trial, "success", 6.0, RULES)
    assert state_of(breaker) == "closed"
    assert breaker.admits(6.0)


def test_a_neutral_trial_makes_room_for_another() -> None:
    """A trial whose caller left says nothing, and does not keep the worker out for ever."""
    breaker = opened(0.0)
    breaker.end(breaker.begin(5.0), "neutral", 5.5, RULES)
    assert state_of(breaker) == "half_open"
    assert breaker.admits(5.5)
    breaker.end(breaker.begin(5.5), "success", 6.0, RULES)
    assert state_of(breaker) == "closed"


def test_a_trial_that_takes_long_does_not_keep_others_out() -> None:
    """A long answer may be the trial: after the open time another may begin, and whichever succeeds closes it."""
    breaker = opened(0.0)
    long = breaker.begin(5.0)
    assert not breaker.admits(9.9)
    assert breaker.admits(10.0)
    second = breaker.begin(10.0)
    assert not breaker.admits(10.0)
    breaker.end(long, "success", 11.0, RULES)
    assert state_of(breaker) == "closed"
    breaker.end(second, "failure", 12.0, RULES)
    assert state_of(breaker) == "closed"


def test_each_failed_trial_doubles_the_open_time_up_to_the_most() -> None:
    """A worker that stays broken is asked less and less, but never less often than the most allows."""
    breaker, now = opened(0.0), 0.0
    for seconds in (5.0, 10.0, 15.0, 15.0):
        assert not breaker.admits(now + seconds - 0.1)
        now += seconds
        run(breaker, "failure", now)
        assert state_of(breaker) == "open"
    run(breaker, "success", now + 15.0)
    for _ in range(RULES.failures):
        run(breaker, "failure", now + 20.0)
    assert breaker.admits(now + 25.0)  # back at the first open time


def test_a_failed_trial_counts_though_others_began_after_it() -> None:
    """A worker that stalls until each trial times out opens again with the first of them, for twice as long."""
    breaker = opened(0.0)
    trials = [breaker.begin(now) for now in (5.0, 10.0, 15.0)]
    breaker.end(trials[0], "failure", 65.0, RULES)
    assert state_of(breaker) == "open"
    assert not breaker.admits(74.9)
    for trial in trials[1:]:
        breaker.end(trial, "failure", 70.0, RULES)  # they began before it opened again
    assert not breaker.admits(74.9)
    assert breaker.admits(75.0)


def test_a_stalling_worker_gets_ever_fewer_trials() -> None:
    """Half an hour of trials that each fail after a minute are few, each opening longer than the one before."""
    rules, breaker = BreakerRules(), Breaker()
    for _ in range(rules.failures):
        breaker.end(breaker.begin(0.0), "failure", 0.0, rules)
    running: list[tuple[float, int]] = []
    begun, openings = 0, [0.0]
    for now in map(float, range(1_800)):
        while running and now - running[0][0] >= 60:
            before = state_of(breaker)
            breaker.end(running.pop(0)[1], "failure", now, rules)
            if before != "open" and state_of(breaker) == "open":
                openings.append(now)
        if len(running) < 5 and breaker.admits(now):
            running.append((now, breaker.begin(now)))
            begun += 1
    assert len(openings) >= 10
    assert begun <= 40
    assert openings[-1] - openings[-2] == 120.0


def test_a_neutral_end_of_an_old_trial_lets_no_more_in() -> None:
    """Only the end of the last trial makes room before its time."""
    breaker = opened(0.0)
    old = breaker.begin(5.0)
    breaker.begin(10.0)
    breaker.end(old, "neutral", 11.0, RULES)
    assert not breaker.admits(11.0)
    assert breaker.admits(15.0)


def test_a_failed_last_resort_changes_nothing() -> None:
    """Requests that go to an open worker because there is no other do not keep it out for longer."""
    breaker = opened(0.0)
    run(breaker, "failure", 1.0)
    trial = breaker.begin(5.0)
    run(breaker, "failure", 6.0)
    assert state_of(breaker) == "half_open"
    breaker.end(trial, "success", 7.0, RULES)
    assert state_of(breaker) == "closed"


def test_requests_from_before_say_nothing_after() -> None:
    """Streams that began before it opened neither close it when they end well nor open it again when they break."""
    breaker = Breaker()
    early = [breaker.begin(0.0) for _ in range(20)]
    for _ in range(RULES.failures):
        run(breaker, "failure", 1.0)
    breaker.end(early.pop(), "success", 2.0, RULES)
    assert state_of(breaker) == "open"
    run(breaker, "success", 6.0)
    for number in early:
        breaker.end(number, "failure", 7.0, RULES)
    assert state_of(breaker) == "closed"


def test_failures_in_mid_stream_open_it_and_others_take_over() -> None:
    """A worker that loses its streams gets no more of them, though it accepted each."""
    heard = Heard()
    fleet = fleet_of(A, B, rules=FLEET, heard=heard)
    fail_until_open(fleet, A, 1.0)
    assert [fleet.acquire("m", "llm", 2.0).address for _ in range(8)] == [B] * 8
    trial = next(lease for lease in (fleet.acquire("m", "llm", 6.5) for _ in range(2)) if lease.address == A)
    assert state(fleet, A) == "half_open"
    assert fleet.acquire("m", "llm", 6.5).address == B
    trial.release("success", 7.0)
    assert heard.of("breaker") == [f"{A} open", f"{A} half_open", f"{A} closed"]
    assert heard.of("last_resort") == []
    assert fleet.acquire("m", "llm", 7.0).address == A


def test_callers_errors_over_a_fleet_leave_it_whole() -> None:
    """A client that sends a thousand bad requests takes no worker from anybody."""
    fleet = fleet_of(A, B, rules=FLEET)
    for _ in range(1_000):
        fleet.acquire("m", "llm", 1.0).release("neutral", 1.0)
    assert {state(fleet, A), state(fleet, B)} == {"closed"}


def test_the_last_resort_is_all_of_them() -> None:
    """When every worker has failed too often, requests go out all the same, and who answers is used again."""
    heard = Heard()
    fleet = fleet_of(A, B, rules=FLEET, heard=heard)
    fail_until_open(fleet, A, 1.0)
    fail_until_open(fleet, B, 1.0)
    fleet.acquire("m", "llm", 1.5, pinned=A).release("neutral", 1.5)
    assert heard.of("last_resort") == []  # whoever names a worker gets it, that is none
    leases = [fleet.acquire("m", "llm", 2.0) for _ in range(4)]
    assert sorted(lease.address for lease in leases) == [A, A, B, B]
    assert heard.of("last_resort") == ["m"] * 4
    assert sum("keeps failing; requests go there all the same" in text for text in heard.texts) == 1
    next(lease for lease in leases if lease.address == B).release("success", 3.0)
    assert (state(fleet, A), state(fleet, B)) == ("open", "closed")
    assert {fleet.acquire("m", "llm", 3.0).address for _ in range(4)} == {B}


def test_a_last_resort_is_served_to_those_who_wait() -> None:
    """Requests that wait for the one good worker go to the bad ones once that one is bad too."""
    fleet = fleet_of(A, B, rules=FleetRules(ModelRules(worker_limit=3), breaker=RULES))
    fail_until_open(fleet, A, 1.0)
    leases = [fleet.acquire("m", "llm", 2.0) for _ in range(3)]
    waiters = [wait(fleet, now=2.0) for _ in range(7)]
    for lease in leases:
        lease.release("failure", 3.0)
    assert state(fleet, B) == "open"
    assert [waiter.waits for waiter in waiters] == [False] * 6 + [True]
    assert [view.in_flight for view in fleet.workers()] == [3, 3]


@pytest.mark.parametrize("how", ["restarted", "enabled"])
def test_a_worker_that_was_restarted_or_enabled_starts_afresh(how: str) -> None:
    """After a restart, or when the operator says so, a worker is used at once."""
    heard = Heard()
    fleet = fleet_of(A, B, rules=FLEET, heard=heard)
    fail_until_open(fleet, A, 1.0)
    old = fleet.acquire("m", "llm", 1.2, pinned=A)
    if how == "restarted":
        fleet.fail(A, "connection refused", 1.5)
        fleet.report(report(A, facts("m")), 2.0)
    else:
        assert fleet.enable(A, 2.0)
    assert state(fleet, A) == "closed"
    assert heard.of("breaker") == [f"{A} open", f"{A} closed"]
    old.release("failure", 2.0)
    for _ in range(RULES.failures - 1):
        fleet.acquire("m", "llm", 2.0, pinned=A).release("failure", 2.0)
    assert state(fleet, A) == "closed"


def test_a_report_alone_closes_nothing() -> None:
    """A worker whose status is fine while its answers break stays left alone."""
    fleet = fleet_of(A, B, rules=FLEET)
    fail_until_open(fleet, A, 1.0)
    fleet.seen(A, 2.0, queue_length=0, speed=1)
    fleet.report(report(A, facts("m")), 2.0)
    assert state(fleet, A) == "open"
