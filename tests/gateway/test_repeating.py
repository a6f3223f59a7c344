"""A stream that loses its worker, with workers whose tokenizer drops the space before the first word they say."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from proxy.demo.faults import Fault
from proxy.demo.worker import DemoWorker
from proxy.types import Json, JsonObject
from tests.gateway.client import call, frames_of
from tests.gateway.rig import HELLO, running
from tests.gateway.scripted import STREAM
from tests.gateway.several import counted, preferring
from tests.gateway.storyteller import MANY, RESUMES, Pair, Storyteller, pair
from tests.translate.pieces import SPACE, PieceWorker, in_bytes

ASKED = "Go. USER: Hello ASSISTANT:"
PIECES = [f"{SPACE}Hello", f"{SPACE}world", "!", f"{SPACE}你", "好", *in_bytes("🙂"), *in_bytes("🙂"), f"{SPACE}again"]
TEXT = "Hello world! 你好🙂🙂 again"


class Teller(Storyteller):
    """Tells the pieces."""

    def __init__(self, *, echoes: bool = True) -> None:
        super().__init__()
        self.worker = PieceWorker(PIECES, ASKED, echoes=echoes)

    def frames(self, body: JsonObject) -> list[JsonObject]:
        return self.worker.frames(body)


def fleet(*, echoes: bool = True) -> AbstractAsyncContextManager[Pair]:
    return pair(Teller(), Teller(echoes=echoes), timeouts={})


async def ask_as_worker(both: Pair, lose_at: int | None, **more: Json) -> list[JsonObject]:
    """The frames of a client that speaks the workers' own dialect, when the first worker is lost there."""
    both.lost.lose_at = lose_at
    body: JsonObject = {"model": "m", "prompt": ASKED, "max_new_tokens": 50, **more}
    with preferring(both.rig, *both.workers):
        return frames_of((await call(both.rig.listen, "POST", STREAM, body)).body)


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
        whole = await ask_as_worker(both, None, echo=echo)
        assert str(whole[-1]["text"]).removeprefix(ASKED).lstrip() == TEXT
        for place in range(len(PIECES) + 1):
            frames = await ask_as_worker(both, place, echo=echo)
            assert frames[-1] == whole[-1]
            assert all(frame.keys() == whole[-1].keys() for frame in frames)


async def test_log_probabilities_are_those_of_one_worker() -> None:
    """A stream that has them is lost with its worker, which its client is told."""
    async with fleet() as both:
        frames = await ask_as_worker(both, 3, echo=False, logprobs=1)
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
        async with running(*addresses, given={"models": RESUMES, "balance": MANY}) as rig:
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
