"""A controller as its workers and clients meet it: answers as recorded, and nothing bad gets through."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from proxy.backends.fastchat.controller.app import ListenerRules
from proxy.backends.fastchat.look import FastChatLooks
from proxy.fleet.facts import ModelFacts, WorkerReport
from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import Controller

RECORDED = [
    orjson.loads(line)
    for line in (Path(__file__).parents[3] / "recordings/fastchat_controller.jsonl").read_text("utf-8").splitlines()
]
CONTROL = [exchange for exchange in RECORDED if "generate_stream" not in exchange["name"]]
POSTS_WITH_BODY = ["/register_worker", "/receive_heart_beat", "/get_worker_address"]


async def started(controller: Controller, *workers: FakeWorker) -> None:
    await controller.harness.serve(*workers)
    await controller.start()


async def test_a_model_that_another_backend_serves_too(controller: Controller) -> None:
    """A client is sent to the gateway, because that worker would not understand it; and so is who asks for it alone."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    assert await controller.call("/get_worker_address", {"model": "m"}) == (200, {"address": worker.url})
    document: JsonObject = {"backend": "other"}
    models = tuple(ModelFacts(name, frozenset({"llm"}), 10, None, document) for name in ("m", "n"))
    controller.harness.fleet.report(WorkerReport("http://10.0.0.5:1", models), time.monotonic())
    for model in ("m", "n"):
        assert await controller.call("/get_worker_address", {"model": model}) == (200, {"address": controller.url})
    assert await controller.call("/list_models", {}) == (200, {"models": ["m", "n"]})


async def test_a_worker_of_another_backend_cannot_register(controller: Controller) -> None:
    """What the settings say of an address holds; it is told which backend that is."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)

    class Others(FastChatLooks):
        backend = "other"

    others = Others(controller.harness.models, controller.harness.settings)
    controller.source.introduce(worker.url, "settings", others)
    status, answer = await controller.register(worker.url)
    assert status == 403
    assert f"{worker.url} names it as a worker" not in str(answer)
    assert "watched as a worker of other" in str(answer)
    beat: Json = {"worker_name": worker.url, "queue_length": 0}
    assert (await controller.call("/receive_heart_beat", beat))[0] == 403


@pytest.mark.parametrize("exchange", CONTROL, ids=[exchange["name"] for exchange in CONTROL])
async def test_answers_are_those_of_the_recorded_controller(controller: Controller, exchange: dict[str, Json]) -> None:
    """Status, content type and every byte of the body are those that fschat 0.2.36 gave."""
    worker = FakeWorker(**{"tiny-vicuna": FakeModel()})
    worker.queue_length = 2
    await started(controller, worker)
    assert await controller.register(worker.url) == (200, None)
    await eventually(lambda: controller.harness.up() == {worker.url})
    request, response = exchange["request"], exchange["response"]
    assert isinstance(request, dict)
    assert isinstance(response, dict)
    sent = orjson.dumps(request["body"]).replace(b"http://127.0.0.1:21002", worker.url.encode())
    method, path = str(request["method"]), str(request["path"])
    body = None if method == "GET" else sent
    async with controller.session.request(method, controller.url + path, data=body) as answer:
        assert answer.status == response["status"]
        assert {"content-type": answer.headers["Content-Type"]} == response["headers"]
        assert (await answer.text()).replace(worker.url, "http://127.0.0.1:21002") == response["body"]


async def test_a_worker_registers_beats_and_is_listed(controller: Controller) -> None:
    """The whole conversation of a worker: unknown at first, then registered, probed, listed, and known."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    beat: Json = {"worker_name": worker.url, "queue_length": 0}
    assert await controller.call("/receive_heart_beat", beat) == (200, {"exist": False})
    assert await controller.register(worker.url) == (200, None)
    assert await controller.call("/receive_heart_beat", beat) == (200, {"exist": True})
    await eventually(lambda: controller.harness.answerable() == {"m@llm", "m@text2vec"})
    assert await controller.call("/list_models") == (200, {"models": ["m"]})
    assert await controller.call("/get_worker_address", {"model": "m"}) == (200, {"address": worker.url})
    assert controller.harness.events["registered_worker", "new"] == 1


