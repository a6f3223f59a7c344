"""Requests that wait for a worker: how many, in which order, how long, and what ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from proxy.types import JsonObject
from tests.gateway.client import Connection, connected, frames_of
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, running, until, with_script
from tests.gateway.scripted import GOOD, STREAM, scripted
from tests.gateway.several import counted
from tests.hostile import Request, Visit


class Door:
    """Answers one request for each call of `let`; knows who came, in which order, and how many were in at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.came: list[str] = []
        self._tickets = asyncio.Semaphore(0)

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._tickets.release()

    async def __call__(self, visit: Visit, request: Request) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.came.append(request.body.decode())
        try:
            await self._tickets.acquire()
            await asyncio.sleep(0.002)
        finally:
            self.now -= 1
        await visit.send(GOOD)


@asynccontextmanager
async def at_the_door(**settings: object) -> AsyncIterator[tuple[Rig, Door]]:
    """A gateway in front of one such worker."""
    door = Door()
    async with with_script(STREAM, door, **settings) as (rig, _):
        yield rig, door


def numbered(number: int) -> JsonObject:
    return {"model": "m", "prompt": f"number {number};", "chat_model": False}


def waiting(rig: Rig) -> int:
    return sum(row.waiting for row in rig.gateway.fleet.queues())


async def till_waiting(rig: Rig, count: int) -> None:
    await until(lambda: waiting(rig) == count, lambda: f"{waiting(rig)} wait, not {count}")


async def full(rig: Rig, door: Door, limit: int) -> list[asyncio.Task[list[JsonObject]]]:
    """As many streams as the worker takes."""
    tasks = [asyncio.create_task(rig.stream(numbered(number))) for number in range(limit)]
    await until(lambda: door.now == limit, lambda: f"{door.now} are in")
    return tasks


@pytest.mark.parametrize("limit", [1, 3])
async def test_never_more_than_the_limit_at_once(limit: int) -> None:
    """However many come, a worker sees no more than it takes; all are answered."""
    door, other = Door(), Door()
    given = {"worker_limit": limit}
    async with (
        scripted({STREAM: door}) as one,
        scripted({STREAM: other}) as two,
        running(one.address, two.address, balance=given) as rig,
    ):
        one.arm()
        two.arm()
        tasks = [asyncio.create_task(rig.stream(HELLO)) for _ in range(40)]
        await till_waiting(rig, 40 - 2 * limit)
        door.let(40)
        other.let(40)
        answers = await asyncio.gather(*tasks)
        assert {frames[-1]["text"] for frames in answers} == {"Hello!"}
        assert (door.most, other.most) == (limit, limit)
        assert (await counted(rig, "gateway_queue_ends_total"))["m", "granted"] == 40 - 2 * limit
        waits = await counted(rig, "gateway_queue_wait_seconds_count")
        assert waits == {("m",): 40 - 2 * limit}


async def test_first_come_first_served() -> None:
    """Those who wait get the worker in the order in which they came."""
    async with at_the_door(balance={"worker_limit": 1}) as (rig, door):
        tasks = await full(rig, door, 1)
        for number in range(1, 6):
            tasks.append(asyncio.create_task(rig.stream(numbered(number))))
            await till_waiting(rig, number)
        door.let(6)
        await asyncio.gather(*tasks)
        assert [f"number {number};" in body for number, body in enumerate(door.came)] == [True] * 6
        assert door.most == 1


async def test_a_wait_has_an_end() -> None:
    """Who has waited as long as may be gets the busy answer, and the worker never hears of it."""
    async with at_the_door(balance={"worker_limit": 1, "queue_seconds": 0.1}) as (rig, door):
        tasks = await full(rig, door, 1)
        begun = time.monotonic()
        (frame,) = await rig.stream(numbered(1))
        assert 0.08 < time.monotonic() - begun < 0.5
        assert frame["error_code"] == 42903
        assert frame["text"] == "all workers of the model 'm' are busy, and none became free within 0.1 s"
        reply = await rig.post("embeddings", {"model": "m", "input": ["a"]})
        assert (reply.status, reply.object["error_code"]) == (503, 42903)
        door.let(1)
        await asyncio.gather(*tasks)
        assert len(door.came) == 1
        assert await rig.outcomes() == {"ok": 1, "refused": 2}
        assert await counted(rig, "gateway_queue_ends_total") == {("m", "timeout"): 2}


