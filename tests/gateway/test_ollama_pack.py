"""What the tests inside the Ollama pack cannot see: its place among the other packs, real clocks, statuses."""

from __future__ import annotations

import hashlib
import json
import time

from proxy.types import JsonObject
from tests.gateway.client import call, connected
from tests.gateway.rig import Rig, demo_worker, running, with_demo

CHAT: JsonObject = {"model": "m:latest", "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_server_is_found_with_head(rig: Rig) -> None:
    """As Ollama's command line looks for one before anything else."""
    async with connected(rig.listen) as connection:
        for path in ("/", "/api/version", "/api/tags"):
            await connection.request("HEAD", path)
            assert (await connection.reply(bodiless=True)).status == 200, path
    assert (await call(rig.listen, "GET", "/")).json == "Ollama is running"


async def test_an_unknown_call_is_refused_in_ollamas_words(rig: Rig) -> None:
    """What would change a server's models is not offered."""
    for path in ("/api/pull", "/api/push", "/api/create"):
        reply = await call(rig.listen, "POST", path, {"model": "m"})
        assert reply.status == 404, path
        assert path in str(reply.object["error"])
    reply = await call(rig.listen, "GET", "/api/chat")
    assert (reply.status, list(reply.object)) == (405, ["error"])


async def test_a_key_is_wanted_where_there_are_keys() -> None:
    """As Ollama's clients bring it; a wrong one and none are told in Ollama's words."""
    key = "key-of-a-team"
    keys = [{"name": "team", "sha256": hashlib.sha256(key.encode()).hexdigest()}]
    async with demo_worker() as worker, running(worker.address, given={"api_keys": keys}) as rig:
        answers = [
            await call(rig.listen, "POST", "/api/chat", {**CHAT, "stream": False}, **headers)
            for headers in ({}, {"authorization": "Bearer another"}, {"authorization": f"Bearer {key}"})
        ]
    assert [answer.status for answer in answers] == [401, 401, 200]
    assert [list(answer.object) for answer in answers[:2]] == [["error"]] * 2


async def test_the_durations_are_those_of_the_answer() -> None:
    """In nanoseconds: the time to the first piece, the rest, and both together, in a stream and in one object."""
    async with with_demo(chunks_per_second=50.0, words=10) as (rig, _):
        for stream in (True, False):
            begun = time.monotonic()
            reply = await call(rig.listen, "POST", "/api/chat", {**CHAT, "stream": stream})
            seconds = time.monotonic() - begun
            last = json.loads(reply.body.decode().splitlines()[-1])
            total, first, rest = (last[f"{name}_duration"] for name in ("total", "prompt_eval", "eval"))
            assert 0 < first < total <= seconds * 1e9
            assert abs(total - first - rest) < 10
            assert rest > 5 / 50.0 * 1e9, "ten words take more than five pauses"
            assert last["created_at"].startswith(time.strftime("%Y-", time.gmtime()))
