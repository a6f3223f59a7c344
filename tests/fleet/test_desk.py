"""Who waits for a worker, for how many, and in which order they get one."""

from __future__ import annotations

import pytest

from proxy.fleet.facts import AtLimit, FleetError, NoWorker, QueueFull, QueueRow, UnknownModel, UnknownWorker
from proxy.fleet.lease import Lease
from proxy.fleet.rules import BreakerRules, FleetRules, ModelRules
from proxy.fleet.table import Fleet
from tests.fleet.making import A, B, C, Waiter, facts, fleet_of, limited, report, wait, waiting


def full(*addresses: str, rules: FleetRules | None = None) -> tuple[Fleet, list[Lease]]:
    """A fleet with one request at each worker, its limit."""
    fleet = fleet_of(*addresses, rules=rules or limited(1))
    return fleet, [fleet.acquire("m", "llm", 1.0) for _ in addresses]


def test_at_the_limit_nobody_gets_a_lease_at_once() -> None:
    """A full worker is never given one more, and the error says that waiting helps."""
    fleet, leases = full(A, B)
    with pytest.raises(AtLimit, match='"m"') as caught:
        fleet.acquire("m", "llm", 1.0)
    assert (caught.value.model, caught.value.kind) == ("m", "llm")
    leases[0].release("success", 2.0)
    assert fleet.acquire("m", "llm", 2.0).address == leases[0].address


def test_first_come_first_served() -> None:
    """Those who wait get the workers in the order in which they came."""
    fleet, leases = full(A)
    waiters = [wait(fleet) for _ in range(4)]
    assert waiting(fleet) == 4
    lease = leases[0]
    for served, waiter in enumerate(waiters):
        assert [other.waits for other in waiters] == [number >= served for number in range(4)]
        lease.release("success", 2.0)
        lease = waiter.lease
    assert fleet.queues() == [QueueRow("m", "llm", 0)]
    assert fleet.in_flight(A) == 1


def test_the_queue_is_bounded_per_model_and_kind() -> None:
    """One more than may wait is refused at once with the number; other models have their own room."""
    fleet, _ = full(A, rules=limited(1, queue_length=2))
    fleet.report(report(B, facts("n")), 1.0)
    fleet.acquire("n", "llm", 1.0)
    first = wait(fleet)
    wait(fleet)
    with pytest.raises(QueueFull, match=r"2 requests wait .* at most 2 may"):
        wait(fleet)
    wait(fleet, "n")
    assert fleet.queues() == [QueueRow("m", "llm", 2), QueueRow("n", "llm", 1)]
    assert first.ticket is not None
    first.ticket.cancel()
    wait(fleet)
    assert waiting(fleet) == 2


def test_without_a_queue_nobody_waits() -> None:
    """A queue length of 0 gives the busy answer at once."""
    fleet, _ = full(A, rules=limited(1, queue_length=0))
    with pytest.raises(QueueFull):
        wait(fleet)


def test_who_leaves_the_queue_gets_nothing() -> None:
    """A cancelled ticket ends quietly, once, and the next one moves up."""
    fleet, leases = full(A)
    gone, stays = wait(fleet), wait(fleet)
    assert gone.ticket is not None
    gone.ticket.cancel()
    gone.ticket.cancel()
    leases[0].release("success", 2.0)
    assert gone.waits
    assert gone.ticket.state == "cancelled"
    assert stays.lease.address == A
    assert stays.ticket is not None
    stays.ticket.cancel()
    assert stays.ticket.state == "granted"
    assert fleet.in_flight(A) == 1


def test_those_who_cannot_use_the_free_worker_are_passed_over() -> None:
    """A retry that must go elsewhere, and a request that names a worker, keep their places and delay nobody."""
    fleet, leases = full(A, B)
    by_address = {lease.address: lease for lease in leases}
    elsewhere = wait(fleet, avoid=frozenset({A}))
    named = wait(fleet, pinned="b:2")
    anyone = [wait(fleet), wait(fleet)]
    by_address[A].release("success", 2.0)
    assert [elsewhere.waits, named.waits, anyone[0].waits, anyone[1].waits] == [True, True, False, True]
    by_address[B].release("success", 3.0)
    assert elsewhere.lease.address == B
    elsewhere.lease.release("success", 4.0)
    assert named.lease.address == B


@pytest.mark.parametrize("how", ["report", "enable", "seen", "recovered"])
def test_new_room_lets_the_next_in(how: str) -> None:
    """A worker that comes, comes back, or turns out to take more serves those who wait without another event."""
    fleet, _ = full(A, rules=FleetRules(default_limit=1))
    if how == "enable":
        fleet.report(report(B, facts("m")), 1.0)
        fleet.drain(B, 1.0)
    if how == "recovered":
        fleet.report(report(B, facts("m")), 1.0)
        fleet.fail(B, "down", 1.0)
    waiter = wait(fleet)
    assert waiter.waits
    if how == "seen":
        fleet.seen(A, 2.0, queue_length=1, speed=1, limit=2)
    elif how == "enable":
        fleet.enable(B, 2.0)
    else:
        fleet.report(report(B, facts("m")), 2.0)
    assert waiter.lease.address == (A if how == "seen" else B)


