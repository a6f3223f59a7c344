"""Workers that the settings declare: what is known of them, what beats what, lost and found again."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import orjson
import pytest
from aiohttp import web

from proxy.types import JsonObject
from tests.backends.declared.harness import DeclaredHarness, Lister, plain
from tests.backends.fakes import eventually
from tests.backends.fastchat.harness import FAST, Knowledge

SECRET = "sk-a-very-secret-key"


async def test_what_rules_see_of_a_worker(harness: DeclaredHarness) -> None:
    """Its own name of the model, the key, what it said of the model, and the defaults of the settings."""
    worker = Lister(m={"length": 4096, "kinds": ["llm", "text2vec"]})
    await harness.serve(worker)
    harness.models = Knowledge(m={"defaults": {"temperature": 0.5}})
    await harness.source({"url": worker.url + "/", "key": SECRET})
    assert harness.document("m") == {
        "model": "m",
        "address": worker.url,
        "backend": "example",
        "key": SECRET,
        "context_length": 4096,
        "conversation": None,
        "kinds": ["llm", "text2vec"],
        "embedding_size": None,
        "reasoning": None,
        "defaults": {"temperature": 0.5},
    }
    view = harness.fleet.worker(worker.url)
    assert view is not None
    assert (view.queue_length, view.limit) == (2, 7)
    assert worker.authorization == f"Bearer {SECRET}"
    assert harness.answerable() == {"m@llm", "m@text2vec"}


async def test_the_settings_beat_the_worker_and_the_worker_its_list(harness: DeclaredHarness) -> None:
    """For each fact: the model's own settings, the entry of the worker, what it shows, what it lists, what is usual."""
    worker = Lister(a={"length": 1}, b={"length": 2}, c={"length": 3}, d={}, e={})
    worker.lengths = {"a": 10, "b": 20, "c": 30, "d": 40}
    await harness.serve(worker)
    harness.models = Knowledge(a={"context_length": 100_000})
    models: JsonObject = {"a": {"context_length": 200}, "b": {"context_length": 200}, "c": {}, "d": {}, "e": {}}
    await harness.source({"url": worker.url, "models": models})
    lengths = {model: harness.document(model)["context_length"] for model in models}
    assert lengths == {"a": 100_000, "b": 200, "c": 3, "d": 40, "e": 1000}


async def test_a_model_under_another_name(harness: DeclaredHarness) -> None:
    """The fleet and the settings of models have the public name, the worker hears its own one."""
    worker = Lister(**{"org/m:8b": {"length": 4096}, "other": {}})
    await harness.serve(worker)
    harness.models = Knowledge(chat={"defaults": {"top_p": 0.5}})
    await harness.source({"url": worker.url, "models": {"org/m:8b": {"name": "chat", "kinds": ["text2vec", "llm"]}}})
    assert harness.answerable() == {"chat@llm", "chat@text2vec"}
    document = harness.document("chat")
    assert (document["model"], document["public_name"]) == ("org/m:8b", "chat")
    assert document["defaults"] == {"top_p": 0.5}
    assert ("/show", {"name": "org/m:8b"}) in worker.calls
    assert ("/show", {"name": "other"}) not in worker.calls


async def test_a_named_model_that_is_not_listed(harness: DeclaredHarness, caplog: pytest.LogCaptureFixture) -> None:
    """It is used where the worker tells of it all the same, which is said; not where the worker knows nothing of it."""
    worker = Lister(m={"length": 4096})
    await harness.serve(worker)
    worker.models["alias"] = {"length": 8}
    source = await harness.source({"url": worker.url, "models": ["m", "alias", "nothing"]})
    assert harness.answerable() == {"m@llm", "alias@llm"}
    worker.replies["/models"] = _listing("m")
    harness.update(source, {"url": worker.url, "models": ["m", "alias", "nothing"]})
    await eventually(lambda: "model 'alias': it is named in the settings" in caplog.text)
    assert harness.answerable() == {"m@llm", "alias@llm"}
    assert "model 'nothing': POST" in caplog.text


async def test_a_model_that_is_in_no_list_and_cannot_be_asked_about(harness: DeclaredHarness) -> None:
    """Where the backend has no question about one model, the settings are believed."""
    harness.rules = plain(more="limit: 3")
    worker = Lister(m={})
    await harness.serve(worker)
    await harness.source({"url": worker.url, "models": {"hidden": {"context_length": 10}}})
    assert harness.answerable() == {"hidden@llm"}


