"""A stream that loses its worker, with workers whose tokenizer drops the space before the first word they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.demo.faults import Fault
from proxy.demo.worker import DemoWorker
from proxy.types import Json, JsonObject
from tests.gateway.client import call, frames_of
from tests.gateway.rig import HELLO, Rig, running
from tests.gateway.scripted import LAST_CHUNK, STREAM, STREAM_HEAD, ScriptedWorker, chunk, scripted
from tests.gateway.several import counted, preferring
from tests.hostile import Request, Visit
from tests.translate.pieces import SPACE, PieceWorker, in_bytes

ASKED = "Go. USER: Hello ASSISTANT:"
PIECES = [f"{SPACE}Hello", f"{SPACE}world", "!", f"{SPACE}你", "好", *in_bytes("🙂"), *in_bytes("🙂"), f"{SPACE}again"]
TEXT = "Hello world! 你好🙂🙂 again"
GIVEN = {
    "models": {"m": {"resume": True}},
    "balance": {"worker_limit": 40, "retries": {"burst": 1000}},
}


class Teller:
    """Tells the pieces, until the frame at which its connection is reset."""

    def __init__(self, *, echoes: bool = True) -> None:
        self.worker = PieceWorker(PIECES, ASKED, echoes=echoes)
        self.lose_at: int | None = None
        self.bodies: list[JsonObject] = []

    async def __call__(self, visit: Visit, request: Request) -> None:
        body = json.loads(request.body)
        self.bodies.append(body)
        await visit.send(STREAM_HEAD)
        for number, frame in enumerate(self.worker.frames(body)):
            if number == self.lose_at:
                await asyncio.sleep(0.002)  # so that what came before is with the client
                visit.reset()
                raise ConnectionResetError
            await visit.send(chunk(json.dumps(frame).encode() + b"\0"))
        await visit.send(LAST_CHUNK)


class Fleet:
    """The gateway with two such workers, of which `lost` is asked first."""

    def __init__(self, rig: Rig, lost: Teller, other: Teller, workers: list[ScriptedWorker]) -> None:
        self.rig, self.lost, self.other, self.workers = rig, lost, other, workers

    async def ask(self, lose_at: int | None) -> list[JsonObject]:
        """The frames of one kind of client, when the first worker is lost there."""
        self.lost.lose_at = lose_at
        with preferring(self.rig, *self.workers):
            return await self.rig.stream(HELLO)

    async def ask_as_worker(self, lose_at: int | None, **more: Json) -> list[JsonObject]:
        """The frames of one that speaks the workers' own dialect."""
        self.lost.lose_at = lose_at
        body: JsonObject = {"model": "m", "prompt": ASKED, "max_new_tokens": 50, **more}
        with preferring(self.rig, *self.workers):
            return frames_of((await call(self.rig.listen, "POST", STREAM, body)).body)


@asynccontextmanager
async def fleet(*, echoes: bool = True) -> AsyncIterator[Fleet]:
    lost, other = Teller(), Teller(echoes=echoes)
    async with (
        scripted({STREAM: lost}) as one,
        scripted({STREAM: other}) as two,
        running(one.address, two.address, given=GIVEN) as rig,
    ):
        one.arm()
        two.arm()
        yield Fleet(rig, lost, other, [one, two])


async def test_no_space_is_lost_at_the_seam() -> None:
    """Lost at any frame, within a character too, the answer is to the letter and to the token that of one worker."""
    async with fleet() as both:
        whole = await both.ask(None)
        assert whole[-1]["text"] == TEXT
        for place in range(len(PIECES) + 1):
            assert (await both.ask(place))[-1] == whole[-1]
        body = both.other.bodies[-1]
        assert (body["prompt"], body["echo"]) == (f"{ASKED}{TEXT}", True)
        assert (await counted(both.rig, "gateway_resumed_streams_total")).keys() == {("m", "ok")}


@pytest.mark.parametrize("echo", [False, True])
async def test_the_workers_own_clients_go_on_too(echo: bool) -> None:
    """Their frames keep what the worker says besides, have all of the text, and the prompt where they asked for it."""
    async with fleet() as both:
        whole = await both.ask_as_worker(None, echo=echo)
        assert str(whole[-1]["text"]).removeprefix(ASKED).lstrip() == TEXT
        for place in range(len(PIECES) + 1):
            frames = await both.ask_as_worker(place, echo=echo)
            assert frames[-1] == whole[-1]
            assert all(frame.keys() == whole[-1].keys() for frame in frames)


async def test_log_probabilities_are_those_of_one_worker() -> None:
    """A stream that has them is lost with its worker, which its client is told."""
    async with fleet() as both:
        frames = await both.ask_as_worker(3, echo=False, logprobs=1)
        assert (frames[-2]["text"], frames[-1]["error_code"]) == ("Hello world!", 50001)
        assert both.other.bodies == []
        assert await counted(both.rig, "gateway_resumed_streams_total") == {("m", "failed"): 1}


async def test_a_worker_that_repeats_nothing_is_not_taken_for_one_that_does() -> None:
    """Its text may lack a space, so the client keeps what it has and is told of the loss."""
    async with fleet(echoes=False) as both:
        frames = await both.ask(2)
        assert [frames[-2]["text"], frames[-1]["error_code"]] == ["Hello worl", 50001]
        assert "to repeat the text that it goes on from" in str(frames[-1]["text"])
        assert await counted(both.rig, "gateway_resumed_streams_total") == {("m", "failed"): 1}
        assert await both.rig.outcomes() == {"upstream_error": 1}
        frames = await both.ask(4)  # behind a Chinese character comes another one
        assert frames[-1]["text"] == TEXT


async def test_the_demonstration_fleet_can_show_it() -> None:
    """A demonstration worker goes on in the middle of an answer, so that its stream can be lost and is whole."""
    one, two = DemoWorker(["m"], chunks_per_second=0), DemoWorker(["m"], chunks_per_second=0)
    addresses = [await worker.start() for worker in (one, two)]
    try:
        async with running(*addresses, given=GIVEN) as rig:
            body: JsonObject = {**HELLO, "messages": [{"role": "human", "content": "你好 🙂"}], "max_new_tokens": 200}
            whole = (await rig.stream(body))[-1]
            for place in (1, 5, 20, 40, 60):
                one.fault = two.fault = lambda path, asked, place=place: (
                    Fault("cut", after=place) if path == STREAM and not asked["echo"] else None
                )
                last = (await rig.stream(body))[-1]
                assert (last["text"], last["finish_reason"]) == (whole["text"], whole["finish_reason"])
            assert (await counted(rig, "gateway_resumed_streams_total")) == {("m", "ok"): 5}
    finally:
        for worker in (one, two):
            await worker.stop()
