"""What a gateway records is what came and went; played through the same rules it comes and goes again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.limits import RECORDED_REQUEST_MAX_BYTES
from proxy.tools.commands import replay
from proxy.types import Json, JsonObject
from tests.gateway.client import Connection, Reply, call
from tests.gateway.openai_server import FakeOpenAI, declared
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, demo_worker, running, until, with_script
from tests.gateway.scripted import (
    COUNT,
    EMBEDDINGS,
    GOOD,
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    chunk,
    frame,
    json_response,
    scripted,
    sends,
    then_gone,
    then_reset,
)
from tests.gateway.several import one_fails
from tests.gateway.storyteller import LENGTH, Storyteller, pair
from tests.gateway.test_membership import serving
from tests.tools.packs import run, run_json, write_pack

NAME = "test.jsonl"


async def record(rig: Rig, **asked: Json) -> Reply:
    return await call(rig.gateway.admin, "POST", "/record", {"file": NAME, **asked}, connection="close")


async def end(rig: Rig) -> Reply:
    return await call(rig.gateway.admin, "DELETE", "/record", connection="close")


def lines(folder: Path) -> list[JsonObject]:
    """The recorded requests."""
    head, *found, last = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    assert (head["recording"], last["requests"]) == (1, len(found))
    return found


def attempts(line: JsonObject) -> list[JsonObject]:
    found = line["attempts"]
    assert isinstance(found, list)
    return [each for each in found if isinstance(each, dict)]


@contextlib.asynccontextmanager
async def recorded(rig: Rig, folder: Path, *, redact: bool = False, rules: Path | None = None) -> AsyncIterator[None]:
    """What happens meanwhile is recorded, and comes out the same when it is played through the rules again."""
    assert (await record(rig, redact=redact)).status == 200
    yield
    assert (await end(rig)).status == 200
    arguments: list[str | Path] = ["--rules", rules] if rules is not None else []
    result = await asyncio.to_thread(run, replay, folder / NAME, *arguments)
    assert result.exit_code == 0, result.output


either = pytest.mark.parametrize("redact", [False, True], ids=["plain", "redacted"])


@either
async def test_streams_answers_vectors_and_counts(tmp_path: Path, redact: bool) -> None:
    """Each kind of call, with what it asks the worker on the way."""
    long: JsonObject = {
        "model": "m",
        "messages": [{"role": "human", "content": "wörd 你好 " * 300}],
        "max_new_tokens": 3000,
    }
    async with demo_worker("m") as worker, running(worker.address, given={"recordings": str(tmp_path)}) as rig:
        async with recorded(rig, tmp_path, redact=redact):
            await rig.stream({**HELLO, "echo": True, "stop": ["x"]})
            await rig.stream(long)
            await rig.post("generate", HELLO)
            await rig.post("embeddings", {"model": "m", "input": ["a", "b"] * 9})
            await rig.post("count_token", {"model": "m", "prompt": "a b c"})
            await rig.post("model_metadata", {"model": "m"})
            await call(rig.listen, "GET", f"{PREFIX}/models/supports")
        found = lines(tmp_path)
        assert len(found) == 7
        assert [line["outcome"] for line in found] == ["ok"] * 7
        assert any(attempt["asked"] for line in found for attempt in attempts(line))


@either
async def test_what_goes_wrong(tmp_path: Path, redact: bool) -> None:
    """Requests that are refused, models that nobody has, errors of workers in each phase."""
    parts = {
        "an error frame": sends(
            STREAM_HEAD + chunk(b'{"text": "**\\n\\n(out of memory)", "error_code": 50002}\0') + LAST_CHUNK
        ),
        "broken off": then_reset(STREAM_HEAD + chunk(frame("Hel"))),
        "nothing": sends(STREAM_HEAD + LAST_CHUNK),
        "no frame": sends(STREAM_HEAD + chunk(b"{\0") + LAST_CHUNK),
        "half a frame": sends(STREAM_HEAD + chunk(frame("Hel")) + chunk(b'{"text') + LAST_CHUNK),
        "refused": sends(json_response({"detail": "no"}, "500 Internal Server Error")),
        "a broken character": sends(STREAM_HEAD + chunk(frame("Hel")) + chunk(b'{"text": "\xff"}\0') + LAST_CHUNK),
        "closed": then_reset(),
    }
    async with with_script(STREAM, sends(GOOD), None, recordings=str(tmp_path)) as (rig, worker):
        async with recorded(rig, tmp_path, redact=redact):
            await rig.stream({"model": "m", "prompt": "Hi", "temperature": "hot"})
            await rig.stream({"model": "nobody's", "prompt": "Hi"})
            await rig.stream({"prompt": "Hi"})
            for part in parts.values():
                worker.parts[STREAM] = part
                await rig.stream(HELLO)
                await rig.post("generate", HELLO)
            worker.parts[EMBEDDINGS] = sends(json_response({"text": "no", "error_code": 50001}))
            await rig.post("embeddings", {"model": "m", "input": ["a"]})
            worker.parts[EMBEDDINGS] = sends(json_response([]))
            await rig.post("embeddings", {"model": "m", "input": ["a"]})
            worker.parts[COUNT] = then_reset()
            await rig.post("count_token", {"model": "m", "prompt": "a"})
        assert len(lines(tmp_path)) == 3 + 2 * len(parts) + 3


async def test_what_the_gateway_refuses_itself(tmp_path: Path) -> None:
    """Questions about models that nobody has, and something about a model that is not done."""
    bodies: list[JsonObject] = [{"model": "nobody's"}, {"model": 7}, {"model": "m"}, {"model": "m", "worker_type": 7}]
    async with with_script(STREAM, sends(GOOD), None, recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path):
            for body in bodies:
                await rig.post("model_metadata", body)
                await rig.post("models/shutdown", body)
        told = [line["client"] for line in lines(tmp_path)]
        statuses = [each["status"] for each in told if isinstance(each, dict)]
        assert statuses == [404, 501, 400, 400, 200, 501, 200, 400]


async def test_other_workers_are_asked(tmp_path: Path) -> None:
    """A request that is tried twice, whole or as a stream."""
    async with one_fails(then_reset(STREAM_HEAD), recordings=str(tmp_path)) as (rig, _, _):
        async with recorded(rig, tmp_path):
            await rig.stream(HELLO)
            await rig.post("generate", HELLO)
        assert [attempt["failure"] is None for attempt in attempts(lines(tmp_path)[0])] == [False, True]


@either
async def test_streams_that_go_on(tmp_path: Path, redact: bool) -> None:
    """Lost at each frame, also where nothing is left to ask for."""
    async with pair(Storyteller(), recordings=str(tmp_path)) as both:
        async with recorded(both.rig, tmp_path, redact=redact):
            for place in range(0, LENGTH + 1, 3):
                await both.ask(place)
            await both.ask(5, max_new_tokens=5)
        assert sum(attempt["resumed"] is True for line in lines(tmp_path) for attempt in attempts(line)) > 5


async def test_streams_that_end_without_a_word(tmp_path: Path) -> None:
    """Another worker goes on, because each end without a reason may be a loss."""
    teller = Storyteller(losing=LAST_CHUNK, closes=True)
    async with pair(teller, recordings=str(tmp_path)) as both, recorded(both.rig, tmp_path):
        await both.ask(5)
        await both.ask(9)
        assert len(teller.bodies) == 2


@pytest.mark.parametrize("reset", [False, True])
async def test_clients_that_leave(tmp_path: Path, reset: bool) -> None:
    """In mid-stream, and before anything came; what they got is what they would get again."""
    part = then_gone(STREAM_HEAD + chunk(frame("Hel")) + chunk(frame("Hello")))
    async with with_script(STREAM, part, None, recordings=str(tmp_path)) as (rig, worker):
        async with recorded(rig, tmp_path):
            connection = await Connection.open(rig.listen)
            await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
            pieces = connection.pieces(await connection.head())
            await pieces.__anext__()
            await connection.leave(reset=reset)
            await rig.quiet()
            worker.parts[STREAM] = then_gone()
            connection = await Connection.open(rig.listen)
            await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
            await until(lambda: len(worker.struck) == 2, lambda: "the worker was not asked")
            await connection.leave(reset=reset)
            await rig.quiet()
        assert [line["outcome"] for line in lines(tmp_path)] == ["cancelled", "cancelled"]


async def test_a_changed_rule_shows_what_it_changes(tmp_path: Path) -> None:
    """Field by field: what goes to the worker, and what the client gets; the exit code says that there is something."""
    pack = write_pack(tmp_path / "then")
    said = STREAM_HEAD + chunk(b'{"token": "he"}\n') + chunk(b'{"token": "y", "done_reason": "stop"}\n') + LAST_CHUNK
    settings = {"recordings": str(tmp_path)}
    async with (
        scripted({"/generate": sends(said)}) as worker,
        running(worker.address, rules=pack, given=settings) as rig,
    ):
        worker.arm()
        async with recorded(rig, tmp_path, rules=pack):
            await call(rig.listen, "POST", "/chat", {"model": "m", "text": "hello", "stream": True, "heat": 1})
            await call(rig.listen, "POST", "/chat", {"model": "m", "text": "hello"})
    changed = write_pack(
        tmp_path / "now", chat="size: {value: 5} -> size: {value: 6}", whole="status: 201 -> status: 200"
    )
    text = changed.joinpath("chat.yaml").read_text().replace("kind: {value: chat}", "kind: {value: talk}")
    changed.joinpath("chat.yaml").write_text(text)
    found = await asyncio.to_thread(run_json, replay, tmp_path / NAME, "--rules", changed, code=1)
    differences = found["differences"]
    assert isinstance(differences, list)
    told = [
        [(each["path"], each["then"], each["now"]) for each in request["differences"] if isinstance(each, dict)]
        for request in differences
        if isinstance(request, dict) and isinstance(request["differences"], list)
    ]
    assert told == [
        [
            ("upstream[0].body.size", "5", "6"),
            ("client.frames[0].kind", '"chat"', '"talk"'),
            ("client.frames[1].kind", '"chat"', '"talk"'),
        ],
        [("upstream[0].body.size", "5", "6"), ("client.status", "201", "200")],
    ]
    assert (found["same"], found["different"]) == ({}, {"sample/chat": 1, "sample/whole": 1})


async def test_nothing_is_recorded_where_the_operator_wants_nothing() -> None:
    """Without a folder in the settings; the refusal says which setting it is."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        reply = await record(rig)
        assert reply.status == 409
        assert "'recordings' in the settings" in str(reply.object["error"])
        assert (await end(rig)).status == 409


