"""What Prometheus reads after requests whose every byte is known."""

from __future__ import annotations

import asyncio

from proxy.types import JsonObject
from tests.gateway.client import Connection, connected, frames_of
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, Sample, running, until
from tests.gateway.scripted import (
    EMBEDDINGS,
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    ScriptedWorker,
    chunk,
    frame,
    scripted,
    then_gone,
    then_reset,
)
from tests.hostile import Request, Visit

FRAMES = [frame("Hel"), frame("Hello"), frame("Hello!", "stop")]
FRAME_BYTES = sum(len(data) for data in FRAMES)


class LockStep:
    """A worker's stream in which each frame waits for the client to have seen the one before."""

    def __init__(self) -> None:
        self.seen = asyncio.Semaphore(0)

    async def __call__(self, visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD)
        for data in FRAMES:
            await visit.send(chunk(data))
            await self.seen.acquire()
        await visit.send(LAST_CHUNK)


def value(seen: dict[Sample, float], name: str, **labels: str) -> float:
    return seen.get((name, frozenset(labels.items())), 0)


async def stepped(rig: Rig, steps: LockStep) -> bytes:
    """One stream, frame by frame."""
    body = b""
    async with connected(rig.listen) as connection:
        await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
        async for piece in connection.pieces(await connection.head()):
            body += piece
            steps.seen.release()
    return body


async def test_a_stream_is_counted_frame_by_frame() -> None:
    """Frames, bytes and tokens in both directions; one time to the first frame, a gap between each two."""
    steps = LockStep()
    async with scripted({STREAM: steps}) as worker, running(worker.address) as rig:
        worker.arm()
        body = await stepped(rig, steps)
        assert [output["text"] for output in frames_of(body)] == ["He", "Hell", "Hello!"]
        seen = await rig.scrape()
        pair = {"route": "generate_stream", "model": "m"}
        assert value(seen, "gateway_requests_total", **pair, outcome="ok") == 1
        assert value(seen, "gateway_in_flight", **pair) == 0
        assert value(seen, "gateway_request_duration_seconds_count", **pair) == 1
        assert value(seen, "gateway_time_to_first_frame_seconds_count", **pair) == 1
        assert value(seen, "gateway_inter_frame_seconds_count", **pair) == 2
        assert value(seen, "gateway_frames_total", direction="received") == 3
        assert value(seen, "gateway_frames_total", direction="sent") == 3
        assert value(seen, "gateway_bytes_total", direction="received") == FRAME_BYTES
        assert value(seen, "gateway_bytes_total", direction="sent") == len(body)
        assert value(seen, "gateway_tokens_total", model="m", type="prompt") == 3
        assert value(seen, "gateway_tokens_total", model="m", type="completion") == len("Hello!")
        assert value(seen, "gateway_overhead_seconds_count", phase="translate") == 1
        assert value(seen, "gateway_overhead_seconds_count", phase="connect") == 1
        assert value(seen, "gateway_worker_up", worker=worker.address) == 1
        assert value(seen, "gateway_worker_in_flight", worker=worker.address) == 0
        assert value(seen, "gateway_upstream_connections_opened_total") == 1


async def test_a_collected_stream_is_counted_too() -> None:
    """`generate` reads frames and sends one body."""
    async with scripted({}) as worker, running(worker.address) as rig:
        reply = await rig.post("generate", HELLO)
        seen = await rig.scrape()
        assert value(seen, "gateway_frames_total", direction="received") == 3
        assert value(seen, "gateway_frames_total", direction="sent") == 0
        assert value(seen, "gateway_bytes_total", direction="received") == FRAME_BYTES
        assert value(seen, "gateway_bytes_total", direction="sent") == len(reply.body)
        assert value(seen, "gateway_tokens_total", model="m", type="completion") == len("Hello!")
        assert value(seen, "gateway_time_to_first_frame_seconds_count", route="generate", model="m") == 1


