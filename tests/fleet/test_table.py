"""The fleet's table: who is up, who gets a request, and what is still known of whom."""

from __future__ import annotations

import pytest

from proxy.fleet.facts import FleetFull, Kind, NoWorker, QueueRow, UnknownModel
from proxy.fleet.rules import FleetRules, ModelRules
from proxy.fleet.table import Fleet
from tests.fleet.making import A, B, C, Heard, facts, fleet_of, limited, report, wait


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(max_workers=4, max_models_per_worker=3)


def test_unknown_model_differs_from_a_known_one_without_workers(fleet: Fleet) -> None:
    """A model nobody ever served is unknown; one whose worker is down has no worker, and the reason is told."""
    with pytest.raises(UnknownModel, match='"m"'):
        fleet.acquire("m", "llm", 9.0)
    fleet.report(report(A, facts("m")), 1.0)
    fleet.fail(A, "connection refused", 2.0)
    with pytest.raises(NoWorker, match="connection refused") as caught:
        fleet.acquire("m", "llm", 9.0)
    assert (caught.value.model, caught.value.kind) == ("m", "llm")


def test_wrong_kind_names_what_the_model_offers(fleet: Fleet) -> None:
    """Asking a chat model for vectors says what it offers instead."""
    fleet.report(report(A, facts("m")), 1.0)
    with pytest.raises(UnknownModel, match="does not offer text2vec, only llm"):
        fleet.acquire("m", "text2vec", 9.0)


def test_least_in_flight_is_chosen(fleet: Fleet) -> None:
    """Requests spread evenly, and a freed worker is next."""
    fleet.report(report(A, facts("m")), 1.0)
    fleet.report(report(B, facts("m")), 1.0)
    leases = [fleet.acquire("m", "llm", 9.0) for _ in range(6)]
    assert fleet.in_flight(A) == fleet.in_flight(B) == 3
    freed = next(lease for lease in leases if lease.address == B)
    freed.release("neutral", 9.0)
    assert fleet.acquire("m", "llm", 9.0).address == B


@pytest.mark.parametrize("seeded", [True, False])
def test_ties_are_broken_at_random(fleet: Fleet, seeded: bool) -> None:
    """An idle fleet does not send everything to its first worker, not even without a source of randomness."""
    fleet = fleet_of() if seeded else fleet
    fleet.report(report(A, facts("m")), 1.0)
    fleet.report(report(B, facts("m")), 1.0)
    chosen = []
    for _ in range(200):
        lease = fleet.acquire("m", "llm", 9.0)
        chosen.append(lease.address)
        lease.release("neutral", 9.0)
    assert 60 < chosen.count(A) < 140


def test_release_counts_once(fleet: Fleet) -> None:
    """A second release neither frees another slot nor counts another outcome."""
    fleet.report(report(A, facts("m")), 1.0)
    lease, other = fleet.acquire("m", "llm", 9.0), fleet.acquire("m", "llm", 9.0)
    lease.release("failure", 9.0)
    lease.release("success", 9.0)
    view = fleet.worker(A)
    assert view is not None
    assert view.in_flight == 1
    assert view.outcomes == {"success": 0, "neutral": 0, "failure": 1}
    other.release("neutral", 9.0)
    assert fleet.in_flight(A) == 0


def test_facts_outlive_their_worker(fleet: Fleet) -> None:
    """Metadata of a model can be answered while its worker is down and after it was forgotten."""
    fleet.report(report(A, facts("m", "llm", context=4096)), 1.0)
    fleet.fail(A, "gone", 2.0)
    assert fleet.known("m") is not None
    fleet.forget(A, 9.0)
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
    fleet.forget("http://w:0", 9.0)
    fleet.report(report("http://w:9", facts("m")), 1.0)


def test_remembered_models_are_bounded() -> None:
    """Names that are served no more make room for new ones, those still held by a worker stay."""
    fleet = Fleet(max_workers=2, max_models_per_worker=2, max_remembered=3)
    fleet.report(report(A, facts("kept")), 1.0)
    for number in range(10):
        fleet.report(report(B, facts(f"m{number}")), 2.0 + number)
    assert [row.model for row in fleet.models()] == ["kept", "m8", "m9"]


