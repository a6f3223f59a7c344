"""Everything that a worker can do wrong with a request, and what its caller gets instead of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest

from proxy.demo.worker import BANNER
from proxy.types import JsonObject
from tests.gateway.client import frames_of
from tests.gateway.rig import HELLO, Rig, demo_worker, looked_at, running, with_script
from tests.gateway.scripted import (
    COUNT,
    EMBEDDINGS,
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    Part,
    ScriptedWorker,
    chunk,
    frame,
    json_response,
    sends,
    then_closed,
    then_gone,
    then_reset,
)
from tests.hostile import Request, Visit, head, response

TIMES = {"connect_seconds": 2.0, "first_seconds": 0.15, "idle_seconds": 0.1, "total_seconds": 5.0}


def times(name: str) -> dict[str, float]:
    """Short time limits for what can only be seen in time; everything else must be over long before the usual ones."""
    return TIMES if name.startswith("stalls") else {}


BEGUN = STREAM_HEAD + chunk(frame("Hel")) + chunk(frame("Hello"))
# What the client has seen of BEGUN: the last character may still change.
SEEN = ["He", "Hell"]
BANNERED = json.dumps({"text": f"{BANNER}\n\n(CUDA out of memory)", "error_code": 50002}).encode() + b"\0"
# More than one read of any event loop.
OVERSIZED = b'{"text": "' + b"x" * 600_000


class Fault(NamedTuple):
    """What a worker does; the kind counted, the caller's code, and what the text has; seen: the texts before it."""

    name: str
    part: Part
    kind: str
    code: int
    says: str
    seen: bool = False


FAULTS = [
    Fault("closes before the head", then_closed(), "upstream_reset", 50001, "closed the connection before the respon"),
    Fault("resets before the head", then_reset(), "upstream_reset", 50001, "closed the connection before the respon"),
    Fault("resets in the head", then_reset(b"HTTP/1.1 200 OK\r\nContent-"), "upstream_reset", 50001,
          "closed the connection within the response head"),
    Fault("resets after the head", then_reset(STREAM_HEAD), "upstream_reset", 50001,
          "closed the connection within the body"),
    Fault("resets in the stream", then_reset(BEGUN), "upstream_reset", 50001,
          "closed the connection within the body", True),
    Fault("closes in the stream", then_closed(BEGUN), "upstream_reset", 50001,
          "closed the connection within the body", True),
    Fault("closes in a chunk", then_closed(BEGUN, b"ff\r\nabc"), "upstream_reset", 50001,
          "closed the connection within the body", True),
    Fault("closes in a frame", sends(BEGUN, chunk(b'{"text": "Hello'), LAST_CHUNK), "upstream_reset", 50001,
          "ended its answer too early", True),
    Fault("stalls before the head", then_gone(), "upstream_timeout", 50006, "first timeout: no answer began"),
    Fault("stalls after the head", then_gone(STREAM_HEAD), "upstream_timeout", 50006, "first timeout"),
    Fault("stalls in the stream", then_gone(BEGUN), "upstream_timeout", 50006, "idle timeout: nothing came", True),
    Fault("answers no HTTP", then_gone(b"SSH-2.0-OpenSSH_9.6\r\n"), "upstream_protocol", 50001, "not valid HTTP"),
    Fault("breaks its chunks", then_gone(BEGUN, b"zz\r\n"), "upstream_protocol", 50001, "not valid HTTP", True),
    Fault("first frame no JSON", then_gone(STREAM_HEAD + chunk(b"{\0")), "upstream_protocol", 50001,
          "sent a frame that is not JSON"),
    Fault("later frame no JSON", then_gone(BEGUN, chunk(b"{\0")), "upstream_protocol", 50001,
          "sent a frame that is not JSON", True),
    Fault("frame no object", then_gone(BEGUN, chunk(b"[1]\0")), "upstream_protocol", 50001,
          "a frame that is not an object but an array of 1", True),
    Fault("text no string", then_gone(BEGUN, chunk(b'{"text": 5}\0')), "upstream_protocol", 50001,
          "text is not a string but 5", True),
    Fault("first frame too large", then_gone(STREAM_HEAD + chunk(OVERSIZED)), "upstream_protocol", 50001, "65536"),
    Fault("later frame too large", then_gone(BEGUN, chunk(OVERSIZED)), "upstream_protocol", 50001, "65536", True),
    Fault("error frame first", then_gone(STREAM_HEAD + chunk(BANNERED)), "upstream_error", 50002,
          "CUDA out of memory (worker "),
    Fault("error frame later", then_gone(BEGUN, chunk(BANNERED)), "upstream_error", 50002,
          "CUDA out of memory (worker ", True),
    Fault("no frame at all", sends(STREAM_HEAD + LAST_CHUNK), "upstream_empty", 50001, "without sending anything"),
    Fault("only keep-alives", sends(STREAM_HEAD + chunk(b"\0\0") + LAST_CHUNK), "upstream_empty", 50001,
          "without sending anything"),
    Fault("HTTP 500", sends(response(b"Internal Server Error", "500 Internal Server Error")), "upstream_status", 50001,
          "answered HTTP 500: Internal Server Error"),
    Fault("HTTP 404", sends(response(b'{"detail":"Not Found"}', "404 Not Found")), "upstream_status", 50001,
          'answered HTTP 404: {"detail":"Not Found"}'),
    Fault("HTTP 307", sends(response(b"", "307 Temporary Redirect", ["Location: /"])), "upstream_status", 50001,
          "answered HTTP 307"),
    Fault("HTTP 500 without end", then_gone(head("500 Oops", ["Transfer-Encoding: chunked"]), chunk(b"x" * 3000)),
          "upstream_status", 50001, "answered HTTP 500: xxx"),
]  # fmt: skip

