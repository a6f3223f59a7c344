"""Calls to workers are counted by their backend, from the moment a worker is asked to the moment it is given back."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.client import Connection
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, demo_worker, running, until, with_demo, with_script
from tests.gateway.scripted import (
    EMBEDDINGS,
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    chunk,
    frame,
    sends,
    then_gone,
    then_reset,
)
from tests.gateway.several import one_fails
from tests.gateway.storyteller import Storyteller, pair
from tests.hostile import Request, Visit

NAMES = ("requests_total", "request_duration_seconds_count", "first_frame_seconds_count", "inter_frame_seconds_count")


async def seen(rig: Rig, name: str) -> dict[str, float]:
    """A metric of the one backend and model that there are, by the label that it has beside these (and the role); ""
    without one.
    """
    found: dict[str, float] = {}
    for (sample, labels), value in (await rig.scrape()).items():
        if sample == f"gateway_backend_{name}" and value:
            told = dict(labels)
            assert (told.pop("backend"), told.pop("model"), told.pop("role")) == ("fastchat", "m", "main")
            found["".join(told.values())] = value
    return found


async def test_a_stream_is_one_call() -> None:
    """Frames, tokens and times of one stream; nothing is under way afterwards."""
    proceed = asyncio.Semaphore(0)

    async def part(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD)
        for data in (frame("Hel"), frame("Hello"), frame("Hello!", "stop")):
            await visit.send(chunk(data))
            await proceed.acquire()
        await visit.send(LAST_CHUNK)

    async with with_script(STREAM, part) as (rig, _):
        connection = await Connection.open(rig.listen)
        await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
        async for _ in connection.pieces(await connection.head()):
            assert await seen(rig, "in_flight") in ({"": 1}, {})
            proceed.release()
        await connection.leave()
        assert await seen(rig, "in_flight") == {}
        assert [await seen(rig, name) for name in NAMES] == [{"ok": 1}, {"": 1}, {"": 1}, {"": 2}]
        assert await seen(rig, "tokens_total") == {"prompt": 3, "completion": 6}
        assert await seen(rig, "time_per_token_seconds_count") == {"": 1}
        per_token = (await seen(rig, "time_per_token_seconds_sum"))[""]
        between = (await seen(rig, "inter_frame_seconds_sum"))[""]
        assert per_token == pytest.approx(between / 5)
        both = await rig.scrape()
        labels = frozenset({("route", "generate_stream"), ("model", "m")})
        assert both["gateway_inter_frame_seconds_sum", labels] == pytest.approx(between)


async def test_the_time_of_a_call_begins_when_the_worker_is_asked() -> None:
    """The time in the queue is the request's and not the worker's."""
    async with with_demo(chunks_per_second=100, words=20, concurrency=1) as (rig, _):
        await asyncio.gather(rig.stream(HELLO), rig.stream(HELLO))
        calls = (await seen(rig, "first_frame_seconds_sum"))[""]
        labels = frozenset({("route", "generate_stream"), ("model", "m")})
        assert (await rig.scrape())["gateway_time_to_first_frame_seconds_sum", labels] > calls + 0.1


async def test_each_worker_that_is_tried_is_a_call() -> None:
    """The one that failed before its client saw anything, and the one that answered."""
    async with one_fails(then_reset(STREAM_HEAD)) as (rig, _, _):
        await rig.stream(HELLO)
        assert await seen(rig, "requests_total") == {"upstream_error": 1, "ok": 1}
        assert await seen(rig, "first_frame_seconds_count") == {"": 1}
        assert await rig.outcomes() == {"ok": 1}


async def test_a_stream_that_goes_on_elsewhere_is_two_calls() -> None:
    """Each has the tokens that it made itself, and the pause between the two is neither's."""
    lost, other = Storyteller(), Storyteller()
    async with pair(lost, other) as both:
        await both.ask(5)
        rig = both.rig
        assert await seen(rig, "requests_total") == {"upstream_error": 1, "ok": 1}
        told = [body["usage"] for body in (lost.frames(lost.bodies[0])[4], other.frames(other.bodies[0])[-1])]
        made = sum(int(str(usage["completion_tokens"])) for usage in told if isinstance(usage, dict))
        assert (await seen(rig, "tokens_total"))["completion"] == made
        assert await seen(rig, "first_frame_seconds_count") == {"": 2}
        gaps = (await seen(rig, "inter_frame_seconds_count"))[""]
        labels = frozenset({("route", "generate_stream"), ("model", "m")})
        assert (await rig.scrape())["gateway_inter_frame_seconds_count", labels] == gaps + 1


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_cancels_the_call(reset: bool) -> None:
    """In mid-stream, and before anything came."""
    async with with_script(STREAM, then_gone(STREAM_HEAD + chunk(frame("Hel")))) as (rig, worker):
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
        assert await seen(rig, "requests_total") == {"cancelled": 2}
        assert await seen(rig, "in_flight") == {}
        assert (await seen(rig, "tokens_total"))["completion"] == 3


async def test_whole_answers_are_calls_too() -> None:
    """A batch is one call, however many parts it has; a refused request and a mere count are none."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        await rig.post("embeddings", {"model": "m", "input": ["a"] * 20})
        await rig.post("count_token", {"model": "m", "prompt": "a"})
        await rig.post("generate", {"model": "m", "prompt": "a", "temperature": "hot"})
        assert await seen(rig, "requests_total") == {"ok": 1}
        assert await seen(rig, "first_frame_seconds_count") == {}


async def test_a_worker_that_refuses_has_failed_its_call() -> None:
    """Its HTTP status says so."""
    refusal = sends(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno")
    async with with_script(EMBEDDINGS, refusal) as (rig, _):
        await rig.post("embeddings", {"model": "m", "input": ["a"]})
        assert await seen(rig, "requests_total") == {"upstream_error": 1}


async def test_the_backend_of_each_worker_is_known() -> None:
    """For joining what is counted by worker."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        info = {labels for name, labels in await rig.scrape() if name == "gateway_worker_info"}
        assert info == {frozenset({("worker", worker.address), ("backend", "fastchat")})}