def test_a_worker_that_keeps_changing_its_models_pushes_out_only_its_own() -> None:
    """New names at each look leave no more behind than one worker may serve, and nothing of the others goes."""
    fleet = Fleet(max_workers=3, max_models_per_worker=4, max_remembered=100)
    fleet.report(report(A, facts("kept", "llm", "text2vec"), facts("down")), 1.0)
    fleet.report(report(B, facts("down")), 1.0)
    fleet.report(report(A, facts("kept", "llm", "text2vec")), 1.5)
    fleet.forget(A, 2.0)
    for number in range(50):
        fleet.report(report(B, *(facts(f"m{number}-{place}") for place in range(3)), facts("kept")), 3.0 + number)
    assert [row.model for row in fleet.models()] == ["down", "kept", "kept", "m48-2", "m49-0", "m49-1", "m49-2"]
    assert fleet.known("kept") is not None


def test_a_model_that_others_serve_is_not_forgotten_with_who_brought_it() -> None:
    """The first worker of a model may change its own models as it likes."""
    fleet = Fleet(max_workers=2, max_models_per_worker=2)
    for address in (A, B):
        fleet.report(report(address, facts("shared")), 1.0)
    for number in range(9):
        fleet.report(report(A, facts(f"m{number}")), 2.0 + number)
    assert [row.model for row in fleet.models()] == ["m8", "shared"]
    assert fleet.acquire("shared", "llm", 20.0).address == B


def test_forgotten_worker_keeps_count_until_its_last_lease(fleet: Fleet) -> None:
    """A worker that returns under its address while old requests run there is not taken for idle."""
    fleet.report(report(A, facts("m")), 1.0)
    lease = fleet.acquire("m", "llm", 9.0)
    fleet.forget(A, 9.0)
    assert not fleet.is_up(A)
    fleet.report(report(A, facts("m")), 2.0)
    assert fleet.in_flight(A) == 1
    lease.release("neutral", 9.0)
    assert fleet.is_up(A)
    last = fleet.acquire("m", "llm", 9.0)
    fleet.forget(A, 9.0)
    last.release("neutral", 9.0)
    assert fleet.workers() == []


def test_a_limit_comes_from_the_nearest_place() -> None:
    """The address beats the model, the model the default, all of them what was learned, and that what is assumed."""
    plain = FleetRules()
    model = FleetRules(models={"m": ModelRules(worker_limit=7)})
    default = FleetRules(default=ModelRules(worker_limit=8), models={"m": ModelRules(worker_limit=7)})
    fleet = fleet_of(A, rules=plain)

    def limit() -> int:
        view = fleet.worker(A)
        assert view is not None
        return view.limit

    assert limit() == 5
    fleet.seen(A, 1.0, queue_length=0, speed=1, limit=1024)
    assert limit() == 1024
    fleet.seen(A, 1.0, queue_length=0, speed=1)
    assert limit() == 1024
    fleet.configure(FleetRules(default=ModelRules(worker_limit=8)), 2.0)
    assert limit() == 8
    for rules in (model, default):
        fleet.configure(rules, 2.0)
        assert limit() == 7
    fleet.configure(FleetRules(models=model.models, worker_limits={A: 2}), 3.0)
    assert limit() == 2


def test_a_limit_of_one_model_counts_what_the_worker_does_for_others() -> None:
    """The models of one worker share it: what runs for the one is no room for the other."""
    fleet = fleet_of(rules=FleetRules(models={"small": ModelRules(worker_limit=1), "big": ModelRules(worker_limit=3)}))
    fleet.report(report(A, facts("small"), facts("big")), 0.0)
    lease = fleet.acquire("big", "llm", 1.0)
    waiter = wait(fleet, "small")
    assert waiter.waits
    fleet.acquire("big", "llm", 1.0)
    lease.release("success", 2.0)
    assert waiter.waits
    assert [view.limit for view in fleet.workers()] == [3]


