"""FastChat's own clients in front of the gateway: what they get is what the worker itself would have given them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.demo.faults import Fault
from proxy.demo.worker import DemoWorker
from proxy.settings import Address
from proxy.types import Json, JsonObject
from tests.gateway.client import Reply, call, connected, frames_of
from tests.gateway.rig import MODEL, Rig, asked, demo_worker, running, shipped, until, with_script
from tests.gateway.scripted import COUNT, EMBEDDINGS, STREAM, STREAM_HEAD, chunk, json_response, sends, then_gone

WHOLE = "/worker_generate"
TEMPLATE = "/worker_get_conv_template"
DETAILS = "/model_details"

# What FastChat 0.2.36's API server sends for a chat.
CHAT: JsonObject = {
    "model": MODEL, "prompt": "USER: Hello ASSISTANT:", "temperature": 0.7, "logprobs": None, "top_p": 1.0,
    "top_k": -1, "presence_penalty": 0.0, "frequency_penalty": 0.0, "max_new_tokens": 512, "echo": False,
    "stop_token_ids": None, "stop": ["</s>"],
}  # fmt: skip


async def ask(rig: Rig, path: str, body: Json) -> Reply:
    return await call(rig.listen, "POST", path, body)


async def ask_worker(worker: DemoWorker, path: str, body: JsonObject) -> Reply:
    """The same question to the worker, without the gateway and without nulls, which would cost it a slot."""
    host, port = worker.address.removeprefix("http://").split(":")
    plain: JsonObject = {name: value for name, value in body.items() if value is not None}
    return await call(Address(host, int(port)), "POST", path, plain)


def test_the_pack_is_shipped_and_shares_the_address_with_the_other() -> None:
    """An operator gets both dialects without a setting, and no route of one in the numbers of the other."""
    assert set(shipped().packs) >= {"dbgpt-worker", "fastchat-worker"}
    names = [route.name for route in shipped().table.routes]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "more",
    [{}, {"logprobs": 1, "max_new_tokens": 3}, {"echo": True}, {"echo": None}, {"stop": ["count"]}],
    ids=["chat", "logprobs", "echo", "default-echo", "stop"],
)
async def test_a_stream_is_the_worker_s_own_frame_by_frame(rig: Rig, worker: DemoWorker, more: JsonObject) -> None:
    """Text, usage, finish, logprobs and their nulls: nothing is held back, added or left out."""
    body: JsonObject = {**CHAT, **more}
    reply = await ask(rig, STREAM, body)
    sent = asked(worker)[-1][1]
    assert reply.status == 200
    assert None not in sent.values()
    assert ("echo" in sent) is (body["echo"] is not None)
    assert frames_of(reply.body) == frames_of((await ask_worker(worker, STREAM, body)).body)
    assert len(frames_of(reply.body)) > 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (WHOLE, CHAT),
        (EMBEDDINGS, {"model": MODEL, "input": [f"text {number}" for number in range(19)]}),
        (EMBEDDINGS, {"model": MODEL, "input": ["text"], "encoding_format": "base64"}),
        (COUNT, {"model": MODEL, "prompt": "hello world 你好"}),
        (TEMPLATE, {"model": MODEL}),
        (DETAILS, {"model": MODEL, "prompt": "hello"}),
    ],
    ids=["generate", "vectors", "packed-vectors", "count", "template", "details"],
)
async def test_an_answer_is_the_worker_s_own(rig: Rig, worker: DemoWorker, path: str, body: JsonObject) -> None:
    """The same JSON, in one question to the worker at most."""
    before = len(asked(worker))
    reply = await ask(rig, path, body)
    assert len(asked(worker)) - before <= 1
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == (await ask_worker(worker, path, body)).json


@pytest.fixture
async def renamed() -> AsyncIterator[tuple[Rig, DemoWorker]]:
    """A model whose name in the fleet is not one that every client could say."""
    async with demo_worker("org/model@v1") as worker, running(worker.address) as rig:
        yield rig, worker


async def test_the_worker_hears_its_own_name_of_the_model(renamed: tuple[Rig, DemoWorker]) -> None:
    """A client may know a model by its public name; a worker with several models behind one address would not."""
    rig, worker = renamed
    (public,) = rig.gateway.backends.public_names()
    assert public != "org/model@v1"
    calls: list[tuple[str, JsonObject]] = [
        (STREAM, CHAT), (WHOLE, CHAT), (EMBEDDINGS, {"input": ["a"]}), (COUNT, {"prompt": "a"}), (TEMPLATE, {}),
    ]  # fmt: skip
    for path, body in calls:
        reply = await ask(rig, path, {**body, "model": public})
        assert (reply.status, b'"error_code":5' in reply.body) == (200, False), reply
        assert asked(worker)[-1][1]["model"] == "org/model@v1"
    assert (await ask(rig, DETAILS, {"model": public})).json == {"context_length": 4096}


async def test_an_unknown_model_is_one_frame_that_says_so(rig: Rig) -> None:
    """HTTP 200 with the code that FastChat's controller has for it, once, and the names that there are."""
    (frame,) = frames_of((await ask(rig, STREAM, {**CHAT, "model": "none"})).body)
    assert frame.keys() == {"text", "error_code"}
    assert frame["error_code"] == 50005
    assert "known models: m" in str(frame["text"])