async def test_a_status_is_not_needed(controller: Controller) -> None:
    """A registration without a status, or without the fields of later versions, is one."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    body: Json = {"worker_name": worker.url, "check_heart_beat": True, "worker_status": None}
    assert await controller.call("/register_worker", body) == (200, None)
    await eventually(lambda: controller.harness.up() == {worker.url})


async def test_a_worker_is_listed_only_when_it_can_answer(controller: Controller) -> None:
    """A registration alone makes no model; a worker that is gone takes its models along at once."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    await worker.stop()
    assert await controller.register(worker.url) == (200, None)
    assert await controller.call("/list_models") == (200, {"models": []})
    assert await controller.call("/get_worker_address", {"model": "m"}) == (200, {"address": ""})
    await worker.start()
    await eventually(lambda: controller.harness.up() == {worker.url})
    await worker.stop()
    await eventually(lambda: not controller.harness.up())
    assert await controller.call("/list_models") == (200, {"models": []})
    assert await controller.call("/refresh_all_workers") == (200, None)
    assert await controller.call("/worker_get_status") == (200, {"model_names": [], "speed": 0, "queue_length": 0})


async def test_refreshing_empties_nothing(controller: Controller) -> None:
    """FastChat's OpenAI server refreshes with every list of models; the list is the same before, during and after."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    calls = [controller.call(path) for _ in range(20) for path in ("/refresh_all_workers", "/list_models")]
    answers = await asyncio.gather(*calls)
    assert answers == [(200, None), (200, {"models": ["m"]})] * 20


async def test_sub_workers_that_register_alone_shrink_nothing(controller: Controller) -> None:
    """Each part of a program with several models registers the same address with its own model only; all stay."""
    worker = FakeWorker(a=FakeModel(), b=FakeModel(), c=FakeModel())
    await started(controller, worker)
    for alone in ("a", "b", "c"):
        assert await controller.register(worker.url, [alone]) == (200, None)
    await eventually(lambda: controller.harness.up() == {worker.url})
    for alone in ("b", "a"):
        assert await controller.register(worker.url, [alone]) == (200, None)
        assert await controller.call("/list_models") == (200, {"models": ["a", "b", "c"]})
    beats = [controller.call("/receive_heart_beat", {"worker_name": worker.url, "queue_length": n}) for n in (0, 2, 1)]
    assert await asyncio.gather(*beats) == [(200, {"exist": True})] * 3
    assert len(controller.harness.fleet.workers()) == 1


async def test_a_new_registration_brings_new_models_at_once(controller: Controller) -> None:
    """A worker that restarts with other models and registers is looked at without waiting for the next probe."""
    worker = FakeWorker(a=FakeModel())
    controller.harness.settings = replace(controller.harness.settings, probe_interval=30.0)
    await started(controller, worker)
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.answerable() == {"a@llm", "a@text2vec"})
    worker.models = {"b": FakeModel()}
    await controller.register(worker.url, ["b"])
    await eventually(lambda: controller.harness.answerable() == {"b@llm", "b@text2vec"}, seconds=2)


async def test_models_for_images_have_a_list_of_their_own(controller: Controller) -> None:
    """A model is in the list of its worker's kind, in both where workers of both kinds serve it."""
    text, image = FakeWorker(t=FakeModel(), both=FakeModel()), FakeWorker(i=FakeModel(), both=FakeModel())
    await started(controller, text, image)
    await controller.register(text.url)
    await controller.register(image.url, multimodal=True)
    await eventually(lambda: len(controller.harness.up()) == 2)
    assert await controller.call("/list_models") == (200, {"models": ["both", "i", "t"]})
    assert await controller.call("/list_language_models") == (200, {"models": ["both", "t"]})
    assert await controller.call("/list_multimodal_models") == (200, {"models": ["both", "i"]})


