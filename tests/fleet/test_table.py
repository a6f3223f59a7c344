"""The fleet's table: who is up, who gets a request, and what is still known of whom."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.fleet.facts import OUTCOMES, FleetFull, Kind, ModelFacts, NoWorker, Outcome, UnknownModel, WorkerReport
from proxy.fleet.lease import Lease
from proxy.fleet.table import Fleet

A, B = "http://a:1", "http://b:2"


def facts(model: str, *kinds: Kind, context: int = 2048) -> ModelFacts:
    return ModelFacts(model, frozenset(kinds or ("llm",)), context, None, {"model": model, "context_length": context})


def report(address: str, *models: ModelFacts) -> WorkerReport:
    return WorkerReport(address, models)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(max_workers=4, max_models_per_worker=3)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


def test_unknown_model_differs_from_a_known_one_without_workers(fleet: Fleet, rng: random.Random) -> None:
    """A model nobody ever served is unknown; one whose worker is down has no worker, and the reason is told."""
    with pytest.raises(UnknownModel, match='"m"'):
        fleet.acquire("m", "llm", rng)
    fleet.report(report(A, facts("m")), 1.0)
    fleet.fail(A, "connection refused", 2.0)
    with pytest.raises(NoWorker, match="connection refused") as caught:
        fleet.acquire("m", "llm", rng)
    assert (caught.value.model, caught.value.kind) == ("m", "llm")


def test_wrong_kind_names_what_the_model_offers(fleet: Fleet, rng: random.Random) -> None:
    """Asking a chat model for vectors says what it offers instead."""
    fleet.report(report(A, facts("m")), 1.0)
    with pytest.raises(UnknownModel, match="does not offer text2vec, only llm"):
        fleet.acquire("m", "text2vec", rng)


def test_least_in_flight_is_chosen(fleet: Fleet, rng: random.Random) -> None:
    """Requests spread evenly, and a freed worker is next."""
    fleet.report(report(A, facts("m")), 1.0)
    fleet.report(report(B, facts("m")), 1.0)
    leases = [fleet.acquire("m", "llm", rng) for _ in range(6)]
    assert fleet.in_flight(A) == fleet.in_flight(B) == 3
    freed = next(lease for lease in leases if lease.address == B)
    freed.release()
    assert fleet.acquire("m", "llm", rng).address == B


def test_ties_are_broken_at_random(fleet: Fleet, rng: random.Random) -> None:
    """An idle fleet does not send everything to its first worker."""
    fleet.report(report(A, facts("m")), 1.0)
    fleet.report(report(B, facts("m")), 1.0)
    chosen = []
    for _ in range(200):
        lease = fleet.acquire("m", "llm", rng)
        chosen.append(lease.address)
        lease.release()
    assert 60 < chosen.count(A) < 140


def test_release_counts_once(fleet: Fleet, rng: random.Random) -> None:
    """A second release neither frees another slot nor counts another outcome."""
    fleet.report(report(A, facts("m")), 1.0)
    lease, other = fleet.acquire("m", "llm", rng), fleet.acquire("m", "llm", rng)
    lease.release("failure")
    lease.release("success")
    view = fleet.worker(A)
    assert view is not None
    assert view.in_flight == 1
    assert view.outcomes == {"success": 0, "neutral": 0, "failure": 1}
    other.release()
    assert fleet.in_flight(A) == 0


def test_facts_outlive_their_worker(fleet: Fleet) -> None:
    """Metadata of a model can be answered while its worker is down and after it was forgotten."""
    fleet.report(report(A, facts("m", "llm", context=4096)), 1.0)
    fleet.fail(A, "gone", 2.0)
    assert fleet.known("m") is not None
    fleet.forget(A)
    known = fleet.known("m", "llm")
    assert known is not None
    assert known.context_length == 4096
    assert fleet.known("m", "text2vec") is None
    assert fleet.known("other") is None
    assert [(row.model, row.kind, row.answerable) for row in fleet.models()] == [("m", "llm", False)]
    assert fleet.workers() == []


def test_shortest_context_speaks_for_replicas_that_differ(fleet: Fleet) -> None:
    """What is said of a model holds for each worker that may get the request."""
    fleet.report(report(A, facts("m", context=8192)), 1.0)
    fleet.report(report(B, facts("m", context=2048)), 1.0)
    known = fleet.known("m")
    assert known is not None
    assert known.context_length == 2048
    fleet.fail(B, "gone", 2.0)
    known = fleet.known("m")
    assert known is not None
    assert known.context_length == 8192


def test_listeners_hear_changes_and_nothing_else(fleet: Fleet) -> None:
    """Each change of what can be answered is told at once; a repeated report or status is not."""
    heard: list[frozenset[tuple[str, Kind]]] = []
    cancel = fleet.subscribe(lambda: heard.append(fleet.answerable()))
    fleet.report(report(A, facts("m", "llm", "text2vec")), 1.0)
    fleet.report(report(A, facts("m", "llm", "text2vec")), 2.0)
    fleet.seen(A, 3.0, queue_length=5, speed=1)
    fleet.fail(A, "gone", 4.0)
    fleet.fail(A, "still gone", 5.0)
    assert heard == [{("m", "llm"), ("m", "text2vec")}, frozenset()]
    assert fleet.version == 2
    cancel()
    fleet.report(report(A, facts("m")), 6.0)
    assert len(heard) == 2
    assert fleet.version == 3


def test_changed_facts_are_a_change(fleet: Fleet) -> None:
    """A new context length or template under the same name reaches those who cache facts."""
    fleet.report(report(A, facts("m", context=2048)), 1.0)
    before = fleet.version
    fleet.report(report(A, facts("m", context=4096)), 2.0)
    assert fleet.version == before + 1


def test_status_does_not_bring_a_worker_up(fleet: Fleet) -> None:
    """A worker that is down needs a full look, because its facts may have changed."""
    fleet.report(report(A, facts("m")), 1.0)
    fleet.fail(A, "gone", 2.0)
    fleet.seen(A, 3.0, queue_length=1, speed=1)
    assert not fleet.is_up(A)
    view = fleet.worker(A)
    assert view is not None
    assert (view.since, view.last_seen, view.reason) == (2.0, 3.0, "gone")


def test_bounds_hold(fleet: Fleet) -> None:
    """Neither a fifth worker nor a fourth model on one gets in, and the message has the numbers."""
    for number in range(4):
        fleet.report(report(f"http://w:{number}", facts("m")), 1.0)
    with pytest.raises(FleetFull, match="http://w:9 stays out: the fleet holds 4"):
        fleet.report(report("http://w:9", facts("m")), 1.0)
    with pytest.raises(FleetFull, match="has 4 models, at most 3"):
        fleet.report(report("http://w:0", *(facts(name) for name in "abcd")), 1.0)
    fleet.forget("http://w:0")
    fleet.report(report("http://w:9", facts("m")), 1.0)


def test_remembered_models_are_bounded() -> None:
    """Names that are served no more make room for new ones, those still held by a worker stay."""
    fleet = Fleet(max_workers=2, max_models_per_worker=2, max_remembered=3)
    fleet.report(report(A, facts("kept")), 1.0)
    for number in range(10):
        fleet.report(report(B, facts(f"m{number}")), 2.0 + number)
    assert [row.model for row in fleet.models()] == ["kept", "m8", "m9"]


def test_forgotten_worker_keeps_count_until_its_last_lease(fleet: Fleet, rng: random.Random) -> None:
    """A worker that returns under its address while old requests run there is not taken for idle."""
    fleet.report(report(A, facts("m")), 1.0)
    lease = fleet.acquire("m", "llm", rng)
    fleet.forget(A)
    assert not fleet.is_up(A)
    fleet.report(report(A, facts("m")), 2.0)
    assert fleet.in_flight(A) == 1
    lease.release()
    assert fleet.is_up(A)
    last = fleet.acquire("m", "llm", rng)
    fleet.forget(A)
    last.release()
    assert fleet.workers() == []


class FleetMachine(RuleBasedStateMachine):
    """Any order of reports, failures, requests and releases."""

    addresses = ("http://a:1", "http://b:2", "http://c:3")
    names = ("m", "n")

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(max_workers=3, max_models_per_worker=2)
        self.rng = random.Random(0)
        self.now = 0.0
        self.leases: list[Lease] = []
        self.served: dict[str, frozenset[str]] = {}
        self.seen: set[str] = set()
        self.version = 0

    @rule(address=st.sampled_from(addresses), models=st.sets(st.sampled_from(names), min_size=1))
    def report(self, address: str, models: set[str]) -> None:
        self.now += 1
        self.fleet.report(report(address, *(facts(model) for model in sorted(models))), self.now)
        self.served[address] = frozenset(models)
        self.seen |= models

    @rule(address=st.sampled_from(addresses))
    def fail(self, address: str) -> None:
        self.now += 1
        self.fleet.fail(address, "down", self.now)
        self.served.pop(address, None)

    @rule(address=st.sampled_from(addresses))
    def forget(self, address: str) -> None:
        self.fleet.forget(address)
        self.served.pop(address, None)

    @rule(model=st.sampled_from(names))
    def acquire(self, model: str) -> None:
        serving = {address for address, models in self.served.items() if model in models}
        if serving:
            least = min(self.fleet.in_flight(address) for address in serving)
            lease = self.fleet.acquire(model, "llm", self.rng)
            assert lease.address in serving
            assert self.fleet.in_flight(lease.address) == least + 1
            self.leases.append(lease)
        else:
            with pytest.raises(NoWorker if model in self.seen else UnknownModel):
                self.fleet.acquire(model, "llm", self.rng)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), again=st.booleans())
    def release(self, data: st.DataObject, outcome: Outcome, again: bool) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.release(outcome)
        if again:
            lease.release(outcome)

    @invariant()
    def counts_match(self) -> None:
        for address in self.addresses:
            assert self.fleet.in_flight(address) == sum(lease.address == address for lease in self.leases)
            assert self.fleet.is_up(address) == (address in self.served)

    @invariant()
    def answerable_matches(self) -> None:
        assert {model for model, _ in self.fleet.answerable()} == set().union(*self.served.values())
        assert {row.model for row in self.fleet.models()} == self.seen
        assert all(self.fleet.known(model) is not None for model in self.seen)
        assert self.fleet.version >= self.version
        self.version = self.fleet.version

    def teardown(self) -> None:
        for lease in self.leases:
            lease.release()
        assert all(self.fleet.in_flight(address) == 0 for address in self.addresses)


FleetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestFleetMachine = FleetMachine.TestCase
