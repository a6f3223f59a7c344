"""What a gateway promises holds for all its processes together: limits, queues, what operators and clusters decide."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.demo.faults import Fault
from proxy.types import JsonObject
from tests.cli.serving import HELLO, STREAM, Stream, worker
from tests.gateway.client import call, frames_of
from tests.ports import free_row, listens
from tests.processes.rig import Several, ends, several

SHORT: JsonObject = {**HELLO, "max_new_tokens": 4}


class Most:
    """Notes how many requests a worker has at once; as its fault, which is none."""

    def __init__(self, gateway: Several) -> None:
        self.count = 0
        self._worker = gateway.fleet
        gateway.fleet.fault = self._look

    def _look(self, path: str, body: JsonObject) -> Fault | None:
        if path.endswith("generate_stream"):
            self.count = max(self.count, self._worker.queue_length)
        return None


async def test_a_limit_holds_over_processes(tmp_path: Path) -> None:
    """Never more than the worker takes; the rest waits, and each gets its answer."""
    async with several(tmp_path, chunks=200, limit=2) as gateway:
        most = Most(gateway)
        replies = await asyncio.gather(*(gateway.gateway.ask(STREAM, SHORT) for _ in range(20)))
        assert {frames_of(reply.body)[-1]["finish_reason"] for reply in replies} <= {"stop", "length"}
        assert most.count == 1  # beside the one that comes
        await gateway.counts(0)
        assert await gateway.metric("gateway_queue_ends_total", result="granted") > 0
        assert await gateway.metric("gateway_request_duration_seconds_count") == 20
        await gateway.stop()


async def test_who_waits_when_its_process_is_killed_waits_no_more(tmp_path: Path) -> None:
    """Nobody's place in the queue is left to somebody who is gone, and nobody's lease either."""
    async with several(tmp_path, limit=1) as gateway:
        (first,) = await gateway.streams(1)
        waiting = [asyncio.create_task(gateway.gateway.ask(STREAM, HELLO)) for _ in range(8)]

        async def all_wait() -> bool:
            return await gateway.metric("gateway_queue_depth") == 8

        await gateway.until(all_wait, "not all of them wait")
        await gateway.kill("serving-1")
        await gateway.kill("serving-2")
        await asyncio.wait(waiting)
        await ends([first])
        await gateway.counts(0)
        assert await gateway.metric("gateway_queue_depth") == 0
        assert {frames[-1]["finish_reason"] for frames in await gateway.asked(1)} == {"stop"}
        await gateway.stop()


async def test_what_an_operator_and_a_cluster_decided_outlives_control(tmp_path: Path) -> None:
    """A drained worker stays drained, a model that is out of service stays so, until somebody changes it."""
    async with (
        worker("n") as other,
        several(tmp_path, more=[other.address], dbgpt={"management": True}) as gateway,
    ):
        drained = other.address.removeprefix("http://")
        assert (await gateway.gateway.post(f"/workers/{drained}/drain")).status == 200
        told: JsonObject = {"host": "x", "port": 1, "model": "m", "worker_type": "llm", "params": {}}
        assert (await gateway.gateway.ask("/api/worker/models/shutdown", told)).status == 200
        for again in (False, True):
            if again:
                await gateway.replaced("control", await gateway.kill("control"))
            texts = [str(frames[-1]["text"]) for frames in await gateway.asked(6)]
            assert all("the model 'm' is out of service" in text for text in texts), texts
            rows = {str(row["id"]): row["drained"] for row in await gateway.gateway.rows("/workers")}
            assert rows[drained] is True
        assert (await gateway.gateway.ask("/api/worker/models/startup", told)).status == 200
        assert {frames[-1]["finish_reason"] for frames in await gateway.asked(6)} == {"stop"}
        assert (await gateway.gateway.post(f"/workers/{drained}/enable")).status == 200
        replies = [frames_of((await gateway.gateway.ask(STREAM, {**HELLO, "model": "n"})).body) for _ in range(4)]
        assert {frames[-1]["finish_reason"] for frames in replies} == {"stop"}
        await gateway.stop()


@pytest.fixture
def first() -> int:
    return free_row(3, 22_000, 30_000)


async def test_a_port_of_a_model_is_that_of_all(tmp_path: Path, first: int) -> None:
    """It is opened by each process, kept by a new control, and free once the gateway has ended."""
    async with several(tmp_path, model_ports={"first": first, "last": first + 1}) as gateway:
        address = Address("127.0.0.1", first)

        async def models() -> set[object]:
            found = [await call(address, "POST", "/api/worker/model_metadata", {"span_id": "x"}) for _ in range(8)]
            return {reply.object["model"] for reply in found}

        assert await models() == {"m"}
        await gateway.replaced("control", await gateway.kill("control"))
        assert await models() == {"m"}
        await gateway.replaced("serving-2", await gateway.kill("serving-2"))
        assert await models() == {"m"}
        assert not listens(first + 1)
        await gateway.stop()
        assert not listens(first)


async def test_everybody_knows_how_much_is_under_way(tmp_path: Path) -> None:
    """Whichever process is asked counts the requests of all."""
    async with several(tmp_path) as gateway:
        streams = await gateway.streams(6)

        async def all_know() -> bool:
            found = [await gateway.gateway.ask("/worker_get_status", {}) for _ in range(6)]
            return {reply.object["queue_length"] for reply in found} == {6}

        await gateway.until(all_know, "not everybody knows")
        await ends(streams)
        await gateway.stop()


async def test_a_copy_gives_way_to_a_client_of_another_process(tmp_path: Path) -> None:
    """A client never waits for a worker because a copy of a request has it."""
    async with worker("n", chunks_per_second=20) as other:
        limits: JsonObject = {"worker_limit": 1, "queue_seconds": 0.2}
        models: JsonObject = {"m": {"mirror": {"share": 1.0, "model": "n"}}}
        async with several(tmp_path, more=[other.address], balance=limits, models=models) as gateway:
            for _ in range(6):
                (copied,) = await gateway.streams(1)
                await gateway.counts(2)
                stream = await Stream.begin(gateway.gateway.clients, {**HELLO, "model": "n"})
                assert (await stream.left())["error_code"] == 0
                await copied.left()
                await gateway.counts(0)
            await gateway.stop()
