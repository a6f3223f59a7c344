"""Leases that are asked for over a channel: none is lost, whoever goes away in whichever moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from proxy.fleet.facts import FleetError, ModelFacts, NoWorker, UnknownModel, WorkerReport
from proxy.fleet.rules import FleetRules, ModelRules
from proxy.fleet.shared import SharedFleet
from proxy.limits import CONTROL_AWAY_SECONDS, CONTROL_LOOK_SECONDS
from proxy.processes.leases import Needed, ProcessLeases
from proxy.processes.remote import RemoteLeases
from proxy.server.leases import Leased
from proxy.types import Json

FACTS = ModelFacts("m", frozenset({"llm"}), 100, None, {"model": "m", "address": "http://a"})
REPORT = WorkerReport("http://a", (FACTS,), limit=1)


def _fleet(queue_length: int = 4) -> SharedFleet:
    rules = FleetRules(ModelRules(worker_limit=1, queue_length=queue_length))
    fleet = SharedFleet(max_workers=4, max_models_per_worker=4, rules=rules)
    fleet.report(REPORT, 0.0)
    return fleet


class Wire:
    """A channel on which nothing moves until it is told to: both ends of it, and the fleet behind."""

    def __init__(self) -> None:
        self.fleet = _fleet()
        self.there: list[tuple[Json, ...]] = []
        self.back: list[tuple[Json, ...]] = []
        self.remote = RemoteLeases(_fleet())
        self.control()

    def control(self) -> None:
        """A new one, with a fleet of its own, which knows nothing."""
        self.fleet = _fleet()
        self.leases = ProcessLeases(self.fleet, lambda *message: self.back.append(message), _nobody, time.monotonic)
        self.there.clear()
        self.back.clear()
        self.remote.connect(self)  # type: ignore[arg-type]

    def send(self, *message: Json) -> None:
        self.there.append(message)

    def move(self) -> None:
        """Everything that was said is heard."""
        leases, remote = self.leases, self.remote
        heard: dict[Json, Callable[..., None]] = {
            "acquire": leases.acquire,
            "wait": leases.wait,
            "release": leases.release,
            "lease": remote.answered,
            "refused": remote.refused,
        }
        while self.there or self.back:
            for name, *arguments in [*self._taken(self.there), *self._taken(self.back)]:
                heard[name](*arguments)

    def _taken(self, messages: list[tuple[Json, ...]]) -> list[tuple[Json, ...]]:
        taken, messages[:] = [*messages], []
        return taken

    @property
    def held(self) -> int:
        return self.fleet.in_flight("http://a")


def _nobody(needed: Needed) -> bool:
    return False


async def _acquired(wire: Wire) -> asyncio.Task[Leased]:
    task = asyncio.create_task(wire.remote.acquire("m", "llm", 0.0))
    await asyncio.sleep(0)
    return task


async def test_a_lease_there_and_back() -> None:
    """It has the facts of the replica, counts in the fleet until it is released, and that only once."""
    wire = Wire()
    task = await _acquired(wire)
    wire.move()
    lease = await task
    assert (lease.address, lease.model, lease.facts, lease.on_trial) == ("http://a", "m", FACTS, False)
    assert (wire.held, wire.remote.in_flight("http://a")) == (1, 1)
    lease.release("success", 0.0)
    lease.release("failure", 0.0)
    wire.move()
    view = wire.fleet.worker("http://a")
    assert view is not None
    assert (view.in_flight, view.outcomes) == (0, {"success": 1, "neutral": 0, "failure": 0})
    assert wire.remote.in_flight("http://a") == 0


async def test_control_hears_of_a_worker_now_and_then() -> None:
    """However many answers end there it is told once in a second; a new control is told anew."""
    wire = Wire()
    for address, now in (("http://a", 5.0), ("http://a", 5.9), ("http://b", 5.9), ("http://a", 6.0)):
        wire.remote.heard(address, now)
    assert wire.there == [("heard", "http://a"), ("heard", "http://b"), ("heard", "http://a")]
    wire.control()
    wire.remote.heard("http://a", 6.1)
    assert wire.there == [("heard", "http://a")]


async def test_an_error_keeps_its_kind() -> None:
    """What the fleet says is raised here in its own words."""
    wire = Wire()
    task = asyncio.create_task(wire.remote.acquire("x", "llm", 0.0))
    await asyncio.sleep(0)
    wire.move()
    with pytest.raises(UnknownModel, match='no worker serves a model "x"'):
        await task


@pytest.mark.parametrize("when", ["before it is heard", "with the answer on its way", "as the answer comes"])
async def test_who_leaves_holds_nothing(when: str) -> None:
    """Cancelled at any moment; nothing is left on either side."""
    wire = Wire()
    task = await _acquired(wire)
    if when == "with the answer on its way":
        for message in wire._taken(wire.there):
            wire.leases.acquire(*message[1:])  # type: ignore[arg-type]
    if when == "as the answer comes":
        task.cancel()
        wire.move()
    else:
        task.cancel()
        await asyncio.wait([task])
        wire.move()
    with pytest.raises(asyncio.CancelledError):
        await task
    wire.move()
    assert (wire.held, len(wire.leases), wire.remote.held) == (0, 0, [])


async def test_an_error_as_its_asker_leaves() -> None:
    """It is told to nobody."""
    wire = Wire()
    task = asyncio.create_task(wire.remote.acquire("x", "llm", 0.0))
    await asyncio.sleep(0)
    task.cancel()
    wire.move()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_queue_is_kept_in_order() -> None:
    """Who waits gets the worker when it is free; who left gets nothing."""
    wire = Wire()
    first = await _acquired(wire)
    wire.move()
    got: list[Leased] = []
    errors: list[FleetError] = []
    tickets = [wire.remote.wait("m", "llm", 0.0, got.append, errors.append) for _ in range(3)]
    wire.move()
    tickets[0].cancel()
    (await first).release("success", 0.0)
    wire.move()
    assert (len(got), errors, wire.held) == (1, [], 1)
    got[0].release("success", 0.0)
    wire.move()
    assert (len(got), wire.held) == (2, 1)
    tickets[2].cancel()  # it has its worker already
    got[1].release("success", 0.0)
    wire.move()
    assert (wire.held, len(wire.leases)) == (0, 0)


async def test_another_control_is_asked_again() -> None:
    """What is held is adopted, beyond any limit; what was not answered is asked for in the same order."""
    wire = Wire()
    task = await _acquired(wire)
    wire.move()
    lease = await task
    got: list[Leased] = []
    wire.remote.wait("m", "llm", 0.0, got.append, lambda _: None)
    wire.move()
    wire.remote.disconnect()
    wire.control()
    for held in wire.remote.held:
        wire.leases.adopt(held.number, held.address, held.model, held.spare)
    wire.move()
    assert (wire.held, got) == (1, [])
    lease.release("success", 0.0)
    wire.move()
    assert (len(got), wire.held) == (1, 1)


async def test_no_control_for_long() -> None:
    """Who waits is told so; a copy of a request is not worth waiting at all."""
    wire = Wire()
    wire.remote.disconnect()
    with pytest.raises(NoWorker):
        await wire.remote.acquire("m", "llm", 0.0, spare=True)
    task = await _acquired(wire)
    wire.remote.give_up("there is nobody")
    with pytest.raises(NoWorker, match="there is nobody"):
        await task


async def test_a_control_that_does_not_answer() -> None:
    """Nobody waits for it for ever, a copy hardly at all; a place in a queue is another matter. What it gives too late
    comes back.
    """
    wire = Wire()
    task = await _acquired(wire)
    copy = asyncio.create_task(wire.remote.acquire("m", "llm", 0.0, spare=True))
    refusals: list[FleetError] = []
    wire.remote.wait("m", "llm", 0.0, lambda _: None, refusals.append)
    await asyncio.sleep(0)
    now = time.monotonic()
    wire.remote.overdue(now + CONTROL_LOOK_SECONDS)
    with pytest.raises(NoWorker):
        await copy
    assert not task.done()
    wire.remote.overdue(now + CONTROL_AWAY_SECONDS)
    with pytest.raises(NoWorker):
        await task
    wire.remote.give_up("there is nobody")
    wire.move()
    assert [str(error) for error in refusals] == ["there is nobody"]
    assert (wire.held, len(wire.leases), wire.remote.held) == (0, 0, [])


async def test_a_copy_does_not_wait_for_another_control() -> None:
    """It would cost its client time. One that is under way is still a copy to the next control."""
    wire = Wire()
    copy = asyncio.create_task(wire.remote.acquire("m", "llm", 0.0, spare=True))
    await asyncio.sleep(0)
    wire.move()
    lease = await copy
    late = asyncio.create_task(wire.remote.acquire("m", "llm", 0.0, spare=True))
    await asyncio.sleep(0)
    wire.remote.disconnect()
    with pytest.raises(NoWorker):
        await late
    wire.control()
    (held,) = wire.remote.held
    wire.leases.adopt(held.number, held.address, held.model, held.spare)
    assert [*wire.leases.spare()] == [(held.number, "http://a")]
    lease.release("neutral", 0.0)


async def test_a_process_that_is_gone() -> None:
    """Everything of it is free at once, without a word about how it went."""
    wire = Wire()
    task = await _acquired(wire)
    wire.move()
    await task
    wire.remote.wait("m", "llm", 0.0, lambda _: None, lambda _: None)
    wire.move()
    wire.leases.end()
    view = wire.fleet.worker("http://a")
    assert view is not None
    assert (view.in_flight, view.outcomes["neutral"], wire.fleet.queues()[0].waiting) == (0, 1, 0)


async def test_a_lease_of_a_worker_that_is_not_known() -> None:
    """It counts until it ends; the worker goes with it unless somebody has seen it meanwhile."""
    fleet = SharedFleet(max_workers=4, max_models_per_worker=4)
    lease = fleet.adopt("http://b", "m", 0.0)
    assert fleet.in_flight("http://b") == 1
    assert not fleet.is_up("http://b")
    lease.release("success", 0.0)
    assert fleet.worker("http://b") is None
    lease = fleet.adopt("http://a", "m", 0.0)
    fleet.report(REPORT, 0.0)
    assert fleet.in_flight("http://a") == 1
    lease.release("success", 0.0)
    assert fleet.is_up("http://a")


@pytest.mark.parametrize("queue_length", [0, 4])
async def test_a_copy_ends_for_a_client(queue_length: int) -> None:
    """One of them and no more, and the client has its place also where nobody may wait."""
    fleet = _fleet(queue_length)
    said: list[tuple[Json, ...]] = []
    asked: list[Needed] = []
    copies = ProcessLeases(fleet, lambda *message: None, _nobody, time.monotonic)
    copies.acquire(1, "m", "llm", None, None, [], 1)

    def one_ends(needed: Needed) -> bool:
        asked.append(needed)
        asyncio.get_running_loop().call_soon(copies.release, 1, "neutral")
        return True

    clients = ProcessLeases(fleet, lambda *message: said.append(message), one_ends, time.monotonic)
    clients.acquire(2, "m", "llm", None, None, [], 0)
    assert said == []
    await asyncio.sleep(0)
    assert (said, len(asked)) == ([("lease", 2, "http://a", "m", False)], 1)
    clients.release(2, "success")
    assert fleet.in_flight("http://a") == 0