async def test_the_client_s_secrets_stay_with_it(tmp_path: Path) -> None:
    """Its key, its cookies, and whatever else no rule reads."""
    async with demo_worker("m") as worker, running(worker.address, given={"recordings": str(tmp_path)}) as rig:
        async with recorded(rig, tmp_path):
            body: JsonObject = {**HELLO, "api_key": "SECRET"}
            await rig.post("generate", body, authorization="Bearer SECRET", cookie="SECRET", x_forwarded_for="SECRET")
        assert "SECRET" not in (tmp_path / NAME).read_text()


@pytest.mark.parametrize("coding", ["chunked", "gzip"])
async def test_a_body_is_as_large_as_what_it_holds(tmp_path: Path, coding: str) -> None:
    """However it comes: one that is too large for a recording is left out, and its client notices nothing."""
    body = json.dumps({**HELLO, "user": "x" * (RECORDED_REQUEST_MAX_BYTES + 1)}).encode()
    packed = gzip.compress(body)
    wire, fields = {
        "chunked": (chunk(body) + LAST_CHUNK, "Transfer-Encoding: chunked"),
        "gzip": (packed, f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}"),
    }[coding]
    head = f"POST {PREFIX}/generate HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n{fields}\r\n\r\n"
    async with demo_worker("m") as worker, running(worker.address, given={"recordings": str(tmp_path)}) as rig:
        await record(rig)
        connection = await Connection.open(rig.listen)
        await connection.send(head.encode() + wire)
        assert (await connection.reply()).status == 200
        await connection.leave()
        told = (await end(rig)).object
        assert (told["kept"], told["left_out"]) == (0, 1)


