"""The bodies of all requests under way have a bound together, and none is kept in the form in which it came."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.gateway.client import Connection, connected, request_bytes
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, until, with_script
from tests.gateway.scripted import GOOD, STREAM
from tests.gateway.test_waiting import Door, at_the_door
from tests.hostile import Request, Visit

PATH = f"{PREFIX}/generate_stream"
MOST = 1_000_000


@asynccontextmanager
async def bounded(monkeypatch: pytest.MonkeyPatch, most: int = MOST) -> AsyncIterator[tuple[Rig, Door]]:
    monkeypatch.setattr("proxy.server.gateway.BODIES_MAX_BYTES", most)
    async with at_the_door() as (rig, door):
        yield rig, door


def large(size: int) -> bytes:
    return json.dumps({**HELLO, "filler": "x" * size}).encode()


def held(rig: Rig) -> int:
    gateway = rig.gateway.gateway
    assert gateway is not None
    return gateway._bodies.held


async def test_bodies_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside those under way is told that it is busy, and fits when they are over."""
    async with bounded(monkeypatch) as (rig, door):
        first = asyncio.create_task(rig.post("generate_stream", large(600_000)))
        await until(lambda: door.now == 1, lambda: "the first is not under way")
        reply = await rig.post("generate", large(600_000))
        assert reply.object["error_code"] == 42903
        assert "bodies" in str(reply.object["text"])
        second = asyncio.create_task(rig.post("generate_stream", large(300_000)))
        await until(lambda: door.now == 2, lambda: "there is room for this one")
        door.let(3)
        assert [(await task).status for task in (first, second)] == [200, 200]
        await until(lambda: held(rig) == 0, lambda: f"{held(rig)} bytes are still held")
        assert (await rig.post("generate", large(900_000))).object["text"] == "Hello!"


async def test_it_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the head tells the size, nobody waits for the body."""
    async with bounded(monkeypatch) as (rig, _), connected(rig.listen) as connection:
        whole = request_bytes("POST", PATH, large(2 * MOST))
        await connection.send(whole[:500])
        head = await asyncio.wait_for(connection.head(), 2)
        assert head.status == 200
        assert (await rig.outcomes()) == {"refused": 1}


async def test_a_body_of_untold_size_is_counted_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent in chunks it is no way around the bound, and neither is it in the way of others before it is there."""
    async with bounded(monkeypatch) as (rig, door), connected(rig.listen) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        body = large(700_000)
        await connection.send(head + f"{len(body):x}\r\n".encode() + body[:-10])
        await until(lambda: held(rig) > 500_000, lambda: f"only {held(rig)} bytes are counted")
        assert (await rig.post("generate", large(600_000))).object["error_code"] == 42903
        await connection.send(body[-10:] + b"\r\n0\r\n\r\n")
        door.let()
        assert b"Hello!" in (await connection.reply()).body
        await connection.send(head + f"{MOST + 9:x}\r\n".encode() + b" " * MOST)
        await connection.send(b" " * 9)
        assert b'"error_code":42903' in (await connection.reply()).body


async def test_a_client_that_leaves_within_its_body_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had announced is free for others at once."""
    async with bounded(monkeypatch) as (rig, _):
        connection = await Connection.open(rig.listen)
        await connection.send(request_bytes("POST", PATH, large(900_000))[:-100_000])
        await until(lambda: held(rig) > 900_000, lambda: "it is not counted")
        await connection.leave(reset=True)
        await until(lambda: held(rig) == 0, lambda: "it is still counted")


async def test_while_a_request_waits_its_raw_body_is_gone() -> None:
    """Waiting for a worker costs what the request says, and not the bytes that said it as well."""
    marker = b"a body that is found again"

    async def busy(visit: Visit, _: Request) -> None:
        await asyncio.sleep(0.2)
        await visit.send(GOOD)

    async with with_script(STREAM, busy, balance={"worker_limit": 1}) as (rig, worker):
        first = asyncio.create_task(rig.stream(HELLO))
        await until(lambda: len(worker.struck) == 1, lambda: "the first is not under way")
        body = json.dumps({**HELLO, "filler": marker.decode() + "x" * 500_000}).encode()
        async with connected(rig.listen) as connection:
            await connection.send(request_bytes("POST", PATH, body))
            del body
            await until(lambda: any(row.waiting for row in rig.gateway.fleet.queues()), lambda: "it does not wait")
            kept = [thing for root in gc.get_objects() for thing in gc.get_referents(root)
                    if type(thing) in (bytes, bytearray) and len(thing) > 400_000 and marker in thing]  # fmt: skip
            assert kept == []
            assert b"Hello!" in (await connection.reply()).body
        await first