async def test_whole_answers_are_no_streams() -> None:
    """Vectors and counts have a duration and bytes, but no frames and no first frame."""
    async with scripted({}) as worker, running(worker.address) as rig:
        vectors = await rig.post("embeddings", {"model": "m", "input": ["text"] * 9})
        count = await rig.post("count_token", {"prompt": "a b"})
        seen = await rig.scrape()
        assert not [name for name, _ in seen if "first_frame" in name or "inter_frame" in name]
        assert value(seen, "gateway_frames_total", direction="received") == 0
        assert value(seen, "gateway_bytes_total", direction="sent") == len(vectors.body) + len(count.body)
        assert value(seen, "gateway_bytes_total", direction="received") > len(vectors.body)
        assert value(seen, "gateway_request_duration_seconds_count", route="embeddings", model="m") == 1
        assert value(seen, "gateway_overhead_seconds_count", phase="queue") == 1


async def failing(visit: Visit, request: Request) -> None:
    await then_reset(STREAM_HEAD + chunk(FRAMES[0]))(visit, request)


async def test_each_request_has_one_outcome() -> None:
    """A day's mixture: what was answered, what failed at whose fault, who left, and whom nobody could serve."""
    async with scripted({}) as worker, running(worker.address) as rig:
        for _ in range(3):
            await rig.stream(HELLO)
        await rig.post("generate", {"model": "m"})
        await rig.post("generate", b"{")
        worker.parts[STREAM] = failing
        worker.arm()
        await rig.stream(HELLO)
        await leave_in_mid_stream(rig, worker)
        worker.parts[EMBEDDINGS] = then_gone()
        rig.gateway.fleet.fail(worker.address, "taken out by the test", 0)
        await rig.stream(HELLO)
        seen = await rig.scrape()
        counts = {
            tuple(dict(labels)[key] for key in ("route", "model", "outcome")): int(count)
            for (name, labels), count in seen.items()
            if name == "gateway_requests_total" and count
        }
        assert counts == {
            ("generate_stream", "m", "ok"): 3,
            ("generate_stream", "m", "upstream_error"): 1,
            ("generate_stream", "m", "cancelled"): 1,
            ("generate_stream", "m", "refused"): 1,
            ("generate", "m", "client_error"): 1,
            ("generate", "none", "client_error"): 1,
        }
        assert value(seen, "gateway_upstream_errors_total", worker=worker.address, kind="upstream_reset") == 1
        assert value(seen, "gateway_worker_up", worker=worker.address) == 0


async def leave_in_mid_stream(rig: Rig, worker: ScriptedWorker) -> None:
    worker.parts[STREAM] = then_gone(STREAM_HEAD + chunk(FRAMES[0]))
    connection = await Connection.open(rig.listen)
    await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
    await connection.head()
    await connection.leave()
    await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 0, lambda: "the worker is still held")


async def test_names_that_callers_make_up_are_no_labels(rig: Rig) -> None:
    """Whatever a caller calls a model, a path or a method, no series is named for it."""
    for number in range(20):
        name = f"invented-{number}"
        body: JsonObject = {**HELLO, "model": name}
        await rig.stream(body)
        await rig.post("embeddings", {**body, "input": ["a"]})
        await rig.post("model_metadata", body)
        await rig.post(name, body)
        await rig.client.call("GET", f"/parameter/descriptions?model={name}")
    seen = await rig.scrape()
    assert not [labels for _, labels in seen if any("invented" in text for _, text in labels)]
    assert value(seen, "gateway_requests_total", route="embeddings", model="other", outcome="client_error") == 20


async def test_repairs_are_counted() -> None:
    """An answer to which the gateway added the finish reason says so in the metrics."""

    async def endless(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD + chunk(FRAMES[0]) + LAST_CHUNK)

    async with scripted({STREAM: endless}) as worker, running(worker.address) as rig:
        worker.arm()
        await rig.stream(HELLO)
        assert value(await rig.scrape(), "gateway_stream_notes_total", note="finish_synthesized") == 1