async def test_a_queue_has_a_length() -> None:
    """Who comes when as many wait as may is told at once."""
    async with at_the_door(balance={"worker_limit": 1, "queue_length": 2}) as (rig, door):
        tasks = await full(rig, door, 1)
        tasks += [asyncio.create_task(rig.stream(numbered(number))) for number in (1, 2)]
        await till_waiting(rig, 2)
        (frame,) = await rig.stream(HELLO)
        assert (frame["error_code"], "as many requests wait as may" in str(frame["text"])) == (42903, True)
        door.let(3)
        assert [(await task)[-1]["error_code"] for task in tasks] == [0, 0, 0]


@pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
async def test_who_leaves_waits_no_longer(reset: bool) -> None:
    """A client that leaves while it waits is out of the queue at once, and who came after it moves up."""
    async with at_the_door(balance={"worker_limit": 1}) as (rig, door):
        tasks = await full(rig, door, 1)
        connection = await Connection.open(rig.listen)
        await connection.request("POST", f"{PREFIX}/generate_stream", numbered(1))
        await till_waiting(rig, 1)
        tasks.append(asyncio.create_task(rig.stream(numbered(2))))
        await till_waiting(rig, 2)
        await connection.leave(reset=reset)
        await till_waiting(rig, 1)
        door.let(2)
        await asyncio.gather(*tasks)
        assert ["number 1;" in body for body in door.came] == [False, False]
        assert await counted(rig, "gateway_queue_ends_total") == {("m", "left"): 1, ("m", "granted"): 1}
        assert await rig.outcomes() == {"ok": 2, "cancelled": 1}


async def test_who_leaves_in_the_moment_of_its_turn() -> None:
    """A worker that was granted to somebody who is just leaving goes to the next."""
    async with with_script(STREAM, Door(), balance={"worker_limit": 1}) as (rig, worker):
        for _ in range(20):
            held = rig.gateway.fleet.acquire("m", "llm", time.monotonic())
            connection = await Connection.open(rig.listen)
            await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
            await till_waiting(rig, 1)
            connection.writer.transport.abort()
            held.release("neutral", time.monotonic())
            await connection.leave()
            await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 0, lambda: "a lease is left")
        assert await rig.outcomes() == {"cancelled": 20}


async def test_nobody_waits_for_a_worker_that_is_gone() -> None:
    """When the last worker goes down, those who wait are told at once."""
    door = Door()
    async with with_script(STREAM, door, balance={"worker_limit": 1}) as (rig, worker):
        tasks = await full(rig, door, 1)
        asking = asyncio.create_task(rig.stream(numbered(1)))
        await till_waiting(rig, 1)
        rig.gateway.fleet.fail(worker.address, "taken out by the test", time.monotonic())
        (frame,) = await asking
        assert (frame["error_code"], frame["text"]) == (50005, "no worker for the model 'm' can answer now")
        door.let(1)
        await asyncio.gather(*tasks)
        assert await counted(rig, "gateway_queue_ends_total") == {("m", "refused"): 1}


async def test_a_mere_question_waits_for_nobody() -> None:
    """A count of tokens takes no place at a worker, so it is answered while all are taken."""
    async with at_the_door(balance={"worker_limit": 1}) as (rig, door):
        tasks = await full(rig, door, 1)
        reply = await asyncio.wait_for(rig.post("count_token", {"model": "m", "prompt": "a b c"}), 1)
        assert reply.json == 3
        door.let(1)
        await asyncio.gather(*tasks)


async def test_a_crowd_that_waits_and_leaves() -> None:
    """Half of a crowd leaves while it waits; the others are answered, and nothing is held."""
    async with at_the_door(balance={"worker_limit": 2, "queue_length": 100}) as (rig, door):
        connections = [await Connection.open(rig.listen) for _ in range(60)]
        for number, connection in enumerate(connections):
            await connection.request("POST", f"{PREFIX}/generate_stream", numbered(number))
        await till_waiting(rig, 58)
        door.let(60)
        for connection in connections[1::2]:
            connection.writer.transport.abort()
        replies = [await connection.reply() for connection in connections[::2]]
        assert {frames_of(reply.body)[-1]["text"] for reply in replies} == {"Hello!"}
        for connection in connections:
            await connection.leave()
        await rig.quiet()
        assert waiting(rig) == 0
        assert door.most == 2
        assert sum((await rig.outcomes()).values()) == 60