@pytest.mark.parametrize("path", [WHOLE, EMBEDDINGS, COUNT, TEMPLATE, DETAILS])
async def test_an_error_without_a_stream_has_its_status_in_the_body(rig: Rig, path: str) -> None:
    """FastChat's API server keeps the body of any status but 200 as if it were the answer, a template for ever."""
    reply = await ask(rig, path, {**CHAT, "input": ["a"], "model": "none"})
    assert (reply.status, reply.object["error_code"]) == (200, 50005)


async def test_a_model_whose_worker_is_gone_is_told_as_the_controller_does() -> None:
    """50005, at once; what is known of the model is still told."""
    async with demo_worker() as worker, running(worker.address) as rig:
        await worker.stop()
        rig.gateway.backends.trouble(worker.address)
        await rig.down()
        (frame,) = frames_of((await ask(rig, STREAM, CHAT)).body)
        assert frame["error_code"] == 50005
        assert (await ask(rig, TEMPLATE, {"model": MODEL})).object["error_code"] == 50005
        assert (await ask(rig, DETAILS, {"model": MODEL})).json == {"context_length": 4096}


@pytest.mark.parametrize("path", [STREAM, WHOLE, EMBEDDINGS])
async def test_a_worker_s_own_error_keeps_its_words(rig: Rig, worker: DemoWorker, path: str) -> None:
    """The client reads the worker's text and code, as if it had asked the worker itself."""
    fault = Fault("error", message="no memory left", code=50002)
    worker.fault = lambda called, _: fault if called in (STREAM, path) else None
    body: JsonObject = {**CHAT, "input": ["a"]}
    reply, own = await ask(rig, path, body), await ask_worker(worker, path, body)
    assert reply.status == 200
    assert frames_of(reply.body) == frames_of(own.body) if path == STREAM else reply.json == own.json


async def test_a_lost_worker_ends_the_stream_with_an_error_frame(rig: Rig, worker: DemoWorker) -> None:
    """What came before is there, then one frame with a code that is not 0."""
    worker.fault = lambda path, _: Fault("cut", after=2) if path == STREAM else None
    *before, last = frames_of((await ask(rig, STREAM, CHAT)).body)
    assert [frame["error_code"] for frame in before] == [0, 0]
    assert last.keys() == {"text", "error_code"}
    assert last["error_code"] == 50001


@pytest.mark.parametrize(
    "more",
    [{"temperature": []}, {"prompt": None}, {"stop": ["a", None]}, {"max_new_tokens": 0}, {"stop_token_ids": {"a": 1}}],
    ids=["list", "prompt", "stop", "tokens", "ids"],
)
@pytest.mark.parametrize("path", [STREAM, WHOLE])
async def test_what_would_cost_the_worker_a_slot_does_not_reach_it(
    rig: Rig, worker: DemoWorker, path: str, more: JsonObject
) -> None:
    """The caller gets a frame that names the field; the worker keeps its slots."""
    before = len(asked(worker))
    reply = await ask(rig, path, {**CHAT, **more})
    (answer,) = frames_of(reply.body) if path == STREAM else [reply.object]
    assert (reply.status, str(answer["error_code"])[:3]) == (200, "400" if "max_new_tokens" not in more else "403")
    assert str(answer["text"]).startswith(next(iter(more)))
    assert len(asked(worker)) == before
    assert worker.queue_length == 0


async def test_numbers_and_texts_survive_as_they_are() -> None:
    """Floats keep every digit, keys that nobody knows stay, and no script is changed."""
    frames: list[JsonObject] = [
        {"text": "你好 \ufffd", "error_code": 0, "cumulative_logprob": [-5.316295146942139], "made_up": {"a": [None]}},
        {"text": "你好 😀", "error_code": 0, "cumulative_logprob": -0.1, "finish_reason": "abort"},
    ]
    wire = b"".join(chunk(json_response(frame).split(b"\r\n\r\n", 1)[1] + b"\0") for frame in frames)
    async with with_script(STREAM, sends(STREAM_HEAD + wire + b"0\r\n\r\n")) as (rig, _):
        assert frames_of((await ask(rig, STREAM, CHAT)).body) == frames
        assert (await ask(rig, WHOLE, CHAT)).json == frames[-1]


@pytest.mark.parametrize("path", [STREAM, WHOLE])
async def test_a_client_that_leaves_frees_the_worker(path: str) -> None:
    """Its place under the worker's limit and the connection are let go at once, also where it waits for one answer."""
    async with with_script(STREAM, then_gone(STREAM_HEAD)) as (rig, worker):
        async with connected(rig.listen) as connection:
            await connection.request("POST", path, CHAT)
            await until(lambda: bool(worker.struck), lambda: "the worker was not asked")
            assert rig.busy()
            await connection.leave()
        await rig.quiet()


async def test_both_dialects_share_the_worker(rig: Rig, worker: DemoWorker) -> None:
    """Requests of both kinds of clients at once end well, and each is counted under its own route."""
    hello: JsonObject = {"model": MODEL, "messages": [{"role": "human", "content": "Hello"}]}
    replies = await asyncio.gather(*[ask(rig, STREAM, CHAT) for _ in range(3)], rig.post("generate_stream", hello))
    assert {frames_of(reply.body)[-1]["finish_reason"] for reply in replies} == {"stop"}
    assert await rig.outcomes("worker_generate_stream") == {"ok": 3}
    assert await rig.outcomes("generate_stream") == {"ok": 1}
    assert worker.queue_length == 0
