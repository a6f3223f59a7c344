"""The fleet follows its workers: found, looked at, lost and found again."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.backends.fastchat.look import FastChatLooks
from proxy.backends.workers.settings import SourceSettings
from proxy.backends.workers.source import FleetSource
from proxy.fleet.table import Fleet
from tests.backends.fakes import FakeFinder, FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import FAST, STEADY, Harness, Knowledge


async def test_context_length_of_the_settings_beats_the_workers(harness: Harness) -> None:
    """A context length that the operator sets is the one that requests are measured by."""
    worker = FakeWorker(m=FakeModel(1_048_576, "zephyr"))
    await harness.serve(worker)
    harness.models = Knowledge(m={"context_length": 8192})
    await harness.source([worker.url])
    facts = harness.fleet.known("m")
    assert facts is not None
    assert (facts.context_length, facts.document["context_length"]) == (8192, 8192)


async def test_first_look_knows_all_that_rules_see(harness: Harness) -> None:
    """After the first look a worker is up with its template, context length and embedding size."""
    worker = FakeWorker(m=FakeModel(4096, "zephyr", vector=[0.1] * 5))
    await harness.serve(worker)
    harness.models = Knowledge(m={"defaults": {"temperature": 0.5}})
    await harness.source([worker.url + "/"])
    facts = harness.fleet.known("m")
    assert facts is not None
    assert facts.document == {
        "model": "m",
        "address": worker.url,
        "backend": "fastchat",
        "context_length": 4096,
        "conversation": {"name": "zephyr", "model": "m"},
        "kinds": ["llm", "text2vec"],
        "embedding_size": 5,
        "images": False,
        "defaults": {"temperature": 0.5},
    }
    view = harness.fleet.worker(worker.url)
    assert view is not None
    assert (view.up, view.queue_length, view.reason) == (True, 3, "")


async def test_every_call_names_its_model(harness: Harness) -> None:
    """Workers with several models get the model's name in each call, for they fail without it."""
    worker = FakeWorker(m=FakeModel(), n=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    looks = [body.get("model") for path, body in worker.calls if path != "/worker_get_status"]
    assert Counter(looks) == {"m": 4, "n": 4}


async def test_killed_worker_is_down_at_once_and_returns(harness: Harness) -> None:
    """A refused connection needs no second probe; the worker comes back with whatever it serves then."""
    worker = FakeWorker(m=FakeModel(2048))
    await harness.serve(worker)
    await harness.source([worker.url])
    await worker.stop()
    await eventually(lambda: harness.answerable() == set(), seconds=1)
    view = harness.fleet.worker(worker.url)
    assert view is not None
    assert "connection refused" in view.reason
    known = harness.fleet.known("m")
    assert known is not None
    worker.models = {"m": FakeModel(8192), "n": FakeModel(vector=None)}
    await worker.start()
    await eventually(lambda: harness.answerable() == {"m@llm", "m@text2vec", "n@llm"})
    known = harness.fleet.known("m")
    assert known is not None
    assert known.context_length == 8192


async def test_worker_that_starts_later_is_found(harness: Harness) -> None:
    """A named worker may start after the gateway."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await worker.stop()
    await harness.source([worker.url])
    assert harness.fleet.workers()[0].up is False
    await worker.start()
    await eventually(lambda: "m@llm" in harness.answerable())


async def test_hanging_status_is_down_after_some_misses(harness: Harness) -> None:
    """A worker that accepts and never answers goes down after as many probes as the settings say, not after one."""
    harness.settings = FAST
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    worker.hang.add("/worker_get_status")
    await eventually(lambda: harness.events["probe", "timeout"] == 1)
    assert harness.fleet.is_up(worker.url)
    await eventually(lambda: not harness.fleet.is_up(worker.url))
    assert harness.events["probe", "timeout"] == 3


async def test_status_timeout_with_leases_is_busy(harness: Harness) -> None:
    """A worker whose loop stands still while it works for us stays up; without our work the same counts as down."""
    harness.settings = FAST
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    lease = harness.fleet.acquire("m", "llm", time.monotonic())
    worker.hang.add("/worker_get_status")
    await eventually(lambda: harness.events["probe", "busy"] >= 4)
    assert harness.fleet.is_up(worker.url)
    lease.release("success", time.monotonic())
    await eventually(lambda: not harness.fleet.is_up(worker.url))


async def test_refused_connection_is_down_even_with_leases(harness: Harness) -> None:
    """Busy is no excuse for a worker that is not there."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    harness.fleet.acquire("m", "llm", time.monotonic())
    await worker.stop()
    await eventually(lambda: not harness.fleet.is_up(worker.url))


@pytest.mark.parametrize(
    "reply",
    [
        web.Response(status=500, text="Internal Server Error"),
        web.Response(status=307, headers={"Location": "/elsewhere"}),
        web.Response(body=b'{"model_names": ["m"], "pad": "' + b"x" * 2_000_000 + b'"}'),
        web.Response(text="<html>hello</html>"),
        web.Response(text='{"model_names": "m"}'),
        web.Response(text="[]"),
    ],
    ids=["500", "redirect", "oversized", "html", "wrong type", "no object"],
)
async def test_unusable_status_is_down_after_some_misses(harness: Harness, reply: web.Response) -> None:
    """Answers that cannot be used, redirects and oversized ones among them, take a worker down; none is followed."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    worker.replies["/worker_get_status"] = reply
    await eventually(lambda: not harness.fleet.is_up(worker.url))
    assert harness.events["probe", "error"] >= 3
    assert worker.count("/elsewhere") == 0
    del worker.replies["/worker_get_status"]
    await eventually(lambda: harness.fleet.is_up(worker.url))


@pytest.mark.parametrize("fault", ["absent", "error body", "no tokenizer"])
async def test_worker_without_embeddings_is_llm_only(harness: Harness, fault: str) -> None:
    """A 404, an error in a 200 or a worker that only forwards makes no text2vec model; the last loses no slot."""
    worker = FakeWorker(m=FakeModel(vector=None if fault == "error body" else [0.5]))
    worker.embeddings = fault != "absent"
    worker.tokenizer = fault != "no tokenizer"
    await harness.serve(worker)
    await harness.source([worker.url])
    assert harness.answerable() == {"m@llm"}
    assert worker.count("/worker_get_embeddings") == (0 if fault == "no tokenizer" else 1)


async def test_embeddings_are_probed_once_in_a_life(harness: Harness) -> None:
    """Facts are fetched again and again, the call that blocks a worker is not repeated."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, facts_ttl=0.05)
    await harness.source([worker.url])
    await eventually(lambda: worker.count("/model_details") >= 4)
    assert worker.count("/worker_get_embeddings") == 1
    assert harness.answerable() == {"m@llm", "m@text2vec"}


async def test_slow_embeddings_do_not_delay_chat(harness: Harness) -> None:
    """A worker that is too busy for the probe can chat at once; its vectors are offered when it has answered."""
    harness.settings = FAST
    worker = FakeWorker(m=FakeModel())
    worker.hang.add("/worker_get_embeddings")
    await harness.serve(worker)
    await harness.source([worker.url])
    assert harness.answerable() == {"m@llm"}
    worker.hang.clear()
    await eventually(lambda: harness.answerable() == {"m@llm", "m@text2vec"})


@pytest.mark.parametrize("fault", ["http 500", "template"])
async def test_one_broken_model_of_two(harness: Harness, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    """A model that cannot be used leaves the other alone, is warned about once, and joins when it is repaired."""
    broken = (
        FakeModel(vector=None, broken=True) if fault == "http 500" else FakeModel(template="unheard-of", vector=None)
    )
    worker = FakeWorker(good=FakeModel(vector=None), bad=broken)
    await harness.serve(worker)
    await harness.source([worker.url])
    assert harness.answerable() == {"good@llm"}
    await eventually(lambda: worker.count("/worker_get_conv_template") >= 6)
    warnings = [record.getMessage() for record in caplog.records if "'bad'" in record.getMessage()]
    assert len(warnings) == 1
    assert ("answered 500" if fault == "http 500" else "sep_style is 99") in warnings[0]
    worker.models["bad"] = FakeModel(vector=None)
    await eventually(lambda: harness.answerable() == {"good@llm", "bad@llm"})


async def test_template_fault_on_a_worker_with_vectors_leaves_text2vec(harness: Harness) -> None:
    """A model without a usable template can still embed."""
    worker = FakeWorker(m=FakeModel(template="unheard-of"))
    await harness.serve(worker)
    await harness.source([worker.url])
    assert harness.answerable() == {"m@text2vec"}


async def test_worker_without_usable_model_is_down_and_says_why(harness: Harness) -> None:
    """When no model of a worker can be used it is not up, and it is not looked at with every probe."""
    worker = FakeWorker(m=FakeModel(template="unheard-of", vector=None))
    await harness.serve(worker)
    harness.settings = replace(FAST, look_retry=30.0)
    await harness.source([worker.url])
    await eventually(lambda: worker.count("/worker_get_status") >= 5)
    assert worker.count("/worker_get_conv_template") == 1
    view = harness.fleet.worker(worker.url)
    assert view is not None
    assert "sep_style is 99" in view.reason


async def test_changed_models_are_looked_at_at_once(harness: Harness) -> None:
    """Another list of models is another worker, whatever the age of the facts."""
    worker = FakeWorker(old=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    worker.models = {"new": FakeModel()}
    await eventually(lambda: harness.answerable() == {"new@llm", "new@text2vec"})


async def test_changed_template_is_seen_after_its_time(harness: Harness) -> None:
    """A restart between two probes shows only in the facts; they do not stay stale for ever."""
    worker = FakeWorker(m=FakeModel(2048))
    await harness.serve(worker)
    harness.settings = replace(FAST, facts_ttl=0.05)
    await harness.source([worker.url])
    worker.models["m"].context_length = 4096
    await eventually(lambda: getattr(harness.fleet.known("m"), "context_length", 0) == 4096)


async def test_refetch_that_fails_keeps_the_facts(harness: Harness) -> None:
    """A worker whose status is fine stays up with its last facts when they cannot be fetched again."""
    worker = FakeWorker(m=FakeModel(2048))
    await harness.serve(worker)
    harness.settings = replace(FAST, facts_ttl=0.05)
    await harness.source([worker.url])
    worker.hang.update({"/model_details", "/worker_get_conv_template"})
    await eventually(lambda: worker.count("/worker_get_conv_template") >= 3)
    worker.models["m"].broken = True
    worker.hang.clear()
    await eventually(lambda: worker.count("/worker_get_conv_template") >= 5)
    assert harness.answerable() == {"m@llm", "m@text2vec"}


async def test_failure_told_by_others_is_repaired(harness: Harness) -> None:
    """A worker that the data path declared down is looked at again and comes back."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = await harness.source([worker.url])
    harness.fleet.fail(worker.url, "reset in mid-stream", 0.0)
    source.check_soon(worker.url)
    await eventually(lambda: harness.fleet.is_up(worker.url))


async def test_check_soon_does_not_wait(harness: Harness) -> None:
    """A hint from the data path takes a dead worker down long before its next probe."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.settings = replace(FAST, probe_interval=30.0)
    source = await harness.source([worker.url])
    await eventually(lambda: worker.count("/worker_get_status") == 2)
    await worker.stop()
    source.check_soon(worker.url)
    await eventually(lambda: not harness.fleet.is_up(worker.url), seconds=1)


async def test_one_hanging_worker_delays_no_other(harness: Harness) -> None:
    """Each worker is watched on its own."""
    harness.settings = FAST
    slow, quick = FakeWorker(slow=FakeModel()), FakeWorker(quick=FakeModel())
    slow.hang.add("/worker_get_status")
    await harness.serve(slow, quick)
    patient = replace(FAST, status_timeout=5.0)
    source = alone(harness.fleet, [slow.url, quick.url], patient)
    task = asyncio.create_task(source.run())
    try:
        await eventually(lambda: "quick@llm" in harness.answerable(), seconds=1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()


async def test_controller_introduces_two_workers(harness: Harness) -> None:
    """Both replicas of one model are found at once, and the controller is asked for addresses seldom after that."""
    first, second, finder = FakeWorker(m=FakeModel()), FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(first, second, finder)
    finder.known = {"m": [first.url, second.url]}
    harness.settings = replace(STEADY, resolve_interval=30.0)
    await harness.source(controllers=[finder.url])
    assert [worker.up for worker in harness.fleet.workers()] == [True, True]
    await eventually(lambda: finder.count("/list_models") >= 5)
    assert finder.count("/get_worker_address") == 3
    assert finder.count("/refresh_all_workers") == 0


@pytest.mark.parametrize(("listed", "known"), [(["m"], True), ([], False), (None, False)])
async def test_a_controller_says_which_models_take_images(
    harness: Harness, listed: list[str] | None, known: bool
) -> None:
    """What it says is known from the worker's first use on; one that is too old to tell is not held to be down."""
    worker, finder = FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(worker, finder)
    finder.known, finder.for_images = {"m": [worker.url]}, listed
    await harness.source(controllers=[finder.url])
    facts = harness.fleet.known("m")
    assert facts is not None
    assert facts.document["images"] is known


async def test_new_model_of_a_controller_is_resolved_at_once(harness: Harness) -> None:
    """A worker that registers with the controller is in the fleet within one poll."""
    worker, finder = FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(worker, finder)
    harness.settings = replace(STEADY, resolve_interval=30.0)
    await harness.source(controllers=[finder.url])
    assert harness.events["discovery", "empty"] >= 1
    finder.known = {"m": [worker.url]}
    await eventually(lambda: "m@llm" in harness.answerable())


async def test_second_replica_is_found_later(harness: Harness) -> None:
    """A replica that joins a known model is found with the next rare question."""
    first, second, finder = FakeWorker(m=FakeModel()), FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(first, second, finder)
    finder.known = {"m": [first.url]}
    await harness.source(controllers=[finder.url])
    finder.known = {"m": [first.url, second.url]}
    await eventually(lambda: len(harness.fleet.workers()) == 2)


@pytest.mark.parametrize("fault", ["empty", "down", "hang", "500", "redirect", "oversized", "wrong type"])
async def test_controller_faults_leave_the_fleet(harness: Harness, fault: str) -> None:
    """An empty list, a dead or a broken controller takes no worker away."""
    harness.settings = FAST
    worker, finder = FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(worker, finder)
    finder.known = {"m": [worker.url]}
    await harness.source(controllers=[finder.url])
    replies = {
        "500": web.Response(status=500),
        "redirect": web.Response(status=302, headers={"Location": "/elsewhere"}),
        "oversized": web.Response(body=b'{"models": ["' + b"x" * 2_000_000 + b'"]}'),
        "wrong type": web.Response(text='{"models": [1]}'),
    }
    if fault == "empty":
        finder.known = {}
    elif fault == "down":
        await finder.stop()
    elif fault == "hang":
        finder.hang.add("/list_models")
    else:
        finder.replies["/list_models"] = replies[fault]
    expected = "empty" if fault == "empty" else "failed"
    await eventually(lambda: harness.events["discovery", expected] >= 2)
    assert harness.answerable() == {"m@llm", "m@text2vec"}
    assert finder.count("/elsewhere") == 0


async def test_unusable_addresses_are_warned_about_once(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """Addresses with credentials or another scheme are never called, and the log says so once each."""
    finder = FakeFinder()
    await harness.serve(finder)
    finder.known = {"a": ["http://user:secret@127.0.0.1:1"], "b": ["ftp://127.0.0.1:1"], "c": ["nonsense"]}
    harness.settings = replace(FAST, resolve_interval=0.0)
    await harness.source(controllers=[finder.url])
    await eventually(lambda: finder.count("/get_worker_address") > 10)
    warnings = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert len(warnings) == 3
    assert not any("secret" in warning for warning in warnings)
    assert harness.fleet.workers() == []


async def test_lost_worker_of_a_controller_is_dropped(harness: Harness) -> None:
    """Addresses that come and go do not pile up; the model stays known."""
    worker, finder = FakeWorker(m=FakeModel()), FakeFinder()
    await harness.serve(worker, finder)
    finder.known = {"m": [worker.url]}
    harness.settings = replace(FAST, forget_after=0.1, resolve_interval=0.05)
    await harness.source(controllers=[finder.url])
    finder.known = {}
    await worker.stop()
    await eventually(lambda: harness.fleet.workers() == [])
    assert harness.fleet.known("m") is not None
    await worker.start()
    finder.known = {"m": [worker.url]}
    await eventually(lambda: "m@llm" in harness.answerable())


async def test_state_changes_are_logged_once(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that stays down fills no log."""
    caplog.set_level(logging.INFO)
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await harness.source([worker.url])
    await worker.stop()
    await eventually(lambda: harness.events["probe", "refused"] >= 5)
    told = [record.getMessage() for record in caplog.records if worker.url in record.getMessage()]
    assert len([line for line in told if "refused" in line]) == 1
    assert len([line for line in told if ": ok: m (llm, text2vec)" in line]) == 1


async def test_too_many_models_and_too_long_names_stay_out(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that lists more than can be looked at is used for what fits."""
    worker = FakeWorker(**{f"m{number}": FakeModel() for number in range(10)}, **{"x" * 300: FakeModel()})
    await harness.serve(worker)
    harness.settings = replace(FAST, max_models_per_worker=4)
    await harness.source([worker.url])
    assert {name.split("@")[0] for name in harness.answerable()} == {"m0", "m1", "m2", "m3"}
    assert "7 of its 11 models stay out" in caplog.text


async def test_full_fleet_keeps_the_rest_out(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """One worker too many is told once and harms nobody."""
    workers = [FakeWorker(m=FakeModel()) for _ in range(3)]
    await harness.serve(*workers)
    harness.fleet = Fleet(max_workers=2, max_models_per_worker=8)
    await harness.source([worker.url for worker in workers])
    await eventually(lambda: harness.events["probe", "full"] >= 2)
    assert sum(view.up for view in harness.fleet.workers()) == 2
    assert caplog.text.count("stays out") == 1


async def test_first_look_is_bounded(harness: Harness) -> None:
    """A worker that accepts and never answers does not keep the gateway from starting."""
    harness.settings = FAST
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        await harness.source([f"http://127.0.0.1:{silent.getsockname()[1]}"])
        assert time.monotonic() - started < 1


async def test_fault_of_our_own_does_not_end_the_watching(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is told once, with its traceback, and the worker is watched on."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = alone(harness.fleet, [worker.url], FAST)
    faults = iter([True, True, False])

    def listener() -> None:
        if next(faults, False):
            raise RuntimeError("listener fault")

    harness.fleet.subscribe(listener)
    task = asyncio.create_task(source.run())
    try:
        await eventually(lambda: worker.count("/worker_get_status") >= 6)
        assert harness.answerable() == {"m@llm", "m@text2vec"}
        assert caplog.text.count("RuntimeError: listener fault") >= 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()


async def test_stop_ends_although_a_timeout_falls_into_it(harness: Harness) -> None:
    """A gateway that was blocked for a moment stops all the same: no watch misses its cancellation."""
    harness.settings = FAST
    worker = FakeWorker(m=FakeModel())
    worker.hang.add("/worker_get_status")
    await harness.serve(worker)
    source = alone(harness.fleet, [worker.url], FAST)
    task = asyncio.create_task(source.run())
    await eventually(lambda: worker.count("/worker_get_status"))
    time.sleep(FAST.status_timeout + 0.05)  # both the timeout and the cancellation are due when the loop goes on
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2)
    assert done
    await source.close()


def alone(fleet: Fleet, workers: list[str], settings: SourceSettings) -> FleetSource:
    """A source that the harness does not know of."""
    return FleetSource(fleet, workers=dict.fromkeys(workers, FastChatLooks(Knowledge(), settings)), settings=settings)


@pytest.mark.parametrize("url", ["127.0.0.1:21002", "ftp://h:1", "http://", "http://u:p@h:1", "http://h:1/?q=1"])
def test_named_worker_with_a_bad_address_is_refused(url: str) -> None:
    """A mistake in the settings is one sentence that does not repeat a password."""
    with pytest.raises(ValueError, match="expected") as caught:
        alone(Fleet(max_workers=1, max_models_per_worker=1), [url], FAST)
    assert "u:p" not in str(caught.value)
