"""What clients of FastChat's OpenAI server get of the gateway: whole, refused, broken off, and left by them."""

from __future__ import annotations

import json

import pytest

from proxy.server.keys import key_digest
from proxy.types import Json, JsonObject
from tests.gateway.client import Reply, call, connected
from tests.gateway.rig import MODEL, asked, running, until, with_demo, with_script
from tests.gateway.scripted import (
    GOOD,
    STREAM,
    STREAM_HEAD,
    Part,
    chunk,
    frame,
    json_response,
    sends,
    then_closed,
    then_gone,
)
from tests.interop.wire import at, list_at, text_at

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, JsonObject] = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50},
    COMPLETION: {"model": MODEL, "prompt": "Hello", "max_tokens": 50},
}
BUSY = b'{"text": "**BUSY**\\n\\n(no memory)", "error_code": 50002}\0'
BEGUN = STREAM_HEAD + chunk(frame("Hel")) + chunk(frame("Hello"))
paths = pytest.mark.parametrize("path", BODIES)


def events(reply: Reply) -> list[JsonObject]:
    """The events of a whole stream."""
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream"), reply
    *lines, done, end = reply.body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def said(stream: list[JsonObject]) -> str:
    """The new texts of the events, put together."""
    choices = [at(each, "choices", 0) for each in stream]
    texts = [each.get("text", each.get("delta")) for each in choices if isinstance(each, dict)]
    return "".join(str(each.get("content", "") if isinstance(each, dict) else each) for each in texts)


@paths
async def test_a_stream_and_an_answer_are_of_one_request_each(path: str) -> None:
    """One id in all events of a stream, another one in the next answer; the text is the same."""
    async with with_script(STREAM, sends(GOOD)) as (rig, _):
        stream = events(await call(rig.listen, "POST", path, {**BODIES[path], "stream": True}))
        whole = (await call(rig.listen, "POST", path, BODIES[path])).object
    assert said(stream) == "Hello!"
    assert at(stream[-1], "choices", 0, "finish_reason") == "stop"
    assert len({text_at(each, "id") for each in stream}) == 1
    assert whole["id"] != stream[0]["id"]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    choice = at(whole, "choices", 0)
    assert isinstance(choice, dict)
    assert choice.get("text", choice.get("message")) in ("Hello!", {"role": "assistant", "content": "Hello!"})


async def test_the_usage_of_a_stream_comes_behind_it_where_it_is_asked_for() -> None:
    body: JsonObject = {**BODIES[CHAT], "stream": True, "stream_options": {"include_usage": True}}
    async with with_script(STREAM, sends(GOOD)) as (rig, _):
        *stream, last = events(await call(rig.listen, "POST", CHAT, body))
    assert at(stream[-1], "choices", 0, "finish_reason") == "stop"
    assert (last["choices"], last["usage"]) == ([], {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9})


REFUSED: list[tuple[JsonObject, int, str]] = [
    ({"model": "absent"}, 40301, "model_not_found"),
    ({"model": None}, 40001, "model_missing"),
    ({"temperature": 3}, 40302, "out_of_range"),
    ({"stop": 5}, 40001, "invalid_request"),
]


@paths
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("changed", "code", "name"), REFUSED)
async def test_what_is_refused_is_told_in_both_forms(
    path: str, changed: JsonObject, code: int, name: str, *, streams: bool
) -> None:
    """As FastChat's server tells it, and as OpenAI's clients look for it; nothing was sent to the worker."""
    async with with_demo() as (rig, worker):
        reply = await call(rig.listen, "POST", path, {**BODIES[path], "stream": streams, **changed})
        assert STREAM not in [path for path, _ in asked(worker)]
    assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
    found = reply.object
    assert (found["object"], found["code"]) == ("error", code)
    assert at(found, "error", "message") == found["message"]
    assert (at(found, "error", "type"), at(found, "error", "code")) == ("invalid_request_error", name)


FAILURES: list[tuple[Part, int, int]] = [
    (then_closed(), 502, 50001),
    (sends(json_response({"detail": "out of order"}, "500 Internal Server Error")), 502, 50001),
    # Its own word on this request, which FastChat's server passes on so.
    (sends(STREAM_HEAD + chunk(BUSY)), 400, 50002),
]


@paths
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("part", "status", "code"), FAILURES)
async def test_a_worker_that_fails_at_once_is_a_status(
    path: str, part: Part, status: int, code: int, *, streams: bool
) -> None:
    """The client has seen nothing yet, so that it can try again where that may help."""
    async with with_script(STREAM, part, balance={"retries": {"attempts": 1}}) as (rig, _):
        reply = await call(rig.listen, "POST", path, {**BODIES[path], "stream": streams})
    assert (reply.status, reply.object["code"]) == (status, code)