def test_a_drained_worker_finishes_and_gets_nothing_new() -> None:
    """Draining leaves running requests alone and shows at once in what can be answered; enabling puts it back."""
    heard = Heard()
    fleet = fleet_of(A, heard=heard)
    lease = fleet.acquire("m", "llm", 1.0)
    assert fleet.drain("a:1", 2.0)
    assert fleet.drain(A, 2.0)
    assert fleet.answerable() == frozenset()
    assert fleet.is_up(A)
    with pytest.raises(NoWorker, match=r"http://a:1: drained"):
        fleet.acquire("m", "llm", 3.0)
    fleet.fail(A, "restarting", 4.0)
    fleet.report(report(A, facts("m")), 5.0)
    view = fleet.worker("a:1")
    assert view is not None
    assert (view.drained, view.in_flight, view.up) == (True, 1, True)
    lease.release("success", 6.0)
    assert fleet.enable("a:1", 7.0)
    assert fleet.answerable() == {("m", "llm")}
    assert fleet.acquire("m", "llm", 8.0).address == A
    assert heard.of("drained") == [f"{A} drained", f"{A} enabled"]
    assert not fleet.drain("nobody:1", 9.0)
    assert not fleet.enable("http://nobody:1", 9.0)


def test_a_drained_worker_comes_back_drained_however_long_it_was_away() -> None:
    """Maintenance that outlasts the table's patience gives the worker no requests until it is enabled."""
    fleet = fleet_of(A, B)
    assert fleet.drain(A, 1.0)
    fleet.fail(A, "down", 2.0)
    fleet.forget(A, 700.0)
    away = fleet.worker("a:1")
    assert away is not None
    assert (away.up, away.drained, away.since) == (False, True, 2.0)
    assert "until it is enabled" in away.reason
    assert [view.address for view in fleet.workers()] == [A, B]
    fleet.report(report(A, facts("m")), 800.0)
    assert [(view.up, view.drained, view.reason) for view in fleet.workers()] == [(True, True, ""), (True, False, "")]
    assert {fleet.acquire("m", "llm", 801.0).address for _ in range(4)} == {B}
    assert fleet.enable(A, 802.0)
    assert fleet.acquire("m", "llm", 803.0).address == A


def test_a_worker_that_is_enabled_while_it_is_away_comes_back_enabled() -> None:
    """An operator can take back what was said of a worker that is not there, and is shown that it worked."""
    heard = Heard()
    fleet = fleet_of(A, heard=heard)
    fleet.drain(A, 1.0)
    fleet.forget(A, 2.0)
    assert fleet.enable("a:1", 3.0)
    view = fleet.worker(A)
    assert view is not None
    assert not view.drained
    assert fleet.workers() == []
    fleet.report(report(A, facts("m")), 4.0)
    assert fleet.acquire("m", "llm", 5.0).address == A
    assert heard.of("drained") == [f"{A} drained", f"{A} enabled"]


def test_a_worker_that_leaves_with_its_last_request_stays_drained() -> None:
    """The order of forgetting and ending makes no difference."""
    fleet = fleet_of(A)
    lease = fleet.acquire("m", "llm", 1.0)
    fleet.drain(A, 2.0)
    fleet.forget(A, 3.0)
    lease.release("success", 4.0)
    fleet.report(report(A, facts("m")), 5.0)
    assert fleet.workers()[0].drained


def test_drained_workers_that_are_away_are_bounded() -> None:
    """Whoever drains and drops worker after worker fills no memory."""
    fleet = Fleet(max_workers=3, max_models_per_worker=1)
    for number in range(10):
        fleet.report(report(f"http://w:{number}", facts("m")), 1.0)
        fleet.drain(f"http://w:{number}", 2.0)
        fleet.forget(f"http://w:{number}", 3.0)
    assert [view.id for view in fleet.workers()] == ["w:7", "w:8", "w:9"]


def test_load_that_others_bring_counts_for_the_choice() -> None:
    """A worker that other clients keep busy is not taken for idle; what is ours is not counted twice."""
    fleet = fleet_of(A, B)
    ours = [fleet.acquire("m", "llm", 1.0) for _ in range(2)]
    assert {lease.address for lease in ours} == {A, B}
    for now in (2.0, 4.0):
        fleet.seen(A, now, queue_length=4, speed=1)
        fleet.seen(B, now, queue_length=1, speed=1)
    assert [view.foreign for view in fleet.workers()] == [3, 0]
    assert [fleet.acquire("m", "llm", 5.0).address for _ in range(3)] == [B, B, B]


def test_load_at_the_first_look_counts_at_once() -> None:
    """A worker that comes up busy has nothing of ours that could be meant."""
    fleet = fleet_of(B)
    fleet.report(report(A, facts("m"), queue_length=3), 1.0)
    assert [fleet.acquire("m", "llm", 2.0).address for _ in range(3)] == [B, B, B]