async def test_requests_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a request is refused before its body is read, and the next one after the crowd is served."""
    monkeypatch.setattr("proxy.server.gateway.REQUESTS_MAX", 2)
    async with at_the_door() as (rig, door):
        tasks = await full(rig, door, 2)
        async with connected(rig.listen) as connection:
            await connection.send(
                f"POST {PREFIX}/generate_stream HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\n{{".encode()
            )
            reply = await connection.reply()
        assert [frame["error_code"] for frame in frames_of(reply.body)] == [42903]
        door.let(3)
        await asyncio.gather(*tasks)
        assert (await rig.stream(HELLO))[-1]["error_code"] == 0
        assert await rig.outcomes() == {"ok": 3, "refused": 1}


async def test_while_it_stops_new_work_is_refused(busy: tuple[Rig, Door], monkeypatch: pytest.MonkeyPatch) -> None:
    """New work is not ready, in the caller's dialect; what is known is still told; what runs goes on."""
    rig, door = busy
    tasks = await full(rig, door, 1)
    gateway = rig.gateway.gateway
    assert gateway is not None
    facilities = gateway._facilities
    stopping = replace(facilities.traffic(), accepting=lambda: False)
    monkeypatch.setattr(gateway, "_facilities", replace(facilities, traffic=lambda: stopping))
    (frame,) = await rig.stream(HELLO)
    assert (frame["error_code"], frame["text"]) == (50005, "the gateway is stopping; ask again in a moment")
    assert (await rig.post("embeddings", {"model": "m", "input": ["a"]})).status == 503
    assert (await rig.post("model_metadata", {"model": "m"})).status == 200
    door.let(1)
    assert (await tasks[0])[-1]["text"] == "Hello!"
    assert await rig.outcomes() == {"ok": 2, "refused": 2}


def in_progress(rig: Rig) -> int:
    assert rig.gateway.gateway is not None
    return rig.gateway.gateway.in_progress


async def test_the_gateway_knows_what_is_in_progress() -> None:
    """Waiting for the end of everything ends with the last request, or with the time."""
    async with at_the_door() as (rig, door):
        gateway = rig.gateway.gateway
        assert gateway is not None
        assert await gateway.drain(5) == 0
        tasks = await full(rig, door, 2)
        assert await gateway.drain(0.02) == 2
        draining = asyncio.create_task(gateway.drain(5))
        door.let(2)
        assert await asyncio.wait_for(draining, 1) == 0
        await asyncio.gather(*tasks)
        assert in_progress(rig) == 0


@pytest.fixture
async def busy() -> AsyncIterator[tuple[Rig, Door]]:
    """A worker that takes one request at a time."""
    async with at_the_door(balance={"worker_limit": 1}) as (rig, door):
        yield rig, door


async def test_a_cut_tells_everybody(busy: tuple[Rig, Door]) -> None:
    """Whoever streams, waits in the queue or for one answer, or still sends its body is told why."""
    rig, door = busy
    tasks = await full(rig, door, 1)
    collecting = asyncio.create_task(rig.post("generate", HELLO))
    tasks.append(asyncio.create_task(rig.stream(numbered(1))))
    await till_waiting(rig, 2)
    async with connected(rig.listen) as connection:
        await connection.send(f"POST {PREFIX}/embeddings HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\n{{".encode())
        await until(lambda: in_progress(rig) == 4, lambda: f"{in_progress(rig)} in progress")
        gateway = rig.gateway.gateway
        assert gateway is not None
        assert await gateway.cut() == 4
        assert in_progress(rig) == 0
        sorry = "the gateway is stopping; ask again in a moment"
        for task in tasks:
            assert [(frame["error_code"], frame["text"]) for frame in await task] == [(50005, sorry)]
        assert (await collecting).object["text"] == sorry
        reply = await connection.reply()
        assert (reply.status, reply.object["detail"]) == (503, sorry)
    await rig.quiet()
    assert await rig.outcomes() == {"refused": 4}
    door.let(9)
