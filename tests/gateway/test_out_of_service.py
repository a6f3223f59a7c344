"""A model that a cluster's page has taken out of service answers nobody, whoever waits for it and by whatever name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.types import JsonObject
from tests.gateway.client import frames_of
from tests.gateway.rig import HELLO, Rig, running, until, with_script
from tests.gateway.scripted import STREAM, ScriptedWorker, scripted
from tests.gateway.test_waiting import Door, full, till_waiting

MANAGED = {"dbgpt": {"management": True}}


async def stop(rig: Rig, model: str) -> None:
    body: JsonObject = {"host": "x", "port": 1, "model": model, "worker_type": "llm", "params": {}}
    assert (await rig.post("models/shutdown", body)).status == 200


@asynccontextmanager
async def one_at_a_time() -> AsyncIterator[tuple[Rig, ScriptedWorker, Door]]:
    door = Door()
    async with with_script(STREAM, door, balance={"worker_limit": 1}, **MANAGED) as (rig, worker):
        yield rig, worker, door


async def test_who_waits_for_it_is_told_when_its_turn_comes() -> None:
    """What had begun goes on to its end, and nothing is begun after that."""
    async with one_at_a_time() as (rig, worker, door):
        first = await full(rig, door, 1)
        second = asyncio.create_task(rig.stream(HELLO))
        await till_waiting(rig, 1)
        await stop(rig, "m")
        door.let(2)
        assert (await first[0])[-1]["text"] == "Hello!"
        (last,) = await second
        assert "the model 'm' is out of service" in str(last["text"])
        assert len(worker.struck) == 1
        assert rig.gateway.fleet.in_flight(worker.address) == 0


async def test_it_stands_in_for_no_other_model() -> None:
    """A fallback that is out of service is none, and the client is told which one it would have been."""
    given = {**MANAGED, "models": {"n": {"fallback": "m"}}}
    async with scripted({}, ["m"]) as worker, running(worker.address, given=given) as rig:
        for model in ("m", "n"):
            assert (await rig.stream({**HELLO, "model": model}))[-1]["text"] == "Hello!"
        await stop(rig, "m")
        reply = await rig.post("generate_stream", {**HELLO, "model": "n"})
        (last,) = frames_of(reply.body)
        assert "its fallback 'm' is out of service" in str(last["text"])
        assert len(worker.bodies(STREAM)) == 2
        await until(lambda: rig.gateway.fleet.in_flight(worker.address) == 0, lambda: "the worker is held")