def test_a_slot_that_still_shows_as_taken_makes_no_worker_busy() -> None:
    """After a status that came too soon after the end of a request, eight streams are four and four."""
    fleet = fleet_of(A, B)
    for pinned in (A, A, B):
        fleet.acquire("m", "llm", 1.0, pinned=pinned).release("success", 2.0)
    fleet.seen(A, 2.0, queue_length=2, speed=1)
    fleet.seen(B, 2.0, queue_length=0, speed=1)
    chosen = [fleet.acquire("m", "llm", 2.1).address for _ in range(8)]
    assert (chosen.count(A), chosen.count(B)) == (4, 4)


def test_slots_that_show_as_taken_at_every_status_make_no_worker_busy() -> None:
    """Where requests end all the time each status may come just after an end: that is nobody else's load."""
    fleet = fleet_of(A, B)
    for second in (2.0, 4.0, 6.0):
        for _ in range(3):
            fleet.acquire("m", "llm", second - 1.0, pinned=A).release("success", second)
        fleet.seen(A, second + 0.4, queue_length=3, speed=1)
        assert fleet.workers()[0].foreign == 0
    for second in (8.0, 10.0):  # what is still there long after the last end is another's
        fleet.seen(A, second, queue_length=3, speed=1)
    assert fleet.workers()[0].foreign == 3


def test_load_of_others_is_believed_as_far_as_two_statuses_agree() -> None:
    """What one status shows alone, or one more than the other, may be a request of ours that has just ended."""
    fleet = fleet_of(A)
    lengths, foreign = [2, 3, 5, 1, 4, 0, 2], []
    for second, length in enumerate(lengths):
        fleet.seen(A, 2.0 + second, queue_length=length, speed=1)
        foreign.append(fleet.workers()[0].foreign)
    assert foreign == [0, 2, 3, 1, 1, 0, 0]
    fleet.least_loaded("m", None, 20.0)
    fleet.seen(A, 21.0, queue_length=2, speed=1)
    assert fleet.workers()[0].foreign == 2


def test_a_later_full_look_says_nothing_of_the_load() -> None:
    """A look's own status is old when it ends, so that it can neither confirm nor replace a newer one."""
    fleet = fleet_of(A)
    fleet.seen(A, 2.0, queue_length=2, speed=1)
    fleet.report(report(A, facts("m"), queue_length=2), 3.0)
    assert [(view.foreign, view.queue_length, view.last_seen) for view in fleet.workers()] == [(0, 2, 3.0)]


def test_asking_for_addresses_makes_no_worker_busier_than_full() -> None:
    """A client that asks a hundred times where a model is does not send everybody else to the other worker."""
    fleet = fleet_of(A, B, rules=limited(5))
    fleet.report(report(A, facts("m"), facts("only here")), 1.0)
    for _ in range(100):
        assert fleet.least_loaded("only here", None, 2.0) == A
    assert [view.foreign for view in fleet.workers()] == [5, 0]
    assert [fleet.acquire("m", "llm", 2.1).address for _ in range(8)] == [B] * 5 + [A] * 3
    fleet.least_loaded("only here", None, 2.2)
    assert [view.foreign for view in fleet.workers()] == [5, 0]


def test_an_address_that_is_handed_out_counts_until_the_next_status() -> None:
    """Clients that go to workers by themselves are spread like leases, and forgotten when the worker speaks."""
    fleet = fleet_of(A, B)
    handed = [fleet.least_loaded("m", None, 1.0) for _ in range(4)]
    assert sorted(str(address) for address in handed) == [A, A, B, B]
    assert [view.foreign for view in fleet.workers()] == [2, 2]
    fleet.seen(A, 2.0, queue_length=0, speed=1)
    assert fleet.acquire("m", "llm", 3.0).address == A
    assert fleet.least_loaded("m", "text2vec", 3.0) is None
    assert fleet.least_loaded("other", None, 3.0) is None
    for _ in range(20):  # a full worker is still the answer: its own queue holds who goes there
        assert fleet.least_loaded("m", "llm", 4.0) in (A, B)


