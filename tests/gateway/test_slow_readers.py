"""A client that reads slowly, or not at all for a while, is waited for without its answer piling up in the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

import pytest

from tests.gateway.client import Connection, connected
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, until, with_script
from tests.gateway.scripted import (
    EMBEDDINGS,
    GOOD,
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    ScriptedWorker,
    chunk,
    frame,
    json_response,
    sends,
)
from tests.hostile import Request, Visit

FRAMES = 3_000
BASE = "x" * 16_000
WHOLE = FRAMES * len(BASE)
# What may be under way: some in the gateway (a quarter of a megabyte and one read), the rest in the system's buffers of
# two connections, which grow to several megabytes each.
UNDER_WAY = 24_000_000


async def abundance(visit: Visit, _: Request) -> None:
    """An answer of 48 MB, as fast as it is taken."""
    await visit.send(STREAM_HEAD)
    for number in range(FRAMES):
        await visit.send(chunk(frame(f"{BASE}{'.' * number}"[-16_000 - number :])))
    await visit.send(chunk(frame(BASE + "." * FRAMES, "stop")), LAST_CHUNK)


async def digest(connection: Connection) -> tuple[int, str]:
    """Length and hash of a whole body."""
    size, seen = 0, hashlib.sha256()
    async for piece in connection.pieces(await connection.head()):
        size += len(piece)
        seen.update(piece)
    return size, seen.hexdigest()


async def still(worker: ScriptedWorker) -> int:
    """Wait until the worker can send nothing more, and tell how much it could."""
    sent, quiet_for = -1, 0
    while quiet_for < 5:
        await asyncio.sleep(0.02)
        quiet_for = quiet_for + 1 if worker.peer.sent == sent else 0
        sent = worker.peer.sent
    return sent


@contextlib.asynccontextmanager
async def asking(rig: Rig) -> AsyncIterator[Connection]:
    """A client that has asked and reads nothing by itself; afterwards it is gone, with whatever it has not read."""
    connection = await Connection.open(rig.listen, receive_buffer=65_536)
    try:
        await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
        yield connection
    finally:
        await connection.leave(reset=True)


async def test_the_worker_waits_for_the_client() -> None:
    """A reader that stops stops the worker; a reader beside it is served meanwhile; then it gets every byte."""
    async with with_script(STREAM, abundance) as (rig, worker), asking(rig) as slow:
        stalled_at = await still(worker)
        assert stalled_at < UNDER_WAY < WHOLE
        async with connected(rig.listen) as fast:
            await fast.request("POST", f"{PREFIX}/generate_stream", HELLO)
            expected = await asyncio.wait_for(digest(fast), 20)
        assert expected[0] > WHOLE
        assert await digest(slow) == expected
        assert await rig.outcomes() == {"ok": 2}


async def test_waiting_for_a_client_is_not_the_worker_s_fault() -> None:
    """The limit on a worker's silence does not run while it is the client that does not read."""
    limits = {"first_seconds": 5.0, "idle_seconds": 0.2}
    async with with_script(STREAM, abundance, timeouts=limits) as (rig, worker), asking(rig) as slow:
        await still(worker)
        await asyncio.sleep(0.3)
        size, _ = await digest(slow)
        assert size > WHOLE
        assert await rig.outcomes() == {"ok": 1}


@pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
async def test_a_client_that_leaves_while_it_is_waited_for(reset: bool) -> None:
    """The worker is dropped although the gateway was not reading from it."""
    async with with_script(STREAM, abundance) as (rig, worker), asking(rig) as slow:
        await still(worker)
        # With unread bytes in its buffer a closed socket resets by itself; shutting it down first sends an orderly end.
        if not reset:
            slow.writer.write_eof()
        await slow.leave(reset=reset)
        await rig.quiet()
        await until(lambda: worker.peer.open <= 1, lambda: "the worker still sends", 2)
        assert await rig.outcomes() == {"cancelled": 1}


async def test_a_short_answer_does_not_wait_for_its_reader() -> None:
    """An answer that fits into the buffers leaves the worker free before its client has read it."""
    async with with_script(STREAM, sends(GOOD)) as (rig, worker), asking(rig) as slow:
        await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 0, lambda: "the worker is still held")
        assert (await digest(slow))[0] > 0


async def test_a_client_that_never_reads_holds_no_worker() -> None:
    """When the time for the whole exchange is over, the worker is let go, whatever the client does."""
    limits = {"first_seconds": 5.0, "idle_seconds": 5.0, "total_seconds": 0.3}
    async with with_script(STREAM, abundance, timeouts=limits) as (rig, worker), asking(rig) as slow:
        fleet = rig.gateway.fleet
        await until(lambda: fleet.in_flight(worker.address) == 1, lambda: "the worker was not asked")
        await until(lambda: fleet.in_flight(worker.address) == 0, lambda: "the worker is still held", 2)
        await until(lambda: worker.peer.open <= 1, lambda: "the worker still sends", 2)
        await slow.leave(reset=True)
        await rig.quiet()
        assert sum((await rig.outcomes()).values()) == 1


async def test_a_client_that_takes_nothing_for_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is closed, and the worker is free for others."""
    monkeypatch.setattr("proxy.http.connection.CLIENT_STALL_SECONDS", 0.1)
    async with with_script(STREAM, abundance) as (rig, worker), asking(rig):
        fleet = rig.gateway.fleet
        await until(lambda: fleet.in_flight(worker.address) == 1, lambda: "the worker was not asked")
        await until(lambda: fleet.in_flight(worker.address) == 0, lambda: "the worker is still held")
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 1}


async def test_a_client_that_takes_a_little_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is not gone: as long as anything is taken the answer goes on."""
    monkeypatch.setattr("proxy.http.connection.CLIENT_STALL_SECONDS", 0.3)
    async with with_script(STREAM, abundance) as (rig, worker), asking(rig) as slow:
        for _ in range(16):
            await asyncio.sleep(0.05)
            await slow.reader.readexactly(1_200_000)
        assert rig.gateway.fleet.in_flight(worker.address) == 1
        await slow.leave(reset=True)
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 1}


async def test_a_whole_answer_that_is_not_taken_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors for which nobody comes do not stay in memory; they hold no worker meanwhile."""
    monkeypatch.setattr("proxy.http.connection.CLIENT_STALL_SECONDS", 0.1)

    async def many(visit: Visit, _: Request) -> None:
        await visit.send(json_response({"embedding": [[0.125] * 2_000_000], "token_num": 1}))

    async with with_script(EMBEDDINGS, many) as (rig, worker):
        slow = await Connection.open(rig.listen, receive_buffer=4096)
        await slow.request("POST", f"{PREFIX}/embeddings", {"model": "m", "input": ["a"]})
        gateway = rig.gateway.gateway
        assert gateway is not None
        await until(lambda: gateway.in_progress == 1, lambda: "it was not asked")
        await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 0, lambda: "the worker is held")
        await until(lambda: gateway.in_progress == 0, lambda: "it is still served")
        await slow.leave(reset=True)
