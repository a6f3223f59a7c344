"""The budget of retries: how many may be tried again when much goes wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.server.traffic import RetryBudget


def taken(budget: RetryBudget, wanted: int, now: float = 0.0) -> int:
    return sum(budget.take(now) for _ in range(wanted))


def test_a_burst_is_there_from_the_start() -> None:
    """The first failures of a quiet gateway are retried, more than the burst are not."""
    assert taken(RetryBudget(0.2, 10), 100) == 10
    assert taken(RetryBudget(0.0, 0), 5) == 0


def test_a_share_of_the_requests_is_added() -> None:
    """A busy gateway may lose a worker with everything that was on it."""
    budget = RetryBudget(0.2, 10)
    for _ in range(1_000):
        budget.request(0.0)
    assert taken(budget, 1_000) == 210


def test_what_was_spent_comes_back_with_time_and_what_was_saved_fades() -> None:
    """After a storm the burst is there again; an hour's requests do not pay for one later."""
    budget = RetryBudget(0.5, 4, seconds=10.0)
    assert taken(budget, 9, 0.0) == 4
    assert taken(budget, 9, 1_000.0) == 4
    for _ in range(1_000):
        budget.request(1_000.0)
    assert taken(budget, 1_000, 2_000.0) == 4


def test_a_retry_that_did_not_come_to_pass_is_given_back() -> None:
    """A lonely worker's failures cost the others nothing."""
    budget = RetryBudget(0.0, 1)
    for _ in range(3):
        assert budget.take(0.0)
        budget.give_back()
    budget.give_back()
    assert taken(budget, 3) == 1


def test_the_loss_of_one_worker_is_no_trouble_of_the_fleet() -> None:
    """As many as were under way on it may be tried again, and no more than if it were lost once, for a minute or so."""
    budget = RetryBudget(0.0, 10, seconds=10.0)
    assert sum(budget.take(0.0, left) for left in range(40, 0, -1)) == 40
    assert sum(budget.take(1.0, left) for left in range(40, 0, -1)) < 10
    assert taken(budget, 40, 1_000.0) == 10


def test_a_burst_of_nought_is_none() -> None:
    """Then a loss has only the share of the requests."""
    budget = RetryBudget(0.5, 0)
    for _ in range(10):
        budget.request(0.0)
    assert sum(budget.take(0.0, left) for left in range(40, 0, -1)) == 5


def test_other_settings_keep_the_count() -> None:
    """A reload is no way around the budget."""
    budget = RetryBudget(0.0, 5)
    assert taken(budget, 5) == 5
    budget.configure(0.0, 7)
    assert taken(budget, 5) == 2


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200))
def test_it_never_gives_more_than_it_may(events: list[tuple[bool, float]]) -> None:
    """At no time are there more retries than the burst and the share of all requests so far."""
    budget, now, requests, retries = RetryBudget(0.5, 3, seconds=1e9), 0.0, 0, 0
    for is_request, passed in events:
        now += passed
        if is_request:
            budget.request(now)
            requests += 1
        else:
            retries += budget.take(now)
        assert retries <= 3 + 0.5 * requests + 0.01
