"""What a caller gets for a request that cannot be answered as asked; none of it may reach a worker."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest

from proxy.demo.worker import DemoWorker
from proxy.limits import REQUEST_MAX_BYTES
from proxy.types import Json, JsonObject
from tests.gateway.client import call, connected, frames_of
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, asked

IMAGE: JsonObject = {"type": "image", "object": {"data": "aGk=", "format": "base64"}}
SOUND: JsonObject = {"type": "audio", "object": {"data": "aGk=", "format": "base64"}}
WANTED = "messages: is missing or empty; expected a list of objects with role and content, or a prompt"
NO_MODEL = "model: is missing or not a string; expected the name of a model"
UNKNOWN = "model: no worker serves 'nobody'; known models: m"


def message(**fields: Json) -> JsonObject:
    return {"model": "m", "messages": [{"role": "human", "content": "Hi"}, fields]}


def hello(**fields: Json) -> JsonObject:
    return {**HELLO, **fields}


def opened(text: str, pattern: Json) -> str:
    """The text as far as the pattern says it."""
    beginning = str(pattern).removesuffix("...")
    return str(pattern) if text.startswith(beginning) and len(text) > len(beginning) else text


def without(name: str) -> JsonObject:
    return {key: value for key, value in HELLO.items() if key != name}


# Body, code, the whole text (after "..." the JSON library has the word). Both calls have one kind of reader.
GENERATING: list[tuple[str, Json | bytes, int, str]] = [
    ("not JSON", b"{", 40001, "the body is not JSON: ..."),
    ("no body", b"", 40001, "the body is not JSON: ..."),
    ("not UTF-8", b"\xff", 40001, "the body is not JSON: ..."),
    ("half a surrogate pair", b'{"model":"\\ud800"}', 40001, "the body is not JSON: ..."),
    ("nested without end", b"[" * 100_000, 40001, "the body is not JSON: ..."),
    ("an array", b"[]", 40001, "the body is not a JSON object"),
    ("no model", without("model"), 40001, NO_MODEL),
    ("a null model", hello(model=None), 40001, NO_MODEL),
    ("a number for a model", hello(model=5), 40001, NO_MODEL),
    ("an unknown model", hello(model="nobody"), 40301, UNKNOWN),
    ("a model's name without end", hello(model="x" * 300), 40301,
     "model: a name of 300 characters; no model has one over 256"),
    ("neither messages nor prompt", without("messages"), 40001, WANTED),
    ("no messages", hello(messages=[]), 40001, WANTED),
    ("null messages", hello(messages=None), 40001, WANTED),
    ("an empty prompt", {"model": "m", "prompt": ""}, 40001, WANTED),
    ("messages that are a number", hello(messages=5), 40001, "messages: expected an array, got 5"),
    ("a message that is a number", hello(messages=[5]), 40001, "messages[0].role: is missing; expected a string"),
    ("a prompt that is a number", {"model": "m", "prompt": 5}, 40001, "prompt: expected a string, got 5"),
    ("an unknown role", message(role="robot", content="x"), 40001,
     "messages[1].role: expected one of system, human, ai, user, assistant; got 'robot'"),
    ("no role", message(content="x"), 40001, "messages[1].role: is missing; expected a string"),
    ("no content", message(role="ai"), 40001, "messages[1].content: is missing; expected a value"),
    ("null content", message(role="ai", content=None), 40001, "messages[1].content: is missing; expected a value"),
    ("an image", message(role="human", content=[IMAGE]), 40001,
     "the model 'm' takes text only; a message has an image"),
    ("text with an image", message(role="human", content=[{"type": "text", "object": {"data": "see"}}, IMAGE]), 40001,
     "the model 'm' takes text only; a message has an image"),
    ("text with a sound", message(role="human", content=[{"type": "text", "object": {"data": "see"}}, SOUND]), 40001,
     "messages[1].content: expected one of 'text with data', 'image with a url or with base64'; got 'audio'"),
    ("a null temperature", hello(temperature=None), 40001,
     "temperature: null is not a value here; leave the field out to use the default"),
    ("a temperature as text", hello(temperature="0.5"), 40001,
     "temperature: expected a number between 0 and 2, got '0.5'"),
    ("a temperature that is true", hello(temperature=True), 40001,
     "temperature: expected a number between 0 and 2, got true"),
    ("a temperature below", hello(temperature=-0.1), 40302, "temperature: expected a number between 0 and 2, got -0.1"),
    ("a temperature above", hello(temperature=2.1), 40302, "temperature: expected a number between 0 and 2, got 2.1"),
    ("a top_p above", hello(top_p=1.5), 40302, "top_p: expected a number between 0 and 1, got 1.5"),
    ("null new tokens", hello(max_new_tokens=None), 40001,
     "max_new_tokens: null is not a value here; leave the field out to use the default"),
    ("no new tokens", hello(max_new_tokens=0), 40302, "max_new_tokens: expected a whole number of at least 1, got 0"),
    ("a part of a token", hello(max_new_tokens=1.5), 40001,
     "max_new_tokens: expected a whole number of at least 1, got 1.5"),
    ("a stop that is a number", hello(stop=5), 40001, "stop: expected a string or an array of strings, got 5"),
    ("stop ids that are words", hello(stop_token_ids=["a"]), 40001,
     "stop_token_ids: expected an array of whole numbers, got an array of 1"),
    ("a penalty as text", hello(presence_penalty="x"), 40001,
     "presence_penalty: expected a number between -2 and 2, got 'x'"),
]  # fmt: skip


@pytest.mark.parametrize("call_name", ["generate_stream", "generate"])
@pytest.mark.parametrize(("body", "code", "text"), [case[1:] for case in GENERATING], ids=[c[0] for c in GENERATING])
async def test_a_bad_request_is_told_what_is_wrong(
    rig: Rig, worker: DemoWorker, call_name: str, body: Json | bytes, code: int, text: str
) -> None:
    """HTTP 200 and one output with the code and a text that names the field; the worker hears nothing."""
    before = asked(worker)
    reply = await rig.post(call_name, body)
    assert reply.status == 200
    (output,) = frames_of(reply.body) if call_name == "generate_stream" else [reply.object]
    if text.endswith("..."):
        output["text"] = opened(str(output["text"]), text)
    assert output == {"text": text, "error_code": code, "incremental": False}
    assert asked(worker) == before
    assert await rig.outcomes() == {"client_error": 1}


# Call, body, status, body of the answer.
WHOLE: list[tuple[str, Json | bytes, int, JsonObject]] = [
    ("embeddings", b"{", 400, {"detail": "the body is not JSON: ...", "error_code": 40001}),
    ("embeddings", {"input": ["a"]}, 400, {"detail": NO_MODEL, "error_code": 40001, "field": "model"}),
    ("embeddings", {"model": "nobody", "input": ["a"]}, 404,
     {"detail": UNKNOWN, "error_code": 40301, "field": "model"}),
    ("embeddings", {"model": "m"}, 400,
     {"detail": "input: is missing; expected a list of strings", "error_code": 40001, "field": "input"}),
    ("embeddings", {"model": "m", "input": ["a", 5]}, 400,
     {"detail": "input[1]: expected a string, got 5", "error_code": 40001, "field": "input[1]"}),
    ("embeddings", {"model": "m", "input": ["a"], "query": "b", "worker_type": "reranker"}, 501,
     {"detail": "FastChat's workers have no reranking; expected worker_type text2vec without a query",
      "error_code": 40001, "field": "worker_type"}),
    ("count_token", {}, 400,
     {"detail": "prompt: expected a string, got null", "error_code": 40001, "field": "prompt"}),
    ("count_token", {"prompt": ["a"]}, 400,
     {"detail": "prompt: expected a string, got array", "error_code": 40001, "field": "prompt"}),
    ("count_token", {"prompt": "a", "model": "nobody"}, 404,
     {"detail": UNKNOWN, "error_code": 40301, "field": "model"}),
    ("model_metadata", {"model": "nobody"}, 404, {"detail": UNKNOWN, "error_code": 40301, "field": "model"}),
    ("model_metadata", {"model": 5}, 400, {"detail": NO_MODEL, "error_code": 40001, "field": "model"}),
    ("apply", b"[]", 400, {"detail": "the body is not a JSON object", "error_code": 40001}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "answer"), WHOLE)
async def test_a_bad_request_to_another_call_gets_a_status(
    rig: Rig, worker: DemoWorker, path: str, body: Json | bytes, status: int, answer: JsonObject
) -> None:
    """A status and a body to quote; the worker hears nothing."""
    before = asked(worker)
    reply = await rig.post(path, body)
    found = reply.object
    if str(answer["detail"]).endswith("..."):
        found["detail"] = opened(str(found["detail"]), answer["detail"])
    assert (reply.status, found) == (status, answer)
    assert asked(worker) == before
    assert await rig.outcomes() == {"client_error": 1}


@pytest.mark.parametrize("path", ["generate_stream", "embeddings"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_a_body_over_the_limit_is_refused(rig: Rig, worker: DemoWorker, path: str, coding: str) -> None:
    """The limit holds for what the body is, not for what its compression makes of it."""
    body = b'{"model":"m","prompt":"' + b" " * REQUEST_MAX_BYTES + b'"}'
    before = asked(worker)
    if coding == "gzip":
        reply = await rig.post(path, gzip.compress(body, 1), content_encoding="gzip")
    else:
        reply = await rig.post(path, body)
    if path == "embeddings":
        assert (reply.status, reply.object["error_code"]) == (413, 40001)
        text = str(reply.object["detail"])
    else:
        (frame,) = frames_of(reply.body)
        assert (reply.status, frame["error_code"]) == (200, 40001)
        text = str(frame["text"])
    assert text.startswith(f"the body is over the limit of {REQUEST_MAX_BYTES} bytes")
    assert asked(worker) == before
    assert await rig.outcomes() == {"client_error": 1}


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", lambda data: zlib.compress(data)[2:-4])],
    ids=["gzip", "zlib", "bare"],
)
async def test_a_compressed_body_is_read(rig: Rig, coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body within the limit may come compressed."""
    reply = await rig.post("generate", compress(json.dumps(HELLO).encode()), content_encoding=coding)
    assert reply.object["error_code"] == 0