async def test_a_gateway_that_stops_ends_its_recording(tmp_path: Path) -> None:
    """The file is whole."""
    async with demo_worker("m") as worker, running(worker.address, given={"recordings": str(tmp_path)}) as rig:
        await record(rig)
        await rig.stream(HELLO)
    assert len(lines(tmp_path)) == 1
    assert json.loads((tmp_path / NAME).read_text().splitlines()[-1])["why"] == "the gateway stopped"


async def test_requests_from_before_are_not_recorded(tmp_path: Path) -> None:
    """One that is under way when the recording begins, and one that is when it ends."""
    settings = {"recordings": str(tmp_path)}
    async with (
        demo_worker("m", chunks_per_second=100, words=20) as worker,
        running(worker.address, given=settings) as rig,
    ):
        early = asyncio.create_task(rig.stream(HELLO))
        await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 1, lambda: "it was not begun")
        await record(rig)
        await rig.post("count_token", {"model": "m", "prompt": "a"})
        await early
        late = asyncio.create_task(rig.stream(HELLO))
        await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 1, lambda: "it was not begun")
        told = (await end(rig)).object
        await late
        assert [line["path"] for line in lines(tmp_path)] == [f"{PREFIX}/count_token"]
        assert told["left_out"] == 1


async def test_a_recording_disturbs_nobody(tmp_path: Path) -> None:
    """Many streams at once come out as they would without it, and each is in it."""
    settings = {"recordings": str(tmp_path), "balance": {"worker_limit": 50}}
    async with demo_worker("m", concurrency=50) as worker, running(worker.address, given=settings) as rig:
        expected = await rig.stream(HELLO)
        async with recorded(rig, tmp_path):
            found = await asyncio.gather(*(rig.stream(HELLO) for _ in range(40)))
        assert all(frames == expected for frames in found)
        assert len(lines(tmp_path)) == 40


