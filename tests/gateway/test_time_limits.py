"""How long a worker may take to begin, how long all of them may for one request, and who is to blame afterwards."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.gateway.client import Connection
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, until, with_script
from tests.gateway.scripted import (
    EMBEDDINGS,
    GOOD,
    STREAM,
    STREAM_HEAD,
    Part,
    chunk,
    frame,
    json_response,
    then_gone,
)
from tests.gateway.several import counted, one_fails, verdicts, view_of, with_scripts
from tests.gateway.test_slow_readers import abundance
from tests.hostile import Request, Visit


@pytest.mark.parametrize("pieces", [[b"\0"], [b"\0\0", b" "]], ids=["an empty frame", "empty frames"])
async def test_what_is_no_frame_is_no_beginning(pieces: list[bytes]) -> None:
    """Bytes that only keep a connection alive are not the first frame; another worker is asked in time."""
    limits = {"first_seconds": 0.1, "idle_seconds": 5.0}
    part = then_gone(STREAM_HEAD, *map(chunk, pieces))
    async with one_fails(part, timeouts=limits) as (rig, _, good):
        begun = time.monotonic()
        assert (await rig.stream(HELLO))[-1]["text"] == "Hello!"
        assert time.monotonic() - begun < 1.0
        assert len(good.bodies(STREAM)) == 1


async def test_after_the_first_frame_the_time_between_reads_counts() -> None:
    """A stream that has begun may take longer than its first frame might."""

    async def slow(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD + chunk(frame("Hel")))
        await asyncio.sleep(0.3)
        await visit.send(GOOD.removeprefix(STREAM_HEAD))

    async with one_fails(slow, timeouts={"first_seconds": 0.1, "idle_seconds": 5.0}) as (rig, _, good):
        assert (await rig.stream(HELLO))[-1]["text"] == "Hello!"
        assert good.bodies(STREAM) == []


async def test_the_whole_time_is_the_request_s_and_not_each_worker_s() -> None:
    """Four workers that say nothing take no longer together than one may."""
    limits = {"first_seconds": 0.4, "total_seconds": 0.7}
    async with with_scripts(*[then_gone()] * 4, timeouts=limits) as (rig, workers):
        begun = time.monotonic()
        (last,) = await rig.stream(HELLO)
        assert 0.65 < time.monotonic() - begun < 1.3
        assert last["error_code"] == 50006
        assert re.search(r"was not over within 0.7 s, of which 0.\d s were over before", str(last["text"]))
        tried = [verdicts(rig, worker) for worker in workers if worker.struck]
        assert sorted(map(str, tried)) == ["{'failure': 1}", "{'neutral': 1}"]


async def test_waiting_in_the_queue_takes_nothing_of_it() -> None:
    """A request that waited for longer than the whole answer may take still has all of that time."""
    door = asyncio.Event()

    async def held(visit: Visit, _: Request) -> None:
        await door.wait()
        await visit.send(GOOD)

    limits = {"total_seconds": 0.3}
    async with with_script(STREAM, held, timeouts=limits, balance={"worker_limit": 1}) as (rig, worker):
        lease = rig.gateway.fleet.acquire("m", "llm", time.monotonic())
        asking = asyncio.create_task(rig.stream(HELLO))
        await asyncio.sleep(0.4)
        lease.release("neutral", time.monotonic())
        await until(lambda: len(worker.struck) == 1, lambda: "the worker was not asked")
        door.set()
        assert (await asking)[-1]["text"] == "Hello!"


async def test_parts_of_one_request_share_its_time() -> None:
    """Many texts are asked for in parts, which may take no longer together than the whole answer may."""

    async def slow(visit: Visit, _: Request) -> None:
        await asyncio.sleep(0.15)
        await visit.send(json_response({"embedding": [[1.0]] * 8, "token_num": 1}))

    async with with_script(EMBEDDINGS, slow, timeouts={"total_seconds": 0.4}) as (rig, worker):
        reply = await rig.post("embeddings", {"model": "m", "input": ["a"] * 80})
        assert reply.object["error_code"] == 50006
        assert len(worker.struck) == 3
        assert verdicts(rig, worker) == {"neutral": 1}


async def test_clients_that_do_not_read_open_no_breaker() -> None:
    """A worker that had to wait for its clients until the time was over has done nothing wrong."""
    limits = {"total_seconds": 0.3}
    async with with_script(STREAM, abundance, timeouts=limits, balance={"worker_limit": 10}) as (rig, worker):
        clients = [await Connection.open(rig.listen, receive_buffer=4096) for _ in range(6)]
        for client in clients:
            await client.request("POST", f"{PREFIX}/generate_stream", HELLO)
        await until(lambda: verdicts(rig, worker) == {"neutral": 6}, lambda: f"{rig.gateway.fleet.workers()}")
        assert view_of(rig, worker).breaker == "closed"
        for client in clients:
            await client.leave(reset=True)


@pytest.mark.parametrize("part", [then_gone(), then_gone(STREAM_HEAD)], ids=["nothing", "a head"])
async def test_a_worker_that_says_nothing_at_all_is_to_blame(part: Part) -> None:
    """Also where the time for the whole is the first that is over."""
    async with with_script(STREAM, part, timeouts={"total_seconds": 0.1}) as (rig, worker):
        assert (await rig.stream(HELLO))[-1]["error_code"] == 50006
        assert await rig.upstream_errors() == {"upstream_timeout": 1}
        assert await counted(rig, "gateway_retries_total") == {}
        assert verdicts(rig, worker) == {"failure": 1}
