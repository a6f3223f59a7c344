from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.demo.faults import Fault
from proxy.demo.worker import DemoWorker
from proxy.types import Json, JsonObject

RECORDINGS = Path(__file__).parent.parent / "recordings" / "worker_api.jsonl"
RECORDED: dict[str, JsonObject] = {
    entry["name"]: entry for entry in (json.loads(line) for line in RECORDINGS.read_text().splitlines())
}
STREAM = "/worker_generate_stream"
HELLO: JsonObject = {"prompt": "USER: 你好 ASSISTANT:", "echo": False}


@pytest.fixture
async def worker() -> AsyncIterator[DemoWorker]:
    worker = DemoWorker(["demo-chat"], chunks_per_second=0, words=5)
    await worker.start()
    yield worker
    await worker.stop()


async def call(worker: DemoWorker, path: str, body: Json) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with lower-case names, and body of one exchange."""
    async with aiohttp.ClientSession() as session:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        async with session.post(worker.address + path, data=data) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, await response.read()


def parts(body: bytes) -> list[JsonObject]:
    """The frames of a stream, each closed by a NUL."""
    *frames, tail = body.split(b"\0")
    assert tail == b"", "the last frame is not closed"
    return [json.loads(frame) for frame in frames]


def shape(value: Json) -> Json:
    """The value with every leaf replaced by its type; a list by the shape of its first entry. Order of keys is kept."""
    if isinstance(value, dict):
        return {name: shape(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def recorded(name: str) -> tuple[JsonObject, int, dict[str, Json], str]:
    """Path and body of a recorded request, and what the real worker answered: status, headers, body."""
    request, response = RECORDED[name]["request"], RECORDED[name]["response"]
    assert isinstance(request, dict)
    assert isinstance(response, dict)
    status, headers, body = response["status"], response["headers"], response["body"]
    assert isinstance(status, int)
    assert isinstance(headers, dict)
    return request, status, headers, str(body)


async def until_free(worker: DemoWorker) -> None:
    """Wait until no slot is taken, at most two seconds."""
    deadline = time.monotonic() + 2
    while worker.queue_length:
        assert time.monotonic() < deadline, "a slot is still taken"
        await asyncio.sleep(0.005)


STREAMS = ["length", "echo", "logprobs", "stop string"]


@pytest.mark.parametrize("name", [f"generate_stream {name}" for name in STREAMS])
async def test_streams_have_the_shape_of_the_recorded_ones(worker: DemoWorker, name: str) -> None:
    """Headers, keys in their order, types and the closing frame are those that the real worker sent."""
    request, status, headers, body = recorded(name)
    got_status, got_headers, got_body = await call(worker, STREAM, request["body"])
    assert got_status == status
    assert got_headers["transfer-encoding"] == headers["transfer-encoding"]
    assert "content-type" not in got_headers
    wanted, got = parts(body.encode()), parts(got_body)
    for one, other in ((got[0], wanted[0]), (got[-1], wanted[-1])):
        assert shape(one) == shape(other)
        assert list(one) == list(other)
    assert [frame["finish_reason"] for frame in got[:-1]] == [None] * (len(got) - 1)
    assert got[-1]["finish_reason"] == ("length" if name != "generate_stream stop string" else "stop")
    assert got[-1]["text"] == got[-2]["text"]
    assert got[0]["usage"] != got[-1]["usage"]


async def test_frames_are_written_as_the_real_worker_writes_them(worker: DemoWorker) -> None:
    """Characters outside ASCII are escapes and separators have a space, so byte-level handling is tried too."""
    _, _, _, wanted = recorded("generate_stream length")
    _, _, body = await call(worker, STREAM, HELLO)
    for frame in (*wanted.encode().split(b"\0")[:-1], *body.split(b"\0")[:-1]):
        assert frame == json.dumps(json.loads(frame)).encode()
    assert b"\\u4f60" in body


async def test_an_error_frame_has_the_recorded_shape(worker: DemoWorker) -> None:
    """A stop parameter of the wrong type is reported in one frame, under HTTP 200, and the slot comes back."""
    request, status, _, body = recorded("generate_stream bad stop type (error frame, HTTP 200)")
    got_status, _, got_body = await call(worker, STREAM, request["body"])
    assert (got_status, shape(parts(got_body)[0])) == (status, shape(parts(body.encode())[0]))
    assert parts(got_body)[0]["error_code"] == parts(body.encode())[0]["error_code"] == 50001
    assert "(stop is 5" in str(parts(got_body)[0]["text"])
    await until_free(worker)


@pytest.mark.parametrize(
    "name",
    [
        "worker_get_status",
        "worker_get_conv_template",
        "model_details",
        "count_token",
        "generate",
        "get_embeddings base64",
    ],
)
async def test_other_answers_have_the_recorded_shape(worker: DemoWorker, name: str) -> None:
    """Status, content type, compact JSON, keys in their order, and types."""
    request, status, headers, body = recorded(name)
    got_status, got_headers, got_body = await call(worker, str(request["path"]), request["body"])
    assert (got_status, got_headers["content-type"]) == (status, headers["content-type"])
    wanted, got = json.loads(body), json.loads(got_body)
    if name == "worker_get_conv_template":
        assert {**got["conv"], "system_message": ""} == {**wanted["conv"], "system_message": ""}
        assert got["conv"]["system_message"]
    assert shape(got) == shape(wanted)
    assert list(got) == list(wanted)
    assert got_body.decode() == json.dumps(got, ensure_ascii=False, separators=(",", ":"))


async def test_a_body_that_is_not_json_is_a_plain_500(worker: DemoWorker) -> None:
    """The recorded answer, byte for byte; and no slot is lost, because none was taken yet."""
    request, status, headers, body = recorded("body is not JSON")
    got_status, got_headers, got_body = await call(worker, STREAM, request["body"])
    assert (got_status, got_headers["content-type"], got_body.decode()) == (status, headers["content-type"], body)
    assert worker.queue_length == 0


async def test_unknown_paths_and_methods_are_told_in_json(worker: DemoWorker) -> None:
    """A gateway that probes for a call that is not there sees 404, as on workers that lack it."""
    assert (await call(worker, "/nothing", {}))[::2] == (404, b'{"detail":"Not Found"}')
    async with aiohttp.ClientSession() as session, session.get(worker.address + STREAM) as response:
        assert (response.status, await response.json()) == (405, {"detail": "Method Not Allowed"})


async def test_embeddings_are_the_same_in_both_encodings(worker: DemoWorker) -> None:
    """Numbers and base64 hold the same single-precision values, one vector for each text in order, of length one."""
    body: JsonObject = {"input": ["hello", "世界", "hello"]}
    plain = json.loads((await call(worker, "/worker_get_embeddings", body))[2])
    packed = json.loads((await call(worker, "/worker_get_embeddings", {**body, "encoding_format": "base64"}))[2])
    unpacked = [list(struct.unpack("<64f", base64.b64decode(text))) for text in packed["embedding"]]
    assert unpacked == plain["embedding"]
    assert plain["embedding"][0] == plain["embedding"][2] != plain["embedding"][1]
    assert all(abs(sum(value * value for value in vector) - 1) < 1e-5 for vector in plain["embedding"])


async def test_a_null_prompt_breaks_the_stream_and_costs_a_slot_for_ever(worker: DemoWorker) -> None:
    """The real worker's weakness is here too, so that a gateway that sends nulls is found out."""
    with pytest.raises(aiohttp.ClientPayloadError):
        await call(worker, STREAM, {"prompt": None})
    assert (await call(worker, "/worker_generate", {"temperature": None, "prompt": "x"}))[0] == 500
    assert (await call(worker, "/worker_get_embeddings", {"input": [None]}))[0] == 500
    assert json.loads((await call(worker, "/worker_get_status", {}))[2])["queue_length"] == 3
    assert (await call(worker, STREAM, HELLO))[0] == 200
    assert worker.queue_length == 3