async def test_the_gateways_own_address_is_given_where_limits_are_to_hold(controller: Controller) -> None:
    """With hand_out gateway clients stay with the gateway; a header that names another host changes nothing."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    controller.rules = ListenerRules(hand_out="gateway")
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    headers = {"Host": "evil.example"}
    assert await controller.call("/get_worker_address", {"model": "m"}, headers=headers) == (
        200,
        {"address": controller.url},
    )
    assert await controller.call("/get_worker_address", {"model": "x"}) == (200, {"address": ""})
    controller.rules = ListenerRules(hand_out="gateway", own_url="http://gw.example:21001")
    assert await controller.call("/get_worker_address", {"model": "m"}) == (200, {"address": "http://gw.example:21001"})


async def test_a_further_name_leads_to_the_gateway(controller: Controller) -> None:
    """A worker does not know the aliases of its models, and one with several loses a slot on them."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    controller.aliases = {"gpt": "m"}
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    assert await controller.call("/list_models") == (200, {"models": ["gpt", "m"]})
    assert await controller.call("/get_worker_address", {"model": "gpt"}) == (200, {"address": controller.url})
    assert await controller.call("/get_worker_address", {"model": "m"}) == (200, {"address": worker.url})


async def test_every_other_path_is_the_gateways(controller: Controller) -> None:
    """Requests for generation reach the data path whole, with method, query and body."""
    await started(controller)
    assert await controller.call("/worker_generate_stream?x=1", b'{"model": "m"}') == (200, "the gateway's own")
    assert await controller.call("/else", method="GET") == (200, "the gateway's own")
    assert controller.fallen == [("POST", "/worker_generate_stream?x=1", b'{"model": "m"}'), ("GET", "/else", b"")]


TOKEN = "a-secret-token"