@pytest.mark.parametrize("how", ["fail", "forget", "drain", "other models"])
def test_without_a_worker_waiting_ends(how: str) -> None:
    """When the last worker goes, those who wait are told at once and do not wait out their time."""
    fleet, leases = full(A)
    waiters = [wait(fleet) for _ in range(3)]
    if how == "fail":
        fleet.fail(A, "connection refused", 2.0)
    elif how == "forget":
        fleet.forget(A, 2.0)
    elif how == "drain":
        fleet.drain(A, 2.0)
    else:
        fleet.report(report(A, facts("n")), 2.0)
    assert [type(waiter.errors[0]) for waiter in waiters] == [NoWorker] * 3
    assert waiting(fleet) == 0
    leases[0].release("neutral", 3.0)
    assert not any(waiter.leases for waiter in waiters)


def test_a_request_whose_only_other_worker_goes_is_refused_and_the_rest_waits_on() -> None:
    """A retry ends when nothing but what it must avoid is left; others may still use that."""
    fleet, _ = full(A, B)
    retry, other = wait(fleet, avoid=frozenset({A})), wait(fleet)
    fleet.fail(B, "down", 2.0)
    assert isinstance(retry.errors[0], NoWorker)
    assert other.waits


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ("x:1", 'no worker "x:1" is known'),
        ("http://c:3", "is not used now: connection refused"),
        ("d:4", 'does not serve model "m"'),
        ("e:5", "is not used now: drained"),
        ("y" * 9_000, 'no worker "y{100}\\.\\.\\."'),
    ],
)
def test_a_named_worker_that_will_not_do_is_named_with_the_reason(pinned: str, message: str) -> None:
    """A debugging header that names the wrong worker says what is wrong with it; no other worker answers instead."""
    fleet = fleet_of(A, C, "http://e:5")
    fleet.report(report("http://d:4", facts("n")), 0.0)
    fleet.fail(C, "connection refused", 1.0)
    fleet.drain("e:5", 1.0)
    with pytest.raises(UnknownWorker, match=message):
        fleet.acquire("m", "llm", 2.0, pinned=pinned)
    with pytest.raises(UnknownWorker, match=message):
        wait(fleet, pinned=pinned)
    assert fleet.queues() == []


def test_a_named_worker_answers_and_keeps_its_limit() -> None:
    """Address and id both name a worker; its limit holds; when it has failed there is no other."""
    fleet = fleet_of(A, B, rules=limited(2))
    assert [fleet.acquire("m", "llm", 1.0, pinned=name).address for name in ("b:2", B)] == [B, B]
    with pytest.raises(AtLimit):
        fleet.acquire("m", "llm", 1.0, pinned="b:2")
    with pytest.raises(NoWorker, match="has failed already"):
        fleet.acquire("m", "llm", 1.0, pinned="b:2", avoid=frozenset({B}))


def test_a_named_worker_of_an_unknown_model_is_no_way_in() -> None:
    """Naming a worker does not make it serve a model that it does not have."""
    fleet = fleet_of(A)
    with pytest.raises(UnknownWorker, match='does not serve model "other"'):
        fleet.acquire("other", "llm", 1.0, pinned="a:1")
    with pytest.raises(UnknownModel):
        wait(fleet, "other")


def test_a_full_queue_sends_to_the_fallback() -> None:
    """Where no more may wait for a model, its fallback answers; what does not fit there either is refused."""
    rules = limited(1, m=ModelRules(worker_limit=1, queue_length=1, fallback="n"), n=ModelRules(queue_length=1))
    fleet, leases = full(A, rules=rules)
    fleet.report(report(B, facts("n")), 1.0)
    waiters = [wait(fleet) for _ in range(2)]
    assert waiters[0].waits
    assert waiters[1].lease.model == "n"
    fleet.configure(limited(1, m=rules.of("m"), n=ModelRules(worker_limit=1, queue_length=1)), 1.0)
    late = wait(fleet)
    assert late.waits
    with pytest.raises(QueueFull, match="at most 1 may"):
        wait(fleet)
    assert fleet.queues() == [QueueRow("m", "llm", 1), QueueRow("n", "llm", 1)]
    leases[0].release("success", 2.0)
    assert waiters[0].lease.model == "m"
    waiters[0].lease.release("success", 3.0)
    assert late.lease.model == "m"  # what it asked for is free before its fallback


def test_those_who_wait_move_to_the_fallback_and_are_found_by_their_own_model() -> None:
    """When a model's workers go, who waits for it waits for its fallback; when one comes, it serves them."""
    rules = limited(1, m=ModelRules(worker_limit=1, fallback="n"))
    fleet, _ = full(A, rules=rules)
    fleet.report(report(B, facts("n")), 1.0)
    held = fleet.acquire("n", "llm", 1.0)
    waiters = [wait(fleet) for _ in range(3)]
    fleet.fail(A, "down", 2.0)
    assert [row.waiting for row in fleet.queues()] == [0, 3]
    held.release("success", 3.0)
    assert waiters[0].lease.model == "n"
    fleet.report(report(C, facts("m")), 4.0)
    assert waiters[1].lease.address == C
    fleet.fail(B, "down", 5.0)
    assert waiters[2].waits
    fleet.fail(C, "down", 6.0)
    assert isinstance(waiters[2].errors[0], NoWorker)