@pytest.mark.parametrize("path", [STREAM, "/worker_generate"])
async def test_a_client_that_leaves_frees_its_slot(worker: DemoWorker, path: str) -> None:
    """Whether the answer has begun or not, and the next one in the queue gets the slot."""
    worker.chunks_per_second = 1
    host, port = worker.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(HELLO).encode()
    writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data))
    if path == STREAM:
        await reader.readuntil(b"\0")
    else:
        while not worker.queue_length:
            await asyncio.sleep(0.005)
    assert worker.queue_length == 1
    writer.close()
    await until_free(worker)


async def test_requests_past_the_slots_wait_and_are_counted(worker: DemoWorker) -> None:
    """Five stream at once, the others wait in the queue and are served when a slot is free."""
    worker.chunks_per_second = 100
    body: JsonObject = {**HELLO, "max_new_tokens": 20}
    calls = [asyncio.create_task(call(worker, STREAM, body)) for _ in range(7)]
    while worker.queue_length < 7:
        await asyncio.sleep(0.005)
    assert json.loads((await call(worker, "/worker_get_status", {}))[2])["queue_length"] == 7
    assert [parts((await done)[2])[-1]["finish_reason"] for done in calls] == ["length"] * 7
    assert worker.queue_length == 0


async def test_chunks_come_at_the_set_rate(worker: DemoWorker) -> None:
    """Twelve frames at 50 a second take eleven intervals, and come one by one."""
    worker.chunks_per_second = 50
    arrivals: list[float] = []
    async with aiohttp.ClientSession() as session:
        body = {**HELLO, "max_new_tokens": 20}
        async with session.post(worker.address + STREAM, json=body) as response:
            async for data, _ in response.content.iter_chunks():
                arrivals += [time.monotonic()] * data.count(b"\0")
    assert len(arrivals) == 12
    assert 0.2 <= arrivals[-1] - arrivals[0] < 0.6


