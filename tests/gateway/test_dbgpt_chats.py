"""What clients of DB-GPT's API server and of its application get, whole, refused and broken off."""

from __future__ import annotations

import json

import pytest

from proxy.types import Json, JsonObject
from tests.gateway.client import Reply, call
from tests.gateway.rig import MODEL, Rig, asked, running, with_demo, with_script
from tests.gateway.scripted import GOOD, STREAM, STREAM_HEAD, Part, chunk, frame, json_response, sends, then_closed
from tests.interop.wire import at, list_at, text_at

API = "/api/v1/chat/completions"
APP = "/api/v2/chat/completions"
HELLO: JsonObject = {"model": MODEL, "messages": "Hello", "stream": True}
BUSY = b'{"text": "**BUSY**\\n\\n(no memory)", "error_code": 50002}\0'
BEGUN = STREAM_HEAD + chunk(frame("Hel")) + chunk(frame("Hello"))


def events(reply: Reply) -> list[JsonObject]:
    """The events of a stream as DB-GPT's client reads them: `data: ` with a space, and `data: [DONE]` at the end."""
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream"), reply
    *lines, done, end = reply.body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def said(stream: list[JsonObject]) -> str:
    """The new texts of the events, put together."""
    deltas = [at(each, "choices", 0, "delta") for each in stream]
    return "".join(str(delta.get("content") or "") for delta in deltas if isinstance(delta, dict))


async def post(rig: Rig, path: str, body: Json) -> Reply:
    return await call(rig.listen, "POST", path, body)


@pytest.mark.parametrize("path", [API, APP])
async def test_a_stream_ends_as_dbgpts_clients_expect(path: str) -> None:
    """All of the text in pieces, the reason and the usage in the last event, then the mark of the end."""
    async with with_script(STREAM, sends(GOOD)) as (rig, _):
        stream = events(await post(rig, path, HELLO))
    assert said(stream) == "Hello!"
    assert at(stream[-1], "choices", 0, "finish_reason") == "stop"
    assert stream[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert len({str(each["id"]) for each in stream}) == 1


REFUSED: list[tuple[str, JsonObject, int, Json]] = [
    (API, {"model": "absent"}, 400, 40301),
    (API, {"temperature": 3}, 400, 40302),
    (API, {"messages": []}, 400, 40001),
    (APP, {"model": "absent"}, 400, "invalid_model"),
    (APP, {"model": None}, 400, "invalid_model"),
    (APP, {"messages": None}, 400, "invalid_messages"),
    (APP, {"chat_mode": "chat_flow", "chat_param": "1"}, 400, "invalid_chat_mode"),
]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("path", "changed", "status", "code"), REFUSED)
async def test_what_is_refused_is_a_status_and_an_object(
    path: str, changed: JsonObject, status: int, code: Json, *, streams: bool
) -> None:
    """Also where a stream was asked for, as long as nothing of it was sent."""
    async with with_demo() as (rig, worker):
        reply = await post(rig, path, {**HELLO, "stream": streams, **changed})
        assert STREAM not in [path for path, _ in asked(worker)]
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    found = reply.object
    if path == API:
        assert (found["object"], found["code"]) == ("error", code)
        assert found["message"]
    else:
        assert (found["success"], found["err_code"]) == (False, str(status))
        assert at(found, "detail", "error", "code") == code
        assert found["err_msg"] == at(found, "detail", "error", "message")


@pytest.mark.parametrize("path", [API, APP])
@pytest.mark.parametrize(
    "part",
    [
        then_closed(),
        sends(json_response({"detail": "out of order"}, "500 Internal Server Error")),
        sends(
            STREAM_HEAD + chunk(json.dumps({"text": "**BUSY**\n\n(no memory)", "error_code": 50002}).encode() + b"\0")
        ),
    ],
)
async def test_a_worker_that_fails_at_once_is_a_status(path: str, part: Part) -> None:
    """The client has seen nothing, so it can be told as plainly as a refusal."""
    async with with_script(STREAM, part, balance={"retries": {"attempts": 1}}) as (rig, _):
        reply = await post(rig, path, HELLO)
    assert (reply.status, reply.headers["content-type"]) == (502, "application/json")


async def test_a_stream_of_the_api_that_breaks_off_has_the_frame_of_its_worker() -> None:
    """As DB-GPT's API server sends it, and with what OpenAI's clients know an error by."""
    async with with_script(STREAM, then_closed(BEGUN)) as (rig, _):
        *stream, last = events(await post(rig, API, HELLO))
    assert said(stream) == "Hello"
    assert {key: last[key] for key in ("error_code", "incremental", "finish_reason", "usage", "metrics")} == {
        "error_code": 50001, "incremental": False, "finish_reason": None, "usage": None, "metrics": None,
    }  # fmt: skip
    assert last["error"] == {"message": last["text"], "type": "server_error", "code": 50001}


async def test_a_stream_of_the_application_that_breaks_off_has_a_chunk() -> None:
    """Its client breaks over anything else."""
    async with with_script(STREAM, then_closed(BEGUN)) as (rig, _):
        *stream, last = events(await post(rig, APP, HELLO))
    assert said(stream) == "Hello"
    assert said([last]).startswith("[SERVER_ERROR]the worker")
    assert at(last, "choices", 0, "finish_reason") == "stop"
    assert "closed the connection" in str(last["error"])


async def test_models_that_can_answer_are_listed() -> None:
    """Each once, though it can chat and embed; none where all workers are away."""
    async with with_demo("b", "a") as (rig, worker):
        listed = (await call(rig.listen, "GET", "/api/v1/models")).object
        assert [text_at(each, "id") for each in list_at(listed, "data")] == ["a", "b"]
        assert listed["object"] == "list"
        await worker.stop()
    async with running("http://127.0.0.1:1") as rig:
        assert (await call(rig.listen, "GET", "/api/v1/models")).object == {"object": "list", "data": []}