def test_time_alone_lets_the_oldest_in_first() -> None:
    """When a breaker's time has run out, a newcomer does not pass those who wait."""
    rules = FleetRules(ModelRules(worker_limit=1), breaker=BreakerRules(failures=1, open_seconds=5.0))
    fleet = fleet_of(A, B, rules=rules)
    fleet.acquire("m", "llm", 1.0, pinned=B).release("failure", 1.0)
    fleet.acquire("m", "llm", 1.0)
    waiter = wait(fleet)
    with pytest.raises(AtLimit):
        fleet.acquire("m", "llm", 7.0)
    assert waiter.lease.address == B


def test_a_lease_that_nobody_wants_any_more_goes_to_the_next() -> None:
    """Whoever left in the moment of the grant gives the lease back at once, and nobody behind waits for ever."""
    fleet, leases = full(A)
    order: list[int] = []

    def granted(number: int) -> None:
        def take(lease: Lease) -> None:
            order.append(number)
            if number < 3:
                lease.release("neutral", 2.0)

        fleet.wait("m", "llm", 1.0, take, lambda error: None)

    for number in range(5):
        granted(number)
    leases[0].release("success", 2.0)
    assert order == [0, 1, 2, 3]
    assert waiting(fleet) == 1
    assert fleet.in_flight(A) == 1


def test_a_grant_that_makes_others_leave_is_harmless() -> None:
    """Tickets that are cancelled while the queue is served get nothing."""
    fleet, _ = full(A)
    others: list[Waiter] = []

    def take(lease: Lease) -> None:
        for other in others:
            assert other.ticket is not None
            other.ticket.cancel()

    refused: list[FleetError] = []
    fleet.wait("m", "llm", 1.0, take, refused.append)
    others += [wait(fleet) for _ in range(3)]
    fleet.configure(limited(4), 2.0)
    assert all(other.waits for other in others)
    assert refused == []
    assert fleet.in_flight(A) == 2


def test_a_grant_that_frees_another_worker_serves_those_who_wait_for_that() -> None:
    """Whoever gives back one lease on getting another leaves nobody behind, whichever model that was for."""
    fleet, leases = full(A)
    fleet.report(report(B, facts("n")), 1.0)
    other = fleet.acquire("n", "llm", 1.0)
    waiter = wait(fleet, "m")
    fleet.wait("n", "llm", 1.0, lambda lease: leases[0].release("success", 2.0), lambda error: None)
    other.release("success", 2.0)
    assert waiter.lease.address == A


def test_a_long_queue_of_those_who_left_ends() -> None:
    """A thousand leases that nobody wants any more are given and taken back in one go."""
    fleet, leases = full(A, rules=limited(1, queue_length=2_000))
    for _ in range(2_000):
        fleet.wait("m", "llm", 1.0, lambda lease: lease.release("neutral", 2.0), lambda error: None)
    leases[0].release("success", 2.0)
    assert (waiting(fleet), fleet.in_flight(A)) == (0, 0)


def test_a_request_that_came_over_is_found_behind_one_that_did_not() -> None:
    """A worker that comes serves who waits for it at its fallback, whoever stands before them there."""
    rules = limited(1, m=ModelRules(worker_limit=1, fallback="n"))
    fleet, _ = full(A, rules=rules)
    fleet.report(report(B, facts("n")), 1.0)
    fleet.acquire("n", "llm", 1.0)
    own = wait(fleet, "n")
    fleet.fail(A, "down", 1.0)
    guest = wait(fleet, "m")
    fleet.report(report(C, facts("m")), 2.0)
    assert guest.lease.address == C
    assert own.waits


def test_room_that_is_there_is_given_at_once() -> None:
    """Whoever stands in the queue while a worker is free has a lease when `wait` returns."""
    fleet = fleet_of(A)
    waiter = wait(fleet)
    assert waiter.lease.address == A
    assert waiter.ticket is not None
    assert waiter.ticket.state == "granted"


def test_many_models_wait_side_by_side() -> None:
    """A worker of several models serves whoever waits for any of them, and never above its limit."""
    fleet = fleet_of(rules=limited(1))
    fleet.report(report(A, facts("m"), facts("n", "llm", "text2vec")), 0.0)
    lease = fleet.acquire("m", "llm", 1.0)
    waiters = [wait(fleet, "n"), wait(fleet, "m"), wait(fleet, "n")]
    for _ in range(3):
        lease.release("success", 2.0)
        (lease,) = [waiter.lease for waiter in waiters if waiter.leases and not waiter.lease.released]
        assert fleet.in_flight(A) == 1
    assert not any(waiter.waits for waiter in waiters)
