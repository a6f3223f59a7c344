"""Where the policies send requests."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.rules import POLICY_NAMES, FleetRules, ModelRules, PolicyName
from proxy.fleet.select import EvenDraws, WeightedRoundRobin, any_of, consistent_hash, hash64, new_policy, power_of_two
from tests.fleet.making import A, B, C, facts, fleet_of, report

KEYS = [f"session-{number}" for number in range(3_000)]


@dataclass
class Worker:
    """A candidate."""

    address: str
    in_flight: int = 0
    foreign: int = 0
    speed: float = 1.0

    def __post_init__(self) -> None:
        self.seed = hash64(self.address)


def workers(count: int) -> list[Worker]:
    return [Worker(f"http://10.0.0.{number}:21002") for number in range(count)]


def homes(candidates: list[Worker]) -> dict[str, str]:
    """Where a consistent hash sends each key."""
    return {key: consistent_hash(candidates, key, EvenDraws()).address for key in KEYS}


@pytest.mark.parametrize("name", POLICY_NAMES)
@given(loads=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats()), min_size=1, max_size=6))
def test_every_policy_names_one_of_the_candidates(name: PolicyName, loads: list[tuple[int, int, float]]) -> None:
    """Whatever speed a worker claims and whatever it has to do, the choice is one of those given."""
    given_ = [Worker(f"http://w:{number}", *load) for number, load in enumerate(loads)]
    policy, rng = new_policy(name), random.Random(0)
    for key in (None, "", "key", "\ud800"):
        assert policy(given_, key, rng) in given_


@pytest.mark.parametrize("name", ["least_in_flight", "power_of_two"])
def test_load_decides_and_others_requests_count(name: PolicyName) -> None:
    """Of two workers the one with less to do is chosen, whoever brought the work."""
    policy = new_policy(name)
    busy, foreign, idle = Worker(A, in_flight=3), Worker(B, in_flight=1, foreign=3), Worker(C, in_flight=2)
    rng = random.Random(3)
    for _ in range(50):
        assert policy([busy, idle], None, rng) is idle
        assert policy([foreign, idle], None, rng) is idle
        assert policy([busy, foreign], None, rng) is busy


@pytest.mark.parametrize("name", ["least_in_flight", "power_of_two", "random"])
def test_equals_share_evenly(name: PolicyName) -> None:
    """Idle workers get the same number of requests, within chance."""
    policy, rng, idle = new_policy(name), random.Random(11), workers(5)
    counts = Counter(policy(idle, None, rng).address for _ in range(5_000))
    assert len(counts) == 5
    assert all(860 < count < 1_140 for count in counts.values())  # five standard deviations


def test_power_of_two_never_takes_the_most_loaded_and_sometimes_not_the_least() -> None:
    """It looks at two different workers, not at all and not at the same one twice."""
    loaded = [Worker(A, 1), Worker(B, 2), Worker(C, 3)]
    rng = random.Random(5)
    counts = Counter(power_of_two(loaded, None, rng).address for _ in range(3_000))
    assert set(counts) == {A, B}
    assert 1_850 < counts[A] < 2_150  # two of the three pairs


def test_random_takes_no_heed_of_load() -> None:
    """The policy for comparisons is the plain one."""
    rng = random.Random(5)
    counts = Counter(any_of([Worker(A, 100), Worker(B)], None, rng).address for _ in range(1_000))
    assert 400 < counts[A] < 600


def test_weighted_round_robin_is_exact_and_spread_out() -> None:
    """In each cycle each worker gets its share, and the fast one's turns do not come in one block."""
    policy, weighted = WeightedRoundRobin(), [Worker(A, speed=5), Worker(B, speed=1), Worker(C, speed=1)]
    turns = [policy(weighted, None, EvenDraws()).address for _ in range(70)]
    for start in range(0, 70, 7):
        assert Counter(turns[start : start + 7]) == {A: 5, B: 1, C: 1}
    assert "".join({A: "a", B: "b", C: "c"}[address] for address in turns[:7]) == "aabacaa"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_weighted_round_robin_is_exact_for_any_weights(speeds: list[int]) -> None:
    """After as many requests as the weights sum up to, each worker has had its weight."""
    policy = WeightedRoundRobin()
    weighted = [Worker(f"http://w:{number}", speed=speed) for number, speed in enumerate(speeds)]
    counts = Counter(policy(weighted, None, EvenDraws()).address for _ in range(sum(speeds)))
    assert [counts[worker.address] for worker in weighted] == speeds