def test_a_fallback_answers_where_a_model_has_no_worker() -> None:
    """The model's own workers come first; without one the next model of the chain answers, and it is told once."""
    heard = Heard()
    rules = FleetRules(models={"m": ModelRules(fallback="n"), "n": ModelRules(fallback="o")})
    fleet = fleet_of(A, rules=rules, heard=heard)
    fleet.report(report(B, facts("o", context=512)), 0.0)
    assert fleet.acquire("m", "llm", 1.0).model == "m"
    fleet.fail(A, "gone", 2.0)
    leases = [fleet.acquire("m", "llm", 3.0) for _ in range(3)]
    assert {(lease.address, lease.model) for lease in leases} == {(B, "o")}
    assert heard.of("fallback") == ["m", "m", "m"]
    assert heard.texts == ['model "m" has no worker; "o" answers']
    known = fleet.known("m", "llm")
    assert known is not None
    assert known.context_length == 512
    assert fleet.answerable() == {("m", "llm"), ("n", "llm"), ("o", "llm")}
    assert [(row.model, row.answerable, row.workers) for row in fleet.models()] == [
        ("m", True, 1),
        ("n", True, 1),
        ("o", True, 1),
    ]
    fleet.fail(B, "gone too", 4.0)
    with pytest.raises(NoWorker, match=r'model "m".*gone.*gone too'):
        fleet.acquire("m", "llm", 5.0)
    assert fleet.answerable() == frozenset()


def test_a_retry_goes_to_the_fallback_when_its_own_workers_have_failed() -> None:
    """A request that its only worker has let down is answered by the fallback, not refused."""
    fleet = fleet_of(A, rules=FleetRules(models={"m": ModelRules(fallback="n")}))
    fleet.report(report(B, facts("n")), 0.0)
    assert fleet.acquire("m", "llm", 1.0, avoid=frozenset({A})).model == "n"
    with pytest.raises(NoWorker, match="to be avoided"):
        fleet.acquire("n", "llm", 1.0, avoid=frozenset({B}))


def test_fallbacks_that_go_in_a_circle_end() -> None:
    """Settings that lead back to where they began give no worker, and no endless search."""
    rules = FleetRules(models={"m": ModelRules(fallback="n"), "n": ModelRules(fallback="m")})
    fleet = fleet_of(A, rules=rules)
    fleet.fail(A, "gone", 1.0)
    for model in ("m", "n"):
        with pytest.raises(NoWorker):
            fleet.acquire(model, "llm", 2.0)
    assert fleet.answerable() == frozenset()
    assert fleet.known("n") is not None


def test_other_rules_take_hold_at_once() -> None:
    """A reload that raises the limit lets in who waits; one that lowers it lets those who run finish."""
    fleet = fleet_of(A, rules=limited(1))
    first = fleet.acquire("m", "llm", 1.0)
    waiters = [wait(fleet), wait(fleet)]
    version = fleet.version
    fleet.configure(limited(2), 2.0)
    assert [waiter.waits for waiter in waiters] == [False, True]
    assert fleet.version > version
    fleet.configure(limited(1), 3.0)
    first.release("success", 4.0)
    assert waiters[1].waits
    waiters[0].lease.release("success", 5.0)
    assert not waiters[1].waits
    assert fleet.queues() == [QueueRow("m", "llm", 0)]


def test_each_choice_is_counted_by_its_policy() -> None:
    """What the metrics say of selections is what was chosen, by the rules in force then."""
    heard = Heard()
    fleet = fleet_of(A, B, heard=heard)
    fleet.acquire("m", "llm", 1.0)
    fleet.configure(FleetRules(models={"m": ModelRules(policy="random")}), 2.0)
    fleet.acquire("m", "llm", 3.0)
    assert heard.of("selection") == ["least_in_flight", "random"]


def test_a_worker_that_changes_its_models_takes_along_only_those() -> None:
    """After a report without a model nobody gets a lease for it there, and the others stay."""
    fleet = fleet_of()
    fleet.report(report(A, facts("m"), facts("n")), 0.0)
    fleet.report(report(C, facts("m")), 0.0)
    fleet.report(report(A, facts("n")), 1.0)
    assert [fleet.acquire("m", "llm", 2.0).address for _ in range(3)] == [C, C, C]
    assert fleet.acquire("n", "llm", 2.0).address == A