by_fault = pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS])


@pytest.fixture(autouse=True)
def _small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.attempt.FRAME_MAX_BYTES", 65_536)
    monkeypatch.setattr("proxy.server.streaming.FRAME_MAX_BYTES", 65_536)


async def assert_settled(rig: Rig, worker: ScriptedWorker, kind: str) -> None:
    """One outcome, one error counted, one request sent, nothing held."""
    await rig.quiet()
    assert await rig.outcomes() == {"upstream_error": 1}
    assert await rig.upstream_errors() == {kind: 1}
    assert len(worker.struck) == 1
    (view,) = rig.gateway.fleet.workers()
    assert sum(view.outcomes.values()) == 1


@by_fault
async def test_a_stream_ends_in_one_frame_with_the_cause(fault: Fault) -> None:
    """What came before stays; then one frame with code and cause, which is the end."""
    async with with_script(STREAM, fault.part, timeouts=times(fault.name)) as (rig, worker):
        *before, last = await rig.stream(HELLO)
        assert [entry["text"] for entry in before] == (SEEN if fault.seen else [])
        assert last.keys() == {"text", "error_code", "incremental"}
        assert last["error_code"] == fault.code
        assert fault.says in str(last["text"])
        assert BANNER not in str(last["text"])
        await assert_settled(rig, worker, fault.kind)


@by_fault
async def test_an_answer_in_one_piece_is_the_error(fault: Fault) -> None:
    """Whatever had come of the answer, `generate` gives the error with HTTP 200, as its client wants it."""
    async with with_script(STREAM, fault.part, timeouts=times(fault.name)) as (rig, worker):
        reply = await rig.post("generate", HELLO)
        assert reply.status == 200
        assert reply.object["error_code"] == fault.code
        assert fault.says in str(reply.object["text"])
        assert BANNER not in str(reply.object["text"])
        await assert_settled(rig, worker, fault.kind)


ENDINGS = [
    ("never says why it ended", [frame("Hel"), frame("Hello")], "stop", "Hello"),
    ("ends with an unknown reason", [frame("Hel"), frame("Hello", "who knows")], "stop", "Hello"),
    ("was aborted", [frame("Hello", "abort")], "stop", "Hello"),
    ("reached the limit", [frame("Hello", "length")], "length", "Hello"),
    ("goes on after its end", [frame("Hello", "stop"), frame("Hello again"), b"{\0"], "stop", "Hello"),
    ("ends with an empty text", [frame("Hello"), frame("", "stop")], "stop", "Hello"),
]


@pytest.mark.parametrize(("frames", "finish", "text"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS])
async def test_an_answer_that_ends_oddly_is_still_an_answer(frames: list[bytes], finish: str, text: str) -> None:
    """The whole text and a finish reason that clients know, in both calls."""
    part = sends(STREAM_HEAD, *(chunk(data) for data in frames), LAST_CHUNK)
    async with with_script(STREAM, part) as (rig, _):
        last = (await rig.stream(HELLO))[-1]
        assert (last["text"], last["error_code"], last["finish_reason"]) == (text, 0, finish)
        whole = (await rig.post("generate", HELLO)).object
        assert (whole["text"], whole["error_code"], whole["finish_reason"]) == (text, 0, finish)
        assert await rig.outcomes() == {"ok": 2}
        assert await rig.upstream_errors() == {}