@paths
async def test_a_stream_that_breaks_off_ends_in_an_error_of_both_forms(path: str) -> None:
    """`error` is what OpenAI's clients raise on, text and error_code are what FastChat's server sends."""
    async with with_script(STREAM, then_closed(BEGUN)) as (rig, _):
        *stream, last = events(await call(rig.listen, "POST", path, {**BODIES[path], "stream": True}))
    assert said(stream) == "Hello"
    assert last["error_code"] == 50001
    assert at(last, "error", "message") == last["text"]
    assert at(last, "error", "type") == "server_error"


@paths
async def test_a_key_is_wanted_where_the_settings_have_any(path: str) -> None:
    """A refusal is told as FastChat's server tells it, in `detail`, and in the two forms of every error."""
    keys = [{"name": "team", "sha256": key_digest("sk-right")}]
    async with with_script(STREAM, sends(GOOD), api_keys=keys) as (rig, _):
        for headers in ({}, {"authorization": "Bearer sk-wrong"}):
            reply = await call(rig.listen, "POST", path, BODIES[path], **headers)
            assert (reply.status, reply.object["code"]) == (401, 40101)
            for place in (["error"], ["detail", "error"]):
                assert at(reply.object, *place, "code") == "invalid_api_key"
        reply = await call(rig.listen, "POST", path, BODIES[path], authorization="Bearer sk-right")
        assert reply.status == 200


@paths
@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_frees_the_worker(path: str, *, streams: bool) -> None:
    async with with_script(STREAM, then_gone(BEGUN)) as (rig, worker):
        async with connected(rig.listen) as connection:
            await connection.request("POST", path, {**BODIES[path], "stream": streams})
            await until(lambda: bool(worker.struck), lambda: "nothing came to the worker")
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 1}


async def test_models_that_can_answer_are_listed() -> None:
    """Each once, by its name, though it can chat and embed; one of them has a page of its own, up or not."""
    async with with_demo("b", "a") as (rig, worker):
        listed = (await call(rig.listen, "GET", "/v1/models")).object
        assert [text_at(each, "id") for each in list_at(listed, "data")] == ["a", "b"]
        await worker.stop()
        assert (await call(rig.listen, "GET", "/v1/models/a")).object["id"] == "a"
        reply = await call(rig.listen, "GET", "/v1/models/nobody")
        assert (reply.status, reply.object["code"]) == (400, 40301)
    async with running("http://127.0.0.1:1") as rig:
        assert (await call(rig.listen, "GET", "/v1/models")).object == {"object": "list", "data": []}


async def test_vectors_of_any_path_are_the_same() -> None:
    async with with_demo() as (rig, _):
        body: Json = {"model": MODEL, "input": ["a", "b"]}
        one = (await call(rig.listen, "POST", "/v1/embeddings", body)).object
        other = (await call(rig.listen, "POST", f"/v1/engines/{MODEL}/embeddings", {"input": ["a", "b"]})).object
    assert one == other
    assert [at(each, "index") for each in list_at(one, "data")] == [0, 1]


async def test_several_answers_are_told_apart_whole_and_streamed() -> None:
    """Two prompts and two answers each make four, in the order in which they were asked for, with one usage."""
    body: JsonObject = {**BODIES[COMPLETION], "prompt": ["a", "b"], "n": 2}
    async with with_script(STREAM, sends(GOOD)) as (rig, worker):
        whole = (await call(rig.listen, "POST", COMPLETION, body)).object
        stream = events(await call(rig.listen, "POST", COMPLETION, {**body, "stream": True}))
        sent = [json.loads(request.body)["prompt"] for request in worker.peer.requests if request.path == STREAM]
    assert [at(each, "index") for each in list_at(whole, "choices")] == [0, 1, 2, 3]
    assert whole["usage"] == {"prompt_tokens": 12, "completion_tokens": 24, "total_tokens": 36}
    assert [at(each, "choices", 0, "index") for each in stream] == sorted([0, 1, 2, 3] * (len(stream) // 4))
    assert said(stream) == "Hello!" * 4
    assert (sorted(sent[:4]), sent[4:]) == (["a", "a", "b", "b"], ["a", "a", "b", "b"])


async def test_prompts_are_counted_and_compared_with_the_context() -> None:
    async with with_demo(context_length=40) as (rig, _):
        prompts: Json = [{"model": MODEL, "prompt": text, "max_tokens": 30} for text in ("one", "one two " * 10)]
        found = (await call(rig.listen, "POST", "/api/v1/token_check", {"prompts": prompts})).object
    assert [at(each, "fits") for each in list_at(found, "prompts")] == [True, False]
    assert [at(each, "contextLength") for each in list_at(found, "prompts")] == [40, 40]
