"""Several sources of one fleet, settings that change while it runs, thresholds, and what is learned of limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.backends.workers.settings import NAMED, REGISTERED
from tests.backends.fakes import FakeFinder, FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import FAST, Harness, Knowledge


def limit_of(harness: Harness, worker: FakeWorker) -> int:
    view = harness.fleet.worker(worker.url)
    assert view is not None
    return view.limit


async def test_one_worker_of_three_sources_is_one(harness: Harness) -> None:
    """A worker of the settings, of a controller and of its own registration is watched once, and says who knows it."""
    worker, finder = FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(worker, finder)
    finder.known = {"m": [worker.url + "/"]}
    source = await harness.source([worker.url], [finder.url])
    assert source.introduce(worker.url, REGISTERED, harness.looks) == ""
    assert source.sources(worker.url) == tuple(sorted([NAMED, REGISTERED, finder.url]))
    assert len(harness.fleet.workers()) == 1
    assert source.sources("http://127.0.0.1:1") == ()


async def test_a_source_that_goes_takes_nothing_from_another(harness: Harness) -> None:
    """A worker that the settings drop stays while a controller knows it, and goes with the last that does."""
    shared, alone, finder = FakeWorker(m=FakeModel()), FakeWorker(n=FakeModel()), FakeFinder()
    await harness.serve(shared, alone, finder)
    finder.known = {"m": [shared.url]}
    source = await harness.source([shared.url, alone.url], [finder.url])
    await eventually(lambda: harness.up() == {shared.url, alone.url})
    harness.update(source, workers=[], controllers=[finder.url])
    assert harness.up() == {shared.url}
    assert harness.fleet.known("n") is not None, "a model that was seen stays known"
    harness.update(source, workers=[], controllers=[])
    assert harness.fleet.workers() == []
    asked = finder.count("/list_models")
    await asyncio.sleep(0.1)
    assert finder.count("/list_models") <= asked + 1


async def test_new_workers_and_controllers_are_taken_up_at_once(harness: Harness) -> None:
    """What a reload adds is served without a restart."""
    named, found, finder = FakeWorker(a=FakeModel()), FakeWorker(b=FakeModel()), FakeFinder()
    await harness.serve(named, found, finder)
    finder.known = {"b": [found.url]}
    source = await harness.source()
    harness.update(source, workers=[named.url], controllers=[finder.url])
    await eventually(lambda: harness.up() == {named.url, found.url})


async def test_requests_in_flight_outlast_a_dropped_worker(harness: Harness) -> None:
    """Dropping a worker ends no request, and what it still answers does not bring it back."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = await harness.source([worker.url])
    lease = harness.fleet.acquire("m", "llm", time.monotonic())
    harness.update(source, workers=[], controllers=[])
    assert harness.fleet.in_flight(worker.url) == 1
    await asyncio.sleep(0.1)
    assert harness.up() == set()
    lease.release("success", time.monotonic())
    assert harness.fleet.workers() == []


async def test_a_worker_that_is_named_again_while_it_is_dropped_is_watched_once(harness: Harness) -> None:
    """Two reloads in a row leave one watch, also while the first one's probe still hangs."""
    harness.settings = FAST
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = await harness.source([worker.url])
    worker.hang.add("/worker_get_status")
    await eventually(lambda: worker.count("/worker_get_status") >= 2)
    harness.update(source, workers=[], controllers=[])
    harness.update(source, workers=[worker.url], controllers=[])
    worker.hang.clear()
    await eventually(lambda: harness.up() == {worker.url})
    await asyncio.sleep(0.2)
    assert sum(task.get_name() == f"watch {worker.url}" for task in asyncio.all_tasks()) == 1


async def test_changed_knowledge_is_in_force_at_once(harness: Harness) -> None:
    """A context length or template that a reload changes does not wait until the facts are old."""
    worker = FakeWorker(m=FakeModel(4096))
    await harness.serve(worker)
    harness.settings = replace(FAST, probe_interval=30.0, facts_ttl=300.0)
    source = await harness.source([worker.url])
    knowledge = Knowledge(m={"context_length": 1024})
    harness.update(source, workers=[worker.url], controllers=[], models=knowledge, settings=harness.settings)
    await eventually(lambda: getattr(harness.fleet.known("m"), "context_length", 0) == 1024, seconds=2)
    assert worker.count("/worker_get_embeddings") == 1, "the probe that blocks a worker is not repeated"


async def test_a_bad_address_changes_nothing(harness: Harness) -> None:
    """A reload that cannot be carried out leaves the fleet as it was."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = await harness.source([worker.url])
    with pytest.raises(ValueError, match="expected http"):
        harness.update(source, workers=["nonsense"], controllers=[])
    assert harness.up() == {worker.url}
    assert source.sources(worker.url) == (NAMED,)


@pytest.mark.parametrize("fault", ["hang", "500"])
async def test_so_many_misses_take_a_worker_down(harness: Harness, fault: str) -> None:
    """probes_to_down misses in a row, and no fewer, whatever kind they are of."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, probes_to_down=5)
    await harness.source([worker.url])
    asked = worker.count("/worker_get_status")
    if fault == "hang":
        worker.hang.add("/worker_get_status")
    else:
        worker.replies["/worker_get_status"] = web.Response(status=500)
    await eventually(lambda: not harness.up())
    assert 5 <= worker.count("/worker_get_status") - asked <= 6