async def test_a_model_without_a_context_length_is_no_llm(harness: DeclaredHarness) -> None:
    """Nothing is guessed: it is told what to set, and vectors need none."""
    harness.rules = plain(more="kinds: [llm, text2vec]")
    worker = Lister(m={})
    await harness.serve(worker)
    source = await harness.source({"url": worker.url, "models": {"m": {"kinds": ["llm"]}}})
    assert "give backends[].models.NAME.context_length" in harness.reason(worker.url)
    harness.update(source, {"url": worker.url})
    await eventually(lambda: harness.answerable() == {"m@text2vec"})


async def test_models_come_and_go(harness: DeclaredHarness) -> None:
    """The list is the worker's; a model that it loads is served, one that it drops is not."""
    worker = Lister(a={})
    await harness.serve(worker)
    await harness.source({"url": worker.url})
    worker.models["b"] = {"kinds": "text2vec"}
    await eventually(lambda: harness.answerable() == {"a@llm", "b@text2vec"})
    del worker.models["a"]
    await eventually(lambda: harness.answerable() == {"b@text2vec"})
    worker.models.clear()
    await eventually(lambda: not harness.answerable())
    assert harness.reason(worker.url) == "none of its models can be used: it lists no models"


async def test_a_worker_that_is_gone_is_down_at_once_and_comes_back(harness: DeclaredHarness) -> None:
    """A refused connection needs no second."""
    worker = Lister(m={})
    await harness.serve(worker)
    harness.settings = replace(FAST, probes_to_down=1_000)
    await harness.source({"url": worker.url})
    await worker.stop()
    await eventually(lambda: not harness.fleet.is_up(worker.url))
    assert "connection refused" in harness.reason(worker.url)
    await worker.start()
    await eventually(lambda: harness.answerable() == {"m@llm"})


async def test_busy_is_not_down(harness: DeclaredHarness) -> None:
    """A worker that has requests of ours and answers no probe is left alone for as long as something came from it."""
    worker = Lister(m={})
    await harness.serve(worker)
    harness.settings = replace(FAST, look_timeout=0.1, busy_seconds=30.0)
    await harness.source({"url": worker.url})
    lease = harness.fleet.acquire("m", "llm", time.monotonic())
    worker.hang.add("/models")
    await eventually(lambda: harness.events["probe", "busy"] >= 5)
    assert harness.fleet.is_up(worker.url)
    lease.release("success", time.monotonic())
    await eventually(lambda: not harness.fleet.is_up(worker.url))


async def test_a_wrong_key_is_told_and_shown_nowhere(
    harness: DeclaredHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker's answer may repeat the key; no log line and no reason does. The right key makes it work."""
    caplog.set_level(logging.DEBUG)
    worker = Lister(m={})
    worker.wanted_key = "another"
    await harness.serve(worker)
    source = await harness.source({"url": worker.url, "key": SECRET})
    assert harness.reason(worker.url) == f"GET {worker.url}/models answered 401, expected 200"
    harness.update(source, {"url": worker.url, "key": "another"})
    await eventually(lambda: harness.answerable() == {"m@llm"})
    assert SECRET not in caplog.text
    assert SECRET not in str(harness.fleet.workers()[0].reason)


async def test_a_worker_of_another_kind_now(harness: DeclaredHarness) -> None:
    """A reload may give an address another backend: it is looked at anew by the other's rules."""
    harness.rules |= plain("plain")
    worker = Lister(m={"length": 4096})
    await harness.serve(worker)
    source = await harness.source({"url": worker.url})
    assert source.backend(worker.url) == "example"
    harness.update(source, {"url": worker.url, "kind": "plain"})
    await eventually(lambda: harness.answerable() == {"m@llm"} and source.backend(worker.url) == "plain")
    await eventually(lambda: harness.document("m")["context_length"] == 5)
    harness.update(source)
    assert not harness.fleet.workers()


async def test_other_rules_for_the_same_worker(harness: DeclaredHarness) -> None:
    """A reload may change how a backend's workers are looked at; what was known holds until something newer is."""
    worker = Lister(m={"length": 4096})
    await harness.serve(worker)
    source = await harness.source({"url": worker.url})
    lease = harness.fleet.acquire("m", "llm", time.monotonic())
    harness.rules = plain()
    harness.update(source, {"url": worker.url})
    assert harness.fleet.is_up(worker.url)
    await eventually(lambda: harness.document("m")["context_length"] == 5)
    assert harness.fleet.in_flight(worker.url) == 1
    lease.release("success", time.monotonic())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"no json", "answered what is not JSON"),
        (b"{}", "models: expected an array, got null"),
        (b'{"data": 5}', "models: expected an array, got null"),
        (b'{"data": [{"id": 5}]}', "models: expected names, or objects with a name"),
        (b'{"data": [{"id": "m", "length": "long"}]}', "context_length: expected a whole number from 1, got 'long'"),
        (b'{"data": [{"id": "m"}], "waiting": -1}', "queue_length: expected a whole number from 0, got -1"),
        (b'{"data": [' + b'{"id": "m"},' * 500_000 + b'{"id": "m"}]}', "answered more than 4000000 bytes"),
        (b"[" * 100_000, "answered what is not JSON"),
    ],
)
async def test_answers_that_mean_nothing(harness: DeclaredHarness, body: bytes, says: str) -> None:
    """Whatever a program answers, the watch goes on, says what is wrong, and believes the next good answer."""
    worker = Lister(m={})
    await harness.serve(worker)
    worker.replies["/models"] = _reply(body)
    await harness.source({"url": worker.url})
    assert says in harness.reason(worker.url)
    worker.replies.clear()
    await eventually(lambda: harness.answerable() == {"m@llm"})


