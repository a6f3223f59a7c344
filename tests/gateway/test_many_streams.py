"""Many at once."""

from __future__ import annotations

import asyncio

from proxy.types import JsonObject
from tests.gateway.rig import HELLO, with_demo

STREAMS = 200


def prompt(number: int) -> JsonObject:
    return {**HELLO, "messages": [{"role": "human", "content": f"Prompt {number} 你好 {'🙂' * number}"}]}


async def test_two_hundred_streams_at_once() -> None:
    """Each caller gets the bytes that it would get alone, and afterwards nothing is held."""
    async with with_demo(words=40, concurrency=STREAMS) as (rig, worker):
        alone = [(await rig.post("generate_stream", prompt(number))).body for number in range(4)]
        assert len(set(alone)) == 4
        replies = await asyncio.gather(*(rig.post("generate_stream", prompt(n % 4)) for n in range(STREAMS)))
        assert [reply.body for reply in replies] == [alone[number % 4] for number in range(STREAMS)]
        await rig.quiet()
        assert await rig.outcomes() == {"ok": STREAMS + 4}
        assert rig.gateway.fleet.in_flight(worker.address) == 0
        frames = (await rig.scrape())[("gateway_frames_total", frozenset({("direction", "sent")}))]
        assert frames == sum(body.count(b"\0") for body in alone) * (1 + STREAMS // 4)


async def test_a_mixture_at_once() -> None:
    """Streams, answers, vectors, counts and mistakes beside each other do not disturb one another."""
    async with with_demo(concurrency=STREAMS) as (rig, _):
        texts: JsonObject = {"model": "m", "input": ["a", "b"]}
        calls: list[tuple[str, JsonObject | bytes]] = [
            ("generate_stream", HELLO),
            ("generate", HELLO),
            ("embeddings", texts),
            ("count_token", {"prompt": "a b c"}),
            ("model_metadata", {"model": "m"}),
            ("generate", {"model": "nobody"}),
            ("embeddings", b"{"),
        ]
        alone = [await rig.post(path, body) for path, body in calls]
        together = await asyncio.gather(*(rig.post(*calls[n % len(calls)]) for n in range(len(calls) * 15)))
        for number, reply in enumerate(together):
            assert (reply.status, reply.body) == alone[number % len(calls)][0:3:2]
        assert await rig.outcomes() == {"ok": 5 * 16, "client_error": 2 * 16}