@pytest.mark.parametrize("part", [then_reset, then_gone, then_closed])
@pytest.mark.parametrize("call", ["generate_stream", "generate"])
async def test_a_failure_after_the_end_of_the_answer_spoils_nothing(call: str, part: Callable[[bytes], Part]) -> None:
    """A worker that said that its answer is complete, and then breaks off, has still answered."""
    done = part(STREAM_HEAD + chunk(frame("Hello", "stop")))
    async with with_script(STREAM, done, timeouts=TIMES) as (rig, _):
        reply = await rig.post(call, HELLO)
        output = frames_of(reply.body)[-1] if call == "generate_stream" else reply.object
        assert (output["text"], output["error_code"], output["finish_reason"]) == ("Hello", 0, "stop")
        assert await rig.outcomes() == {"ok": 1}


VECTORS: list[tuple[str, Part, str, int, int, str]] = [
    ("closes before the head", then_closed(), "upstream_reset", 502, 50001, "before the response"),
    ("resets in the head", then_reset(b"HTTP/1.1 2"), "upstream_reset", 502, 50001, "within the response head"),
    ("closes in the body", then_closed(head(headers=["Content-Length: 99"]) + b'{"embedding'), "upstream_reset", 502,
     50001, "within the body"),
    ("stalls before the head", then_gone(), "upstream_timeout", 504, 50006, "first timeout"),
    ("stalls in the body", then_gone(head(headers=["Content-Length: 99"]) + b'{"e'), "upstream_timeout", 504, 50006,
     "idle timeout"),
    ("answers no HTTP", then_gone(b"hello\r\n"), "upstream_protocol", 502, 50001, "not valid HTTP"),
    ("answers no JSON", sends(response(b"<html>")), "upstream_protocol", 502, 50001, "an answer that is not JSON"),
    ("answers an array", sends(json_response([])), "upstream_protocol", 502, 50001, "0 vectors for 1 texts"),
    ("answers nothing", sends(response(b"")), "upstream_reset", 502, 50001, "ended its answer too early"),
    ("answers without vectors", sends(json_response({})), "upstream_protocol", 502, 50001, "0 vectors for 1 texts"),
    ("gives a vector too many", sends(json_response({"embedding": [[1.0], [2.0]]})), "upstream_protocol", 502, 50001,
     "2 vectors for 1 texts"),
    ("reports an error", sends(json_response({"text": "out of memory", "error_code": 50002})), "upstream_error", 502,
     50002, "out of memory"),
    ("HTTP 500", sends(response(b"Internal Server Error", "500 Internal Server Error")), "upstream_status", 502, 50001,
     "answered HTTP 500: Internal Server Error"),
    ("HTTP 404", sends(json_response({"detail": "Not Found"}, "404 Not Found")), "upstream_status", 502, 50001,
     "answered HTTP 404"),
    ("too large", then_gone(head(headers=["Content-Length: 99999"]) + b"x" * 70_000), "upstream_protocol", 502, 50001,
     "65536"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "part", "kind", "status", "code", "says"), VECTORS, ids=[v[0] for v in VECTORS])
async def test_embeddings_that_fail_are_never_a_success(
    monkeypatch: pytest.MonkeyPatch, name: str, part: Part, kind: str, status: int, code: int, says: str
) -> None:
    """A status that is not 200, because clients take any 200 for vectors; the body they quote has the cause."""
    monkeypatch.setattr("proxy.server.attempt.ANSWER_MAX_BYTES", 65_536)
    async with with_script(EMBEDDINGS, part, timeouts=times(name)) as (rig, worker):
        reply = await rig.post("embeddings", {"model": "m", "input": ["a"]})
        assert (reply.status, reply.object["error_code"]) == (status, code)
        assert says in str(reply.object["detail"])
        await assert_settled(rig, worker, kind)


COUNTS: list[tuple[str, Part]] = [
    ("closes", then_closed()),
    ("resets in the head", then_reset(b"HTTP/1.1 2")),
    ("stalls", then_gone()),
    ("stalls in the body", then_gone(head(headers=["Content-Length: 99"]) + b'{"c')),
    ("answers no HTTP", then_gone(b"hello\r\n")),
    ("answers no JSON", sends(response(b"<html>"))),
    ("answers an array", sends(json_response([]))),
    ("answers no number", sends(json_response({"count": "three"}))),
    ("answers less than nothing", sends(json_response({"count": -1}))),
    ("answers null", sends(json_response({"count": None}))),
    ("HTTP 500", sends(response(b"", "500 Internal Server Error"))),
]


