"""Any order of what can happen to a fleet, against what must always hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.fleet.facts import OUTCOMES, AtLimit, FleetError, NoWorker, Outcome, QueueFull, UnknownModel, UnknownWorker
from proxy.fleet.lease import Lease
from proxy.fleet.queue import Ticket
from proxy.fleet.rules import POLICY_NAMES, BreakerRules, FleetRules, ModelRules, PolicyName
from proxy.fleet.table import Fleet
from tests.fleet.making import A, B, C, facts, report

ADDRESSES = (A, B, C)
QUEUE = 3
FALLBACK = {"n": "m"}

addresses = st.sampled_from(ADDRESSES)
models = st.sampled_from(["m", "n"])
pins = st.none() | st.none() | addresses | st.just("b:2")
avoided = st.just(frozenset[str]()) | st.frozensets(addresses, max_size=2)


def rules_with(limit: int, policy: PolicyName) -> FleetRules:
    return FleetRules(
        ModelRules(policy=policy, worker_limit=limit, queue_length=QUEUE),
        {"n": ModelRules(policy=policy, worker_limit=limit, queue_length=QUEUE, fallback=FALLBACK["n"])},
        breaker=BreakerRules(failures=2, open_seconds=3.0, most_open_seconds=6.0),
        leak_seconds=5.0,
    )


@dataclass
class Waiting:
    """One who waits, in the order of coming; ends: how often it ended, and how."""

    model: str
    pinned: str | None
    avoid: frozenset[str]
    impatient: bool
    ends: list[str] = field(default_factory=list)
    ticket: Ticket | None = None

    @property
    def plain(self) -> bool:
        return self.pinned is None and not self.avoid and self.model not in FALLBACK


class FleetMachine(RuleBasedStateMachine):
    """What the machine holds is what its clients would: leases and places in queues."""

    def __init__(self) -> None:
        super().__init__()
        rules = rules_with(2, "least_in_flight")
        self.fleet = Fleet(max_workers=3, max_models_per_worker=2, rules=rules, rng=random.Random(0))
        self.now = 0.0
        self.leases: list[Lease] = []
        self.line: list[Waiting] = []
        self.served: dict[str, frozenset[str]] = {}
        self.drained: set[str] = set()
        self.seen: set[str] = set()
        self.version = 0

    # What happens to workers

    @rule(address=addresses, names=st.sets(models, min_size=1), queue_length=st.integers(0, 3))
    def report(self, address: str, names: set[str], queue_length: int) -> None:
        self.served[address] = frozenset(names)
        self.seen |= names
        self.fleet.report(report(address, *map(facts, sorted(names)), queue_length=queue_length), self.now)

    @rule(address=addresses)
    def fail(self, address: str) -> None:
        self.served.pop(address, None)
        self.fleet.fail(address, "down", self.now)

    @rule(address=addresses)
    def forget(self, address: str) -> None:
        self.served.pop(address, None)
        self.fleet.forget(address, self.now)

    @rule(address=addresses)
    def drain(self, address: str) -> None:
        if self.fleet.drain(address, self.now):
            self.drained.add(address)

    @rule(address=addresses)
    def enable(self, address: str) -> None:
        self.fleet.enable(address, self.now)
        self.drained.discard(address)

    @rule(address=addresses, queue_length=st.integers(0, 4))
    def status(self, address: str, queue_length: int) -> None:
        self.fleet.seen(address, self.now, queue_length=queue_length, speed=1.0)

    @rule(address=addresses, silent=st.booleans())
    def speaks_or_not(self, address: str, silent: bool) -> None:
        if silent:
            self.fleet.missed(address)
        else:
            self.fleet.heard(address, self.now)

    @rule(model=models)
    def hand_out(self, model: str) -> None:
        before = {view.address: view for view in self.fleet.workers()}
        chosen = self.fleet.least_loaded(model, None, self.now)
        serving = {address for address, names in self.served.items() if model in names} - self.drained
        assert (chosen in serving) if serving else (chosen is None)
        if chosen is not None:
            view = self.fleet.worker(chosen)
            assert view is not None
            assert view.foreign <= max(before[chosen].foreign, view.limit)

    @rule(limit=st.integers(1, 3), policy=st.sampled_from(POLICY_NAMES))
    def reload(self, limit: int, policy: PolicyName) -> None:
        self.fleet.configure(rules_with(limit, policy), self.now)

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    # What clients do

    @rule(model=models, pinned=pins, avoid=avoided)
    def acquire(self, model: str, pinned: str | None, avoid: frozenset[str]) -> None:
        usable = self.usable(model, pinned, avoid)
        try:
            lease = self.fleet.acquire(model, "llm", self.now, key="k", pinned=pinned, avoid=avoid)
        except AtLimit:
            assert usable
        except (NoWorker, UnknownModel, UnknownWorker):
            assert not usable
        else:
            assert lease.address in usable
            self.took(lease)

    @rule(model=models, pinned=pins, avoid=avoided, impatient=st.booleans())
    def wait(self, model: str, pinned: str | None, avoid: frozenset[str], impatient: bool) -> None:
        waiting = Waiting(model, pinned, avoid, impatient)
        usable = self.usable(model, pinned, avoid)

        def granted(lease: Lease) -> None:
            waiting.ends.append("granted")
            assert lease.address in self.usable(model, pinned, avoid)
            if waiting.plain:
                before = self.line[: self.line.index(waiting)] if waiting in self.line else self.line
                assert not [other for other in before if other.plain and other.model == model and not other.ends]
            if waiting.impatient:
                lease.release("neutral", self.now)
            else:
                self.took(lease)

        def refused(error: FleetError) -> None:
            waiting.ends.append("refused")
            assert isinstance(error, (NoWorker, UnknownWorker, QueueFull))

        try:
            waiting.ticket = self.fleet.wait(
                model, "llm", self.now, granted, refused, key="k", pinned=pinned, avoid=avoid
            )
        except QueueFull:
            assert usable
            assert max(row.waiting for row in self.fleet.queues()) == QUEUE
        except (NoWorker, UnknownModel, UnknownWorker):
            assert not usable
        else:
            assert usable
            self.line.append(waiting)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = data.draw(st.sampled_from(self.line))
        assert waiting.ticket is not None
        if not waiting.ends:
            waiting.ends.append("cancelled")
        waiting.ticket.cancel()

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(OUTCOMES),
        again=st.booleans(),
        rest=st.just(0.0) | st.sampled_from([1.0, 5.0]),
    )
    def release(self, data: st.DataObject, outcome: Outcome, again: bool, rest: float) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.release(outcome, self.now, rest)
        if again:
            lease.release(outcome, self.now)

    # What always holds

    @invariant()
    def counts_match(self) -> None:
        assert {view.address for view in self.fleet.workers() if view.drained} == self.drained
        for address in ADDRESSES:
            assert self.fleet.in_flight(address) == sum(lease.address == address for lease in self.leases)
            assert self.fleet.is_up(address) == (address in self.served)

    @invariant()
    def what_is_known_has_facts(self) -> None:
        for model in ("m", "n", "never"):
            assert self.fleet.knows(model) == (self.fleet.known(model) is not None)

    @invariant()
    def queues_match_and_are_bounded(self) -> None:
        rows = self.fleet.queues()
        assert all(row.waiting <= QUEUE for row in rows)
        assert sum(row.waiting for row in rows) == sum(not waiting.ends for waiting in self.line)

    @invariant()
    def every_ticket_ends_once(self) -> None:
        for waiting in self.line:
            assert waiting.ticket is not None
            assert waiting.ends == ([] if waiting.ticket.state == "waiting" else [waiting.ticket.state])

    @invariant()
    def nobody_waits_beside_a_free_worker(self) -> None:
        views = {view.address: view for view in self.fleet.workers()}
        for waiting in self.line:
            if waiting.ends:
                continue
            workers = [views[address] for address in self.usable(waiting.model, waiting.pinned, waiting.avoid)]
            assert workers, "nothing to wait for"
            room = [view for view in workers if view.in_flight < view.limit]
            assert not [view for view in room if view.breaker == "closed"]
            if all(view.breaker != "closed" for view in workers):
                assert not room, "all breakers are open: each is the last resort"

    @invariant()
    def questions_match(self) -> None:
        usable = {model for model in ("m", "n") if self.usable(model, None, frozenset())}
        assert {model for model, _ in self.fleet.answerable()} == usable
        rows = {row.model: row.workers for row in self.fleet.models()}
        assert set(rows) == self.seen | ({"n"} if "m" in self.seen else set())
        assert rows == {model: len(self.usable(model, None, frozenset())) for model in rows}
        assert all(self.fleet.known(model) is not None for model in rows)
        assert self.fleet.version >= self.version
        self.version = self.fleet.version

    def usable(self, model: str, pinned: str | None, avoid: frozenset[str]) -> list[str]:
        """The workers that may answer, with or without room: the model's own, else its fallback's."""
        for name in (model,) if pinned is not None else (model, *filter(None, [FALLBACK.get(model)])):
            found = [address for address, names in self.served.items() if name in names and address not in avoid]
            found = [address for address in found if address not in self.drained]
            found = [address for address in found if pinned in (None, address, address.removeprefix("http://"))]
            if found:
                return found
        return []

    def took(self, lease: Lease) -> None:
        self.leases.append(lease)
        view = self.fleet.worker(lease.address)
        assert view is not None
        assert view.in_flight <= view.limit <= 3

    def teardown(self) -> None:
        while self.leases:
            self.leases.pop().release("success", self.now)
        for waiting in self.line:
            if waiting.ticket is not None and not waiting.ends:
                waiting.ends.append("cancelled")
                waiting.ticket.cancel()
            assert len(waiting.ends) == 1
        assert all(self.fleet.in_flight(address) == 0 for address in ADDRESSES)
        assert all(row.waiting == 0 for row in self.fleet.queues())


FleetMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestFleetMachine = FleetMachine.TestCase