async def test_the_same_request_has_the_same_answer(worker: DemoWorker) -> None:
    """Streamed or not, twice or on another worker, the answer is a function of the request."""
    _, _, first = await call(worker, STREAM, HELLO)
    _, _, second = await call(worker, STREAM, HELLO)
    _, _, whole = await call(worker, "/worker_generate", HELLO)
    assert first == second
    assert parts(first)[-1] == json.loads(whole)
    assert "你好" in str(json.loads(whole)["text"])


async def test_the_last_requests_can_be_looked_at(worker: DemoWorker) -> None:
    """A test sees what really reached the worker."""
    await call(worker, "/count_token", {"prompt": "a b"})
    await call(worker, STREAM, {**HELLO, "model": "x"})
    assert list(worker.requests) == [("/count_token", {"prompt": "a b"}), (STREAM, {**HELLO, "model": "x"})]


async def test_faults_before_the_head(worker: DemoWorker) -> None:
    """A refused status, a hang-up and a reset without a byte, and a late answer, on a stream and on a plain call."""
    for path in (STREAM, "/count_token"):
        worker.fault = lambda *_: Fault("status", status=503, data=b"busy")
        assert (await call(worker, path, HELLO))[::2] == (503, b"busy")
        worker.fault = lambda *_: Fault("cut")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await call(worker, path, HELLO)
        worker.fault = lambda *_: Fault("reset")
        with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
            await call(worker, path, HELLO)
        worker.fault = lambda *_: Fault("stall", seconds=0.05)
        began = time.monotonic()
        assert (await call(worker, path, HELLO))[0] == 200
        assert 0.05 <= time.monotonic() - began < 0.5
    await until_free(worker)


async def test_faults_within_a_stream(worker: DemoWorker) -> None:
    """An early end, a broken frame among good ones, an error frame after two, and a cut: each where it belongs."""
    whole = (await call(worker, STREAM, HELLO))[2]
    worker.fault = lambda *_: Fault("end", after=3)
    assert (await call(worker, STREAM, HELLO))[2] == b"".join(part + b"\0" for part in whole.split(b"\0")[:3])
    worker.fault = lambda *_: Fault("frame", after=1, data=b"{not json\0")
    broken = (await call(worker, STREAM, HELLO))[2]
    assert broken.split(b"\0")[1] == b"{not json"
    assert len(broken) == len(whole) + 10
    worker.fault = lambda *_: Fault("error", after=2, message="no memory", code=50002)
    frames = parts((await call(worker, STREAM, HELLO))[2])
    assert [frame["error_code"] for frame in frames] == [0, 0, 50002]
    assert str(frames[-1]["text"]).endswith("\n\n(no memory)")
    worker.fault = lambda *_: Fault("cut", after=2)
    with pytest.raises(aiohttp.ClientPayloadError):
        await call(worker, STREAM, HELLO)
    worker.fault = lambda *_: Fault("reset", after=2)
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
        await call(worker, STREAM, HELLO)
    worker.fault = lambda path, _: Fault("error") if path == "/worker_generate" else None
    assert json.loads((await call(worker, "/worker_generate", HELLO))[2])["error_code"] == 50001
    assert (await call(worker, STREAM, HELLO))[2] == whole
    await until_free(worker)


async def test_a_worker_that_was_stopped_can_start_again(worker: DemoWorker) -> None:
    """A stop ends running streams at once, the port is free afterwards, and a restart has all its slots."""
    worker.chunks_per_second = 1
    host, port = worker.address.removeprefix("http://").split(":")
    running = asyncio.create_task(call(worker, STREAM, HELLO))
    while not worker.queue_length:
        await asyncio.sleep(0.005)
    began = time.monotonic()
    await worker.stop()
    with pytest.raises(aiohttp.ClientError):
        await running
    assert time.monotonic() - began < 1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    assert await worker.start(host, int(port)) == f"http://{host}:{port}"
    assert worker.queue_length == 0
    worker.chunks_per_second = 0
    assert (await call(worker, STREAM, HELLO))[0] == 200


async def test_a_port_in_use_is_an_error_at_the_start(worker: DemoWorker) -> None:
    """Two workers cannot share an address, and the second says so."""
    port = int(worker.address.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="address already in use"):
        await DemoWorker(["other"]).start(port=port)


async def test_it_runs_alone_from_the_command_line() -> None:
    """`python -m proxy.demo` prints its address and a command to try, serves, and ends cleanly on a signal."""
    command = [sys.executable, "-m", "proxy.demo", "--port", "0", "--model", "one", "--model", "two", "--words", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        first = (await process.stdout.readline()).decode()
        assert "serves one, two" in first
        assert (await process.stdout.readline()).startswith(b"curl -sN http://127.0.0.1:")
        address = first.split()[3]
        async with aiohttp.ClientSession() as session, session.post(f"{address}/worker_get_status") as response:
            assert (await response.json())["model_names"] == ["one", "two"]
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