@pytest.mark.parametrize(
    ("prefix", "headers", "status"),
    [
        (f"/{TOKEN}", {}, 200),
        ("", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("", {"X-Gateway-Token": TOKEN}, 200),
        ("", {}, 401),
        ("/wrong", {}, 401),
        ("", {"Authorization": f"Basic {TOKEN}"}, 401),
        ("", {"Authorization": f"Bearer {TOKEN}x"}, 401),
        ("", {"X-Gateway-Token": ""}, 401),
    ],
)
async def test_a_token_opens_each_control_call(
    controller: Controller, prefix: str, headers: dict[str, str], status: int
) -> None:
    """With a token nobody registers, lists or is told an address without it, in whichever of three places it comes."""
    controller.rules = ListenerRules(token=TOKEN)
    await started(controller)
    body: Json = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": True}
    assert (await controller.call(f"{prefix}/register_worker", body, headers=headers))[0] == status
    beat: Json = {"worker_name": "http://127.0.0.1:9", "queue_length": 0}
    assert (await controller.call(f"{prefix}/receive_heart_beat", beat, headers=headers))[0] == status
    assert (await controller.call(f"{prefix}/list_models", headers=headers))[0] == status
    assert controller.harness.events["rejected_registration", "token"] == (status == 401)


async def test_a_token_in_front_is_not_part_of_the_gateways_paths(controller: Controller) -> None:
    """A client whose controller address carries the token reaches the data path under its usual paths."""
    controller.rules = ListenerRules(token=TOKEN)
    await started(controller)
    assert await controller.call(f"/{TOKEN}/worker_generate?a=b%20c", b"{}") == (200, "the gateway's own")
    assert await controller.call("/test_connection", method="GET") == (200, "success")
    assert controller.fallen == [("POST", "/worker_generate?a=b%20c", b"{}")]


async def test_without_the_token_nothing_falls_through(controller: Controller) -> None:
    """The listener that workers reach gives the data path to nobody else: what is not open wants the token."""
    controller.rules = ListenerRules(token=TOKEN)
    await started(controller)
    for path in ("/worker_generate", "/wrong/worker_generate", "/", f"/{TOKEN}x/worker_generate"):
        assert (await controller.call(path, b"{}"))[0] == 401
    assert controller.fallen == []
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert await controller.call("/worker_generate", b"{}", headers=headers) == (200, "the gateway's own")


async def test_what_is_withheld_is_not_served(controller: Controller) -> None:
    """Operations are no business of whoever may register, with a token or without, in front of the path or not."""
    await started(controller)
    controller.withheld = {("POST", "/stop")}
    for token, path in ((None, "/stop"), (None, "/stop?x=1"), (TOKEN, f"/{TOKEN}/stop")):
        controller.rules = ListenerRules(token=token)
        status, answer = await controller.call(path, b"{}")
        assert status == 404
        assert "not served at the address where workers register" in str(answer)
    controller.rules = ListenerRules()
    assert await controller.call("/stop", method="GET") == (200, "the gateway's own")
    assert [path for _, path, _ in controller.fallen] == ["/stop"]


@pytest.mark.parametrize("path", ["//[x", "//register_worker", "///", "//a:b@c"])
async def test_a_path_that_could_be_a_host_is_not_found(controller: Controller, path: str) -> None:
    """Two slashes behind the token are a mistake of the caller, not of the gateway."""
    controller.rules = ListenerRules(token=TOKEN)
    await started(controller)
    assert (await controller.call(f"/{TOKEN}{path}", b"{}"))[0] == 404
    assert controller.fallen == []


async def test_a_client_with_the_token_is_sent_to_where_it_is_let_in(controller: Controller) -> None:
    """The address of the gateway that a client is given carries the token that it asked with."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    controller.rules = ListenerRules(token=TOKEN, hand_out="gateway")
    _, answer = await controller.call(f"/{TOKEN}/get_worker_address", {"model": "m"})
    assert answer == {"address": f"{controller.url}/{TOKEN}"}
    assert await controller.call(f"/{TOKEN}/worker_generate", b"{}") == (200, "the gateway's own")


# What a running worker of FastChat 0.2.36 does: after {"exist": false} it registers, and any status but 200 ends its
# heartbeats for ever; after a heartbeat's answer without "exist" it asks again in 5 s.


async def beat(controller: Controller, url: str) -> tuple[int, Json]:
    return await controller.call("/receive_heart_beat", {"worker_name": url, "queue_length": 0})


async def test_a_running_worker_is_told_to_register_only_where_it_would_be_taken(controller: Controller) -> None:
    """A refusal would end its heartbeats, so it hears of it instead of an invitation, and asks again."""
    controller.limits = replace(controller.limits, of_this_machine=1)
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    for url, status in (("http://203.0.113.9:1", 403), ("http://no.example:1", 400), (f"{worker.url}/x", 400)):
        code, answer = await beat(controller, url)
        assert (code, list(answer) if isinstance(answer, dict) else answer) == (status, ["detail"])
    assert await beat(controller, "http://127.0.0.1:9") == (200, {"exist": False})
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    status, answer = await beat(controller, "http://127.0.0.1:9")
    assert status == 503
    assert "1 workers have registered from 127.0.0.1" in str(answer)
    assert await beat(controller, worker.url) == (200, {"exist": True})
    assert controller.harness.events["registered_worker", "new"] == 1


async def test_a_worker_is_put_off_without_harm(controller: Controller) -> None:
    """Where there is no room now the answer is a 200 that says so, is counted and logged, and takes nobody in."""
    controller.limits = replace(controller.limits, of_this_machine=1)
    worker, late = FakeWorker(m=FakeModel()), FakeWorker(n=FakeModel())
    await started(controller, worker, late)
    assert await controller.register(worker.url) == (200, None)
    await eventually(lambda: controller.harness.up() == {worker.url})
    status, answer = await controller.register(late.url)
    assert status == 200
    assert "as many as may from one address" in str(answer)
    assert controller.harness.events["rejected_registration", "full"] == 1
    assert [row.address for row in controller.registry.rows()] == [worker.url]


async def test_while_the_gateway_stops_nobody_is_told_to_register(controller: Controller) -> None:
    """The listener would be gone when the registration comes, which ends a worker's heartbeats; it asks again later."""
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    await controller.register(worker.url)
    controller.rules = ListenerRules(stopping=True)
    assert await beat(controller, worker.url) == (200, {"exist": True})
    assert (await beat(controller, "http://127.0.0.1:9"))[0] == 503
    assert (await controller.register("http://127.0.0.1:9"))[0] == 200


async def test_what_is_out_of_service_stays_for_who_asks_for_the_worker(controller: Controller) -> None:
    """Out of service is a model at the gateway: what is handed out is listed, and each address serves what it is for.

    Clients that call the worker keep it; further names and hand_out gateway lead to the gateway, which refuses.
    """
    worker = FakeWorker(m=FakeModel())
    await started(controller, worker)
    controller.aliases = {"gpt": "m"}
    await controller.register(worker.url)
    await eventually(lambda: controller.harness.up() == {worker.url})
    controller.out_of_service = {"m"}

    async def told() -> tuple[Json, Json, Json]:
        lists = [await controller.call("/list_models"), await controller.call("/list_language_models")]
        status = await controller.call("/worker_get_status")
        assert isinstance(status[1], dict)
        assert lists == [(200, {"models": status[1]["model_names"]})] * 2
        addresses = [await controller.call("/get_worker_address", {"model": name}) for name in ("m", "gpt")]
        own, further = (answer["address"] for _, answer in addresses if isinstance(answer, dict))
        return status[1]["model_names"], own, further

    assert await told() == (["m"], worker.url, "")
    controller.rules = ListenerRules(hand_out="gateway")
    assert await told() == ([], "", "")
    controller.out_of_service = set()
    assert await told() == (["gpt", "m"], controller.url, controller.url)


GOOD: dict[str, Json] = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": True, "worker_status": None}
MODELS: dict[str, Json] = {"model_names": ["m"], "speed": 1, "queue_length": 0}
BAD_REGISTRATIONS: dict[str, Json | bytes] = {
    "no JSON": b"{worker_name: 1}",
    "nothing": b"",
    "not UTF-8": b'{"worker_name": "\xff"}',
    "a list": [],
    "deep": b"[" * 100_000,
    "no name": {key: value for key, value in GOOD.items() if key != "worker_name"},
    "no check_heart_beat": {key: value for key, value in GOOD.items() if key != "check_heart_beat"},
    "name null": {**GOOD, "worker_name": None},
    "name object": {**GOOD, "worker_name": {}},
    "check_heart_beat text": {**GOOD, "check_heart_beat": "yes"},
    "status text": {**GOOD, "worker_status": "m"},
    "status without models": {**GOOD, "worker_status": {}},
    "models text": {**GOOD, "worker_status": {**MODELS, "model_names": "m"}},
    "models numbers": {**GOOD, "worker_status": {**MODELS, "model_names": [1]}},
    "huge list of models": {**GOOD, "worker_status": {**MODELS, "model_names": ["m"] * 5_000}},
    "model with @": {**GOOD, "worker_status": {**MODELS, "model_names": ["m@llm"]}},
    "model with control characters": {**GOOD, "worker_status": {**MODELS, "model_names": ["m\n\x00"]}},
    "model of 10 kB": {**GOOD, "worker_status": {**MODELS, "model_names": ["m" * 10_000]}},
    "empty model": {**GOOD, "worker_status": {**MODELS, "model_names": [""]}},
    "multimodal text": {**GOOD, "multimodal": "no"},
    "name with @": {**GOOD, "worker_name": "http://a:b@127.0.0.1:9"},
    "name with control characters": {**GOOD, "worker_name": "http://127.0.0.1:9/\r\nX: y"},
    "name of 10 kB": {**GOOD, "worker_name": "http://" + "a" * 10_000},
    "another scheme": {**GOOD, "worker_name": "file:///etc/passwd"},
    "metadata": {**GOOD, "worker_name": "http://169.254.169.254/latest"},
    "another host": {**GOOD, "worker_name": "http://203.0.113.1:21002"},
    "unknown name": {**GOOD, "worker_name": "http://nowhere.invalid"},
}


@pytest.mark.parametrize("kind", BAD_REGISTRATIONS)
async def test_bad_registrations_are_refused_in_one_sentence(controller: Controller, kind: str) -> None:
    """Each mistake is a 4xx with a short reason, is counted, and leaves fleet and table as they were."""
    await started(controller)
    status, answer = await controller.call("/register_worker", BAD_REGISTRATIONS[kind])
    assert 400 <= status < 500, answer
    assert isinstance(answer, dict)
    assert list(answer) == ["detail"]
    assert 5 < len(str(answer["detail"])) < 700
    assert sum(count for (name, _), count in controller.harness.events.items() if name == "rejected_registration") == 1
    assert controller.registry.rows() == []
    assert controller.harness.fleet.workers() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/receive_heart_beat", {"worker_name": "http://127.0.0.1:9"}),
        ("/receive_heart_beat", {"queue_length": 1}),
        ("/receive_heart_beat", {"worker_name": 1, "queue_length": 1}),
        ("/receive_heart_beat", {"worker_name": "x", "queue_length": "1"}),
        ("/receive_heart_beat", {"worker_name": "x", "queue_length": -1}),
        ("/receive_heart_beat", {"worker_name": "x", "queue_length": True}),
        ("/receive_heart_beat", {"worker_name": "x", "queue_length": 1e300}),
        ("/get_worker_address", {}),
        ("/get_worker_address", {"model": None}),
        ("/get_worker_address", {"model": ["m"]}),
        ("/get_worker_address", {"model": "m" * 10_000}),
        ("/get_worker_address", {"model": "m@llm"}),
        ("/get_worker_address", {"model": "m\x00"}),
        ("/get_worker_address", []),
    ],
)
async def test_bad_calls_are_refused_in_one_sentence(controller: Controller, path: str, body: Json) -> None:
    """Missing fields and wrong types are told to the caller, of each call that reads a body."""
    await started(controller)
    status, answer = await controller.call(path, body)
    assert status == 400
    assert isinstance(answer, dict)
    assert "\n" not in str(answer["detail"])