async def test_ten_thousand_models(harness: DeclaredHarness, caplog: pytest.LogCaptureFixture) -> None:
    """No worker fills the fleet: the first of its models are used, and it is said that others are not."""
    harness.settings = replace(FAST, max_models_per_worker=4, look_timeout=3.0)
    harness.rules = plain()
    worker = Lister(**{f"m{number}": {} for number in range(10_000)})
    await harness.serve(worker)
    await harness.source({"url": worker.url})
    assert harness.answerable() == {"m0@llm", "m1@llm", "m2@llm", "m3@llm"}
    assert "9996 of its 10000 models stay out" in caplog.text
    assert worker.count("/show") == 0


async def test_names_that_nobody_can_use(harness: DeclaredHarness) -> None:
    """Control characters and names without an end stay out."""
    worker = Lister(**{"good": {}, "bad\n": {}, "x" * 1000: {}})
    await harness.serve(worker)
    await harness.source({"url": worker.url})
    assert harness.answerable() == {"good@llm"}


async def test_a_worker_that_drips_and_one_that_is_silent(harness: DeclaredHarness) -> None:
    """Neither holds up the start, nor the other workers."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    dripping = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    good, silent = Lister(m={}), Lister(s={})
    silent.hang.add("/models")
    await harness.serve(good, silent)
    began = time.monotonic()
    await harness.source({"url": dripping}, {"url": silent.url}, {"url": good.url})
    assert time.monotonic() - began < 2
    assert harness.answerable() == {"m@llm"}
    await eventually(lambda: harness.events["probe", "timeout"] >= 6)
    assert "no complete answer" in harness.reason(dripping)
    server.close()


async def test_the_gateway_itself_is_no_worker(harness: DeclaredHarness) -> None:
    """An address that leads back here is never asked anything."""
    worker = Lister(m={})
    await harness.serve(worker)
    harness.own = {worker.url}
    await harness.source({"url": worker.url})
    assert harness.reason(worker.url) == "it is this gateway itself, which cannot be a worker of its own"
    assert not worker.calls


async def test_it_is_asked_as_often_as_its_entry_says(harness: DeclaredHarness) -> None:
    """Each entry has its own pace; what is known of a model is asked once."""
    often, seldom = Lister(a={}), Lister(b={})
    await harness.serve(often, seldom)
    await harness.source({"url": often.url}, {"url": seldom.url, "probe_seconds": 60.0})
    await eventually(lambda: often.count("/models") >= 8)
    assert seldom.count("/models") <= 2
    assert often.count("/show") == 1


def _reply(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _listing(*names: str) -> web.Response:
    return _reply(orjson.dumps({"data": [{"id": name} for name in names]}))
