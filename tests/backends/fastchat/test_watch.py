"""What one worker may say or leave unsaid, and how long it is believed to be busy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from proxy.fleet.facts import FleetError, WorkerView
from tests.backends.fakes import FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import FAST, Harness


@pytest.fixture
def harness(harness: Harness) -> Harness:
    """It takes a worker that is silent in the midst of requests for down soon."""
    harness.settings = replace(FAST, busy_seconds=0.3)
    return harness


def view(harness: Harness, worker: FakeWorker) -> WorkerView:
    found = harness.fleet.worker(worker.url)
    assert found is not None
    return found


async def test_a_hung_worker_is_down_though_clients_keep_asking(harness: Harness) -> None:
    """Requests that only time out keep no stuck worker up, however many come; it returns when it answers again."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    worker.hang.add("/worker_get_status")
    held = [harness.fleet.acquire("m", "llm", time.monotonic())]

    def is_down() -> bool:
        try:
            held.append(harness.fleet.acquire("m", "llm", time.monotonic()))
        except FleetError:
            return not harness.fleet.is_up(worker.url)
        held.pop(0).release("failure", time.monotonic())
        return False

    await eventually(is_down, seconds=3)
    assert harness.events["probe", "busy"] >= 1
    assert "no complete answer" in view(harness, worker).reason
    assert harness.fleet.in_flight(worker.url) >= 1
    worker.hang.clear()
    await eventually(lambda: harness.fleet.is_up(worker.url))


@pytest.mark.parametrize("sign", ["success", "bytes"])
async def test_a_worker_that_still_sends_something_is_busy(harness: Harness, sign: str) -> None:
    """Whoever serves requests without answering its status call, for however long, is used on."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    lease = harness.fleet.acquire("m", "llm", time.monotonic())
    worker.hang.add("/worker_get_status")
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        if sign == "bytes":
            harness.fleet.heard(worker.url, time.monotonic())
        else:
            harness.fleet.acquire("m", "llm", time.monotonic()).release("success", time.monotonic())
        await asyncio.sleep(0.02)
    assert harness.fleet.is_up(worker.url)
    assert harness.events["probe", "busy"] >= 4
    lease.release("failure", time.monotonic())


async def test_a_worker_that_misses_its_status_is_asked_last(harness: Harness) -> None:
    """One unanswered status call turns new requests to others; an answered one ends that."""
    stuck, good = FakeWorker(m=FakeModel()), FakeWorker(m=FakeModel())
    await harness.serve(stuck, good)
    harness.settings = replace(FAST, probes_to_down=1_000)
    await harness.source([stuck.url, good.url])
    stuck.hang.add("/worker_get_status")
    await eventually(lambda: view(harness, stuck).rests_until > 0)
    assert {harness.fleet.acquire("m", "llm", time.monotonic()).address for _ in range(4)} == {good.url}
    stuck.hang.clear()
    await eventually(lambda: view(harness, stuck).rests_until == 0)
    assert harness.fleet.acquire("m", "llm", time.monotonic()).address == stuck.url


async def test_load_of_others_is_known_after_two_statuses(harness: Harness) -> None:
    """What a worker says at its first look counts, and what it says more later counts when it says so twice."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, facts_ttl=0.0)  # each probe is a full look
    await harness.source([worker.url])
    assert view(harness, worker).foreign == 3
    worker.queue_length = 5
    await eventually(lambda: view(harness, worker).queue_length == 5)
    assert view(harness, worker).foreign == 3
    await eventually(lambda: view(harness, worker).foreign == 5)


async def test_names_with_control_characters_stay_out(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A name that would break lines or terminals is not used; the worker's other models are, an @ is no hindrance."""
    names = ["good", "a@b", "line\nbreak", "\x1b[31mred", "nul\x00", "\x85"]
    worker = FakeWorker(**{name: FakeModel(vector=None) for name in names})
    await harness.serve(worker)
    await harness.source([worker.url])
    assert {model for model, _ in harness.fleet.answerable()} == {"good", "a@b"}
    assert "4 of its 6 models stay out" in caplog.text
    asked = {body.get("model") for path, body in worker.calls if path != "/worker_get_status"}
    assert asked == {"good", "a@b"}


async def test_a_worker_that_keeps_changing_its_models_fills_no_memory(harness: Harness) -> None:
    """Other names at each status leave behind no more models than one worker may have."""
    worker, good = FakeWorker(first=FakeModel(vector=None)), FakeWorker(m=FakeModel(vector=None))
    await harness.serve(worker, good)
    await harness.source([worker.url, good.url])
    for number in range(12):
        worker.models = {f"x{number}-{place}": FakeModel(vector=None) for place in range(3)}
        await eventually(lambda number=number: f"x{number}-0@llm" in harness.answerable())  # type: ignore[misc]
    models = [row.model for row in harness.fleet.models()]
    assert len(models) == 9
    assert {"m", "x11-0", "x11-1", "x11-2"} < {*models}