@pytest.mark.parametrize("path", POSTS_WITH_BODY)
async def test_large_bodies_are_refused(controller: Controller, path: str) -> None:
    """A body over the bound is not read to its end, whether its length is told or not."""
    await started(controller)
    huge = b'{"worker_name": "' + b"x" * 1_000_000 + b'"}'
    assert (await controller.call(path, huge))[0] == 413
    reader, writer = await asyncio.open_connection("127.0.0.1", controller.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    writer.write(b"80000\r\n" + b"x" * 0x80000 + b"\r\n")
    assert b" 413 " in await reader.readline()
    writer.close()


@pytest.mark.parametrize("path", POSTS_WITH_BODY)
async def test_slow_bodies_are_refused(controller: Controller, path: str) -> None:
    """Whoever sends a body byte by byte is told so after a bounded time."""
    await started(controller)
    reader, writer = await asyncio.open_connection("127.0.0.1", controller.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    began = time.monotonic()
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 3)
    assert time.monotonic() - began < 2
    writer.close()


async def test_methods_are_those_of_a_controller(controller: Controller) -> None:
    """Another method on a path of a controller is a 405 that names the right one."""
    await started(controller)
    for path, method in (("/register_worker", "GET"), ("/list_models", "PUT"), ("/test_connection", "POST")):
        status, answer = await controller.call(path, method=method)
        assert status == 405
        assert isinstance(answer, dict)
        assert path in str(answer["detail"])
    assert controller.fallen == []


async def test_a_worker_that_redirects_is_not_followed(controller: Controller) -> None:
    """A callback that answers with another address is not used, and the other address is never called."""
    worker, elsewhere = FakeWorker(m=FakeModel()), FakeWorker(m=FakeModel())
    await started(controller, worker, elsewhere)
    location = f"{elsewhere.url}/worker_get_status"
    worker.replies["/worker_get_status"] = web.Response(status=307, headers={"Location": location})
    assert await controller.register(worker.url) == (200, None)
    await eventually(lambda: worker.count("/worker_get_status") >= 3)
    assert elsewhere.calls == []
    assert controller.harness.up() == set()


async def test_refusals_are_told_once_a_minute(controller: Controller, caplog: pytest.LogCaptureFixture) -> None:
    """Who registers wrongly again and again fills no log, and every try is counted."""
    caplog.set_level(logging.INFO)
    await started(controller)
    for number in range(50):
        await controller.register(f"http://203.0.113.{number}:1")
    await controller.register("ftp://x")
    told = [record for record in caplog.records if "was refused" in record.getMessage()]
    assert len(told) == 2
    assert controller.harness.events["rejected_registration", "not_allowed"] == 50
    assert controller.harness.events["rejected_registration", "malformed"] == 1


async def test_the_gateway_does_not_register_with_itself(controller: Controller) -> None:
    """The listener's own address, in any spelling, is no worker: prompts would go round in a circle."""
    await started(controller)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]"):
        status, answer = await controller.register(f"http://{host}:{controller.port}")
        assert status == 403
        assert "is this gateway" in str(answer)
