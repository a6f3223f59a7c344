"""A recording has what every process served, in one file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from proxy.types import JsonObject
from tests.cli.serving import HELLO
from tests.gateway.client import call
from tests.processes.rig import Several, several

GENERATE = "/api/worker/generate"


async def _ask(gateway: Several, count: int) -> None:
    replies = await asyncio.gather(*(gateway.gateway.ask(GENERATE, HELLO) for _ in range(count)))
    assert {reply.status for reply in replies} == {200}


def _lines(folder: Path) -> list[JsonObject]:
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


async def test_every_request_is_recorded(tmp_path: Path) -> None:
    """Also of a process that came meanwhile; its end says how many there are."""
    folder = tmp_path / "recordings"
    async with several(tmp_path, chunks=0, recordings=str(folder)) as gateway:
        begun = await gateway.gateway.post("/record", {"requests": 100})
        assert begun.status == 200, begun
        await _ask(gateway, 12)
        await gateway.replaced("serving-1", await gateway.kill("serving-1"))
        await _ask(gateway, 12)
        ended = (await call(gateway.gateway.admin, "DELETE", "/record", connection="close")).object
        assert (ended["kept"], ended["left_out"]) == (24, 0)
        head, *requests, end = _lines(folder)
        assert "recording" in head
        assert len(requests) == 24
        assert (end["requests"], end["left_out"]) == (24, 0)
        await gateway.stop()


async def test_a_recording_ends_by_itself(tmp_path: Path) -> None:
    """With as many requests as were wanted, whoever served them."""
    folder = tmp_path / "recordings"
    async with several(tmp_path, chunks=0, recordings=str(folder)) as gateway:
        assert (await gateway.gateway.post("/record", {"requests": 10})).status == 200
        await _ask(gateway, 30)

        async def is_over() -> bool:
            state = (await gateway.gateway.get("/record")).object
            return state["now"] is None

        await gateway.until(is_over, "the recording goes on")
        _, *requests, end = _lines(folder)
        assert end["why"] == "it has as many requests as were wanted"
        assert end["requests"] == len(requests) == 10
        await gateway.stop()