def test_weighted_round_robin_over_a_fleet_follows_the_speeds_that_workers_report() -> None:
    """The weights are the workers' own, also when repeated looks at them come in between and a speed changes."""
    fleet = fleet_of(rules=FleetRules(ModelRules(policy="weighted_round_robin", worker_limit=1_000)))
    for address, speed in ((A, 3.0), (B, 1.0)):
        fleet.report(report(address, facts("m"), speed=speed), 0.0)
    counts: Counter[str] = Counter()
    for _ in range(40):
        counts[fleet.acquire("m", "llm", 1.0).address] += 1
        fleet.report(report(A, facts("m"), speed=3.0), 1.0)
    assert counts == {A: 30, B: 10}
    fleet.seen(A, 2.0, queue_length=0, speed=1.0)
    assert Counter(fleet.acquire("m", "llm", 2.0).address for _ in range(10)) == {A: 5, B: 5}


def test_weighted_round_robin_forgets_workers_that_are_gone() -> None:
    """A fleet whose workers come and go for months does not fill the memory."""
    policy = WeightedRoundRobin()
    for number in range(2_000):
        policy([Worker(f"http://w:{number}"), Worker(A)], None, EvenDraws())
    assert len(policy._turns) < 50


def test_a_key_stays_with_its_worker() -> None:
    """The same key goes to the same worker whatever its load, and in every process: the figures are fixed."""
    few = workers(4)
    chosen = homes(few)
    few[0].in_flight = 50
    assert homes(few) == chosen
    assert homes(few[::-1]) == chosen
    assert hash64("session-0") == 0xB65F95CF544107CF
    assert consistent_hash(few, "session-0", EvenDraws()).address == chosen["session-0"]


@pytest.mark.parametrize("count", [2, 4, 17])
def test_removal_moves_only_the_keys_of_the_removed(count: int) -> None:
    """When one worker goes, the conversations on the others stay where they are, and its own spread over all."""
    many = workers(count)
    before, after = homes(many), homes(many[1:])
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == many[0].address}
    assert {after[key] for key in moved} == {worker.address for worker in many[1:]}


def test_keys_spread_evenly() -> None:
    """No worker gets much more than its share of the keys."""
    counts = Counter(homes(workers(6)).values())
    assert len(counts) == 6
    assert all(390 < count < 610 for count in counts.values())


def test_a_full_home_sends_its_keys_to_the_next_and_always_the_same() -> None:
    """A session whose worker has no room goes to one other worker each time, and back when there is room."""
    rules = FleetRules(ModelRules(policy="consistent_hash", worker_limit=1))
    fleet = fleet_of(A, B, C, rules=rules)
    order: list[list[str]] = []
    for _ in range(3):
        leases = [fleet.acquire("m", "llm", 1.0, key="one session") for _ in range(3)]
        order.append([lease.address for lease in leases])
        for lease in leases:
            lease.release("success", 2.0)
    assert sorted(order[0]) == [A, B, C]
    assert order[0] == order[1] == order[2]


def test_a_request_without_a_key_goes_to_the_least_loaded() -> None:
    """Where the header or field is missing the policy is the default one."""
    assert consistent_hash([Worker(A, 2), Worker(B, 1)], None, EvenDraws()).address == B


def test_even_draws_leave_no_gap() -> None:
    """The stand-in for randomness goes through the whole range, each part as often."""
    draws = EvenDraws()
    counts = Counter(int(10 * draws.random()) for _ in range(1_000))
    assert sorted(counts) == list(range(10))
    assert all(95 <= count <= 105 for count in counts.values())