@pytest.mark.parametrize("part", [c[1] for c in COUNTS], ids=[c[0] for c in COUNTS])
async def test_a_count_is_estimated_when_the_worker_cannot_count(part: Part) -> None:
    """Counting never fails a chat: three bytes make a token where the worker gives no number."""
    async with with_script(COUNT, part, timeouts=TIMES) as (rig, worker):
        reply = await rig.post("count_token", {"prompt": "hello, world"})
        assert (reply.status, reply.json) == (200, 4)
        assert len(worker.struck) == 1
        assert await rig.outcomes() == {"ok": 1}


@pytest.mark.parametrize("part", [then_gone(), then_closed()], ids=["stalls", "closes"])
async def test_a_long_prompt_is_sent_when_it_could_not_be_counted(part: Part) -> None:
    """A prompt that may not fit is counted first; without a count it goes to the worker all the same."""
    async with with_script(COUNT, part, timeouts=TIMES) as (rig, worker):
        body: JsonObject = {**HELLO, "messages": [{"role": "human", "content": "word " * 600}], "max_new_tokens": 2000}
        assert (await rig.stream(body))[-1]["text"] == "Hello!"
        assert len(worker.struck) == 1
        assert worker.bodies(STREAM)[0]["max_new_tokens"] == 2000


@pytest.mark.parametrize("call", ["generate_stream", "generate", "embeddings"])
async def test_a_worker_that_is_gone_refuses_and_is_found_out_at_once(call: str) -> None:
    """The first caller is told of the refusal; the worker is then looked at, and the next hears that nobody serves."""
    async with demo_worker() as worker, running(worker.address) as rig:
        await looked_at(worker)
        await worker.stop()
        body: JsonObject = {"model": "m", "input": ["a"]} if call == "embeddings" else HELLO
        reply = await rig.post(call, body)
        text, status = reply.body.decode(), reply.status
        assert "no connection to" in text
        assert '"error_code":50005' in text
        assert status == (502 if call == "embeddings" else 200)
        assert await rig.upstream_errors() == {"upstream_refused": 1}
        await rig.down()
        reply = await rig.post(call, body)
        assert "no worker for the model 'm' can answer now" in reply.body.decode()
        assert '"error_code":50005' in reply.body.decode()
        assert reply.status == (503 if call == "embeddings" else 200)
        assert await rig.outcomes() == {"upstream_error": 1, "refused": 1}


async def test_a_model_s_own_time_limits_hold() -> None:
    """`models.NAME.first_seconds` beats `timeouts.first_seconds`, also for a name that had to be changed."""
    limits = {"m@home": {"first_seconds": 0.05}}
    async with with_script(STREAM, then_gone(), ["m@home"], models=limits) as (rig, _):
        (last,) = await rig.stream({**HELLO, "model": "m-home"})
        assert (last["error_code"], "within 0.05 s" in str(last["text"])) == (50006, True)


async def test_a_worker_that_failed_is_asked_again() -> None:
    """One failed request takes nothing away from the next."""
    parts = iter([then_reset(BEGUN), sends(STREAM_HEAD + chunk(frame("Hello", "stop")) + LAST_CHUNK)])

    async def each(visit: Visit, request: Request) -> None:
        await next(parts)(visit, request)

    async with with_script(STREAM, each) as (rig, _):
        assert (await rig.stream(HELLO))[-1]["error_code"] == 50001
        assert (await rig.stream(HELLO))[-1]["text"] == "Hello"
        assert await rig.outcomes() == {"ok": 1, "upstream_error": 1}


@pytest.mark.parametrize("call", ["generate", "embeddings"])
async def test_an_answer_that_cannot_be_passed_on(call: str) -> None:
    """An answer nested deeper than JSON is written is the worker's fault, told as such."""
    nested = b"[" * 500 + b"]" * 500
    usage = b'{"prompt_tokens": 1, "total_tokens": 2, "x": ' + nested + b"}"
    final = b'{"text": "Hi", "error_code": 0, "finish_reason": "stop", "usage": ' + usage + b"}\0"
    answers = {
        STREAM: STREAM_HEAD + chunk(final) + LAST_CHUNK,
        EMBEDDINGS: response(b'{"embedding": [[' + nested + b"]]}"),
    }
    path = STREAM if call == "generate" else EMBEDDINGS
    async with with_script(path, sends(answers[path])) as (rig, _):
        reply = await rig.post(call, {**HELLO, "input": ["a"]})
        assert reply.object["error_code"] == 50001
        assert "cannot be written as JSON" in reply.body.decode()
        await rig.quiet()
        assert await rig.outcomes() == {"upstream_error": 1}