async def test_times_that_rules_write_are_those_of_then(tmp_path: Path) -> None:
    """How long an answer took, what time it was, and the request's own id come out as they were told."""
    settings = {"recordings": str(tmp_path)}
    async with demo_worker("m", chunks_per_second=200) as worker, running(worker.address, given=settings) as rig:
        async with recorded(rig, tmp_path):
            messages: Json = [{"role": "user", "content": "Hello"}]
            for stream in (True, False):
                for more in ({"messages": messages}, {"prompt": "Hello"}):
                    path = "/api/chat" if "messages" in more else "/api/generate"
                    reply = await call(rig.listen, "POST", path, {"model": "m", "stream": stream, **more})
                    assert b"total_duration" in reply.body
        assert len(lines(tmp_path)) == 4


@either
async def test_a_written_prompt_is_taken_apart_again(tmp_path: Path, redact: bool) -> None:
    """By a client that writes it itself, for workers that want the messages."""
    server = FakeOpenAI("qwen")
    start, end = "<|im_start|>", "<|im_end|>\n"
    prompt = f"{start}system\nBe brief.{end}{start}user\nHi{end}{start}assistant\nYes?{end}{start}user\nNo.{end}"
    async with (
        serving(server),
        running(given={"backends": [declared(server)], "recordings": str(tmp_path)}) as rig,
        recorded(rig, tmp_path, redact=redact),
    ):
        body: JsonObject = {"model": "qwen", "prompt": f"{prompt}{start}assistant\n", "echo": False}
        await call(rig.listen, "POST", STREAM, body)
        messages = server.asked[0]["messages"]
        assert isinstance(messages, list)
        assert len(messages) == 4