_PLAIN = b'{"model": "m", "input": ["a"]}'


@pytest.mark.parametrize(
    ("coding", "body", "told"),
    [
        ("gzip", _PLAIN, "the body is not gzip: "),
        ("deflate", _PLAIN, "the body is not deflate: "),
        ("gzip", gzip.compress(_PLAIN, mtime=0)[:-9], "the body is not gzip: it ends too early"),
        ("br", _PLAIN, "the body has the content-encoding 'br', expected gzip, deflate, or none"),
    ],
)
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    rig: Rig, worker: DemoWorker, coding: str, body: bytes, told: str
) -> None:
    """Plain bytes under `Content-Encoding: gzip` are told as an unreadable body, and a worker hears nothing."""
    before = asked(worker)
    reply = await rig.post("embeddings", body, content_encoding=coding)
    assert (reply.status, reply.object["error_code"]) == (400, 40001)
    assert str(reply.object["detail"]).startswith(told)
    assert asked(worker) == before


async def test_a_body_that_does_not_arrive_is_given_up(
    rig: Rig, worker: DemoWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that stops sending within its body is answered when the time for it is over."""
    monkeypatch.setattr("proxy.server.body.REQUEST_BODY_SECONDS", 0.05)
    before = asked(worker)
    async with connected(rig.listen) as connection:
        await connection.send(
            f"POST {PREFIX}/generate_stream HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\n".encode()
            + b'{"model": "m"'
        )
        reply = await connection.reply()
    assert frames_of(reply.body) == [
        {"text": "the body did not arrive within 0.05 s", "error_code": 40001, "incremental": False}
    ]
    assert asked(worker) == before
    assert await rig.outcomes() == {"client_error": 1}


PATHS: list[tuple[str, str, int, str | None, str]] = [
    ("POST", "/api/worker/nope", 404, None, "no rule has the path /api/worker/nope"),
    ("POST", "/api/worker/generate/", 404, None, "no rule has the path /api/worker/generate/"),
    ("GET", "/api/worker/", 404, None, "no rule has the path /api/worker/"),
    ("GET", "/api/worker/generate", 405, "POST", "/api/worker/generate takes POST, not GET"),
    ("OPTIONS", "/api/worker/generate", 405, "POST", "/api/worker/generate takes POST, not OPTIONS"),
    ("DELETE", "/api/worker/models/supports", 405, "GET", "/api/worker/models/supports takes GET, not DELETE"),
]


@pytest.mark.parametrize(("method", "path", "status", "allow", "detail"), PATHS)
async def test_a_path_or_method_that_is_not_offered(
    rig: Rig, method: str, path: str, status: int, allow: str | None, detail: str
) -> None:
    """404 for the path, 405 with `Allow` for the method, in the worker API's own shape."""
    reply = await call(rig.listen, method, path)
    assert (reply.status, reply.headers.get("allow")) == (status, allow)
    assert reply.json == {"detail": detail, "error_code": 40001}
