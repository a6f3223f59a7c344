"""Requests that end early, late or oddly come out of a recording as they ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.types import Json, JsonObject
from tests.gateway.client import call, connected
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, until, with_script
from tests.gateway.scripted import (
    EMBEDDINGS,
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    chunk,
    sends,
    then_closed,
)
from tests.gateway.several import one_fails, preferring
from tests.gateway.storyteller import pair
from tests.gateway.test_leaving_clients import PHASES, Waiting
from tests.gateway.test_recording import attempts, either, lines, recorded
from tests.gateway.test_repeating import ASKED, Teller
from tests.gateway.test_worker_faults import ENDINGS
from tests.hostile import response


@pytest.mark.parametrize(("call_name", "path", "body", "begin"), [p[1:] for p in PHASES], ids=[p[0] for p in PHASES])
async def test_what_a_client_that_left_did_not_wait_for(
    tmp_path: Path, call_name: str, path: str, body: Json, begin: tuple[bytes, ...]
) -> None:
    """What would have been asked of the worker then is no difference."""
    part = Waiting(*begin)
    async with with_script(path, part, None, recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path):
            async with connected(rig.listen) as connection:
                await connection.request("POST", f"{PREFIX}/{call_name}", body)
                await asyncio.wait_for(part.reached.wait(), 5)
            await rig.quiet()
        assert [line["outcome"] for line in lines(tmp_path)] == ["cancelled"]


async def test_a_client_that_left_between_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what the second would have been asked."""
    monkeypatch.setattr("proxy.server.tries._PAUSE", (60.0, 60.0))
    async with one_fails(then_closed(), recordings=str(tmp_path)) as (rig, _, good):
        async with recorded(rig, tmp_path):
            async with connected(rig.listen) as connection:
                await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
                await until(lambda: rig.gateway.fleet.in_flight(good.address) == 2, lambda: "no other worker was taken")
            await until(lambda: rig.gateway.fleet.in_flight(good.address) == 1, lambda: "it is still held")
        assert [len(attempts(line)) for line in lines(tmp_path)] == [2]


@either
@pytest.mark.parametrize("frames", [each[1] for each in ENDINGS], ids=[each[0] for each in ENDINGS])
async def test_an_answer_that_ends_oddly(tmp_path: Path, frames: list[bytes], redact: bool) -> None:
    """What comes behind the end is not looked at, not then and not now."""
    part = sends(STREAM_HEAD, *(chunk(data) for data in frames), LAST_CHUNK)
    async with with_script(STREAM, part, None, recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path, redact=redact):
            await rig.stream(HELLO)
            await rig.post("generate", HELLO)
        assert [line["outcome"] for line in lines(tmp_path)] == ["ok", "ok"]


@pytest.mark.parametrize("call_name", ["generate", "embeddings"])
async def test_an_answer_that_cannot_be_passed_on(tmp_path: Path, call_name: str) -> None:
    """Nested deeper than JSON is written."""
    nested = b"[" * 500 + b"]" * 500
    usage = b'{"prompt_tokens": 1, "total_tokens": 2, "x": ' + nested + b"}"
    final = b'{"text": "Hi", "error_code": 0, "finish_reason": "stop", "usage": ' + usage + b"}\0"
    path, answer = STREAM, STREAM_HEAD + chunk(final) + LAST_CHUNK
    if call_name == "embeddings":
        path, answer = EMBEDDINGS, response(b'{"embedding": [[' + nested + b"]]}")
    async with with_script(path, sends(answer), None, recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path):
            await rig.post(call_name, {**HELLO, "input": ["a"]})
        assert [line["outcome"] for line in lines(tmp_path)] == ["upstream_error"]


async def test_a_lost_stream_that_cannot_go_on(tmp_path: Path) -> None:
    """Its client is told how it was lost, not why nobody could be asked for the rest."""
    async with pair(Teller(), Teller(), timeouts={}, recordings=str(tmp_path)) as both:
        async with recorded(both.rig, tmp_path):
            both.lost.lose_at = 3
            body: JsonObject = {"model": "m", "prompt": ASKED, "max_new_tokens": 50, "logprobs": 1, "echo": False}
            with preferring(both.rig, *both.workers):
                await call(both.rig.listen, "POST", STREAM, body)
        assert [len(attempts(line)) for line in lines(tmp_path)] == [2]