async def test_so_many_good_answers_bring_it_back(harness: Harness) -> None:
    """probes_to_up answers in a row after it was down; the first in its life needs no second."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, probes_to_up=4)
    await harness.source([worker.url])
    assert harness.up() == {worker.url}
    await worker.stop()
    await eventually(lambda: not harness.up())
    worker.calls.clear()
    await worker.start()
    await eventually(lambda: harness.up() == {worker.url})
    before = [path for path, _ in worker.calls]
    assert before.index("/worker_get_conv_template") == 4
    assert harness.events["probe", "returning"] == 3


async def test_the_usual_limit_is_learned(harness: Harness) -> None:
    """A worker whose program embeds works on five requests at once, also where this model gives no vector."""
    embedding, chatting, remote = (
        FakeWorker(a=FakeModel()),
        FakeWorker(b=FakeModel(vector=None)),
        FakeWorker(c=FakeModel()),
    )
    remote.tokenizer = False
    await harness.serve(embedding, chatting, remote)
    await harness.source([embedding.url, chatting.url, remote.url])
    assert [limit_of(harness, worker) for worker in (embedding, chatting, remote)] == [5, 5, 5]


async def test_the_limit_of_programs_without_embeddings_is_learned(harness: Harness) -> None:
    """A worker whose program does not have the call takes a thousand requests; the limit lasts over later probes."""
    worker = FakeWorker(m=FakeModel())
    worker.embeddings = False
    await harness.serve(worker)
    harness.settings = replace(FAST, facts_ttl=0.05)
    await harness.source([worker.url])
    assert limit_of(harness, worker) == 1024
    await eventually(lambda: worker.count("/model_details") >= 4)
    assert limit_of(harness, worker) == 1024


async def test_without_the_embeddings_probe_nothing_is_learned(harness: Harness) -> None:
    """Where no worker may be asked for a vector the fleet's own default limit holds."""
    worker = FakeWorker(m=FakeModel())
    worker.embeddings = False
    await harness.serve(worker)
    harness.settings = replace(FAST, probe_embeddings=False)
    await harness.source([worker.url])
    assert limit_of(harness, worker) == 5
    assert worker.count("/worker_get_embeddings") == 0


async def test_a_heartbeat_speaks_for_a_worker_that_is_too_busy_to(harness: Harness) -> None:
    """While its status hangs, the queue length of its heartbeat is what is known; else the status is newer."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, probes_to_down=100)
    source = await harness.source([worker.url])

    def queue() -> int:
        view = harness.fleet.worker(worker.url)
        assert view is not None
        return view.queue_length

    source.heartbeat(worker.url, 4)
    assert queue() == 3
    worker.hang.add("/worker_get_status")
    await eventually(lambda: harness.events["probe", "timeout"] >= 1)
    source.heartbeat(worker.url, 4)
    assert queue() == 4


async def test_storms_of_wishes_make_no_storm_of_probes(harness: Harness) -> None:
    """Whoever registers again and again gets its worker probed at a bounded rate."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, probe_interval=10.0, probe_gap=0.1)
    source = await harness.source([worker.url])
    asked = worker.count("/worker_get_status")
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        source.introduce(worker.url, REGISTERED, harness.looks)
        await asyncio.sleep(0.001)
    assert worker.count("/worker_get_status") - asked <= 7


async def test_a_controller_and_the_settings_name_one_worker_differently(harness: Harness) -> None:
    """Named by its host in the settings and by its address, or as localhost, elsewhere, it is watched once."""
    worker, finder, other = FakeWorker(m=FakeModel()), FakeFinder(), FakeFinder()
    await harness.serve(worker, finder, other)
    finder.known = {"m": [worker.url]}
    other.known = {"m": [f"http://localhost:{worker.port}/"]}
    harness.names = {"gpu7": ["127.0.0.1"]}
    named = f"http://gpu7:{worker.port}"
    source = await harness.source([named], [finder.url, other.url])
    await eventually(lambda: source.sources(named) == tuple(sorted([NAMED, finder.url, other.url])))
    assert [view.address for view in harness.fleet.workers()] == [named]


async def test_a_reload_that_names_a_known_worker_makes_it_no_second(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """The settings' name is kept, says who knows the worker, and the other goes, with a word in the log."""
    worker, finder = FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(worker, finder)
    finder.known = {"m": [worker.url]}
    harness.names = {"gpu7": ["127.0.0.1"]}
    source = await harness.source([], [finder.url])
    await eventually(lambda: harness.up() == {worker.url})
    named = f"http://gpu7:{worker.port}"
    harness.update(source, workers=[named], controllers=[finder.url])
    await eventually(lambda: [view.address for view in harness.fleet.workers()] == [named])
    await eventually(lambda: harness.up() == {named})
    assert source.sources(named) == tuple(sorted([NAMED, finder.url]))
    assert caplog.text.count(f"are one, which is used as {named}") == 1
