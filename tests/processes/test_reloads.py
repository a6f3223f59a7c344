"""A reload holds for all processes or for none, and for those that come later."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path

from proxy.types import Json, JsonObject
from tests.cli.process import ROOT
from tests.cli.serving import HELLO
from tests.processes.rig import Several, several

GENERATE = "/api/worker/generate"


async def _statuses(gateway: Several, path: str, body: Json) -> set[int]:
    """Of enough calls for each process to have had one."""
    replies = await asyncio.gather(*(gateway.gateway.ask(path, body) for _ in range(12)))
    return {reply.status for reply in replies}


async def _generation(gateway: Several) -> JsonObject:
    reply = await gateway.gateway.post("/reload")
    return {"status": reply.status, **reply.object}


async def test_rules_are_taken_up_by_all(tmp_path: Path) -> None:
    """By those that serve, by one that takes another's place later, by the next control; a mistake changes nothing."""
    pack = Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "pack"))
    file = pack / "count_token.yaml"
    counted: JsonObject = {"model": "m", "prompt": "a"}
    async with several(tmp_path, rules=[str(pack)]) as gateway:
        text = file.read_text(encoding="utf-8")
        assert await _statuses(gateway, "/api/worker/counted", counted) == {404}
        file.write_text(text.replace("/api/worker/count_token", "/api/worker/counted"), encoding="utf-8")
        assert (await _generation(gateway))["result"] == "ok"
        assert await _statuses(gateway, "/api/worker/counted", counted) == {200}
        file.write_text("route: broken", encoding="utf-8")
        refused = await _generation(gateway)
        assert (refused["status"], refused["result"]) == (409, "refused")
        assert await _statuses(gateway, "/api/worker/counted", counted) == {200}
        # Who comes now has what is in force, and not what stands in the file.
        await gateway.replaced("serving-1", await gateway.kill("serving-1"))
        await gateway.replaced("control", await gateway.kill("control"))
        assert await _statuses(gateway, "/api/worker/counted", counted) == {200}
        rules = await gateway.gateway.document("/rules")
        assert isinstance(rules, dict)
        assert isinstance(rules["routes"], list)
        (route,) = (each for each in rules["routes"] if isinstance(each, dict) and each["route"] == "count_token")
        assert route["path"] == "/api/worker/counted"
        file.write_text(text, encoding="utf-8")
        gateway.gateway.process.send(signal.SIGHUP)
        await gateway.gateway.line("new settings and rules are in force .asked by: SIGHUP")
        assert await _statuses(gateway, "/api/worker/counted", counted) == {404}
        assert len(await gateway.pids()) == 4
        await gateway.stop()


async def test_settings_are_taken_up_by_all(tmp_path: Path) -> None:
    """An alias is known everywhere, a limit is another one, and a flag still says how many processes there are."""
    async with several(tmp_path) as gateway:
        asked: JsonObject = {**HELLO, "model": "other", "max_new_tokens": 1}
        settings = json.loads(gateway.file.read_text(encoding="utf-8"))
        assert await _statuses(gateway, GENERATE, asked) == {200}
        before = await gateway.metric("gateway_requests_total", outcome="ok")
        settings["models"] = {"m": {"aliases": ["other"]}}
        settings["workers"] = 7
        settings["fastchat"]["worker_limits"] = {gateway.fleet.address: 17}
        gateway.file.write_text(json.dumps(settings), encoding="utf-8")
        found = await _generation(gateway)
        assert found["result"] == "ok"
        assert found["needs_restart"] == []
        assert [row["limit"] for row in await gateway.gateway.rows("/workers")] == [17]
        assert len(await gateway.pids()) == 4
        await _statuses(gateway, GENERATE, asked)
        assert await gateway.metric("gateway_requests_total", outcome="ok") == before + 12
        assert await gateway.metric("gateway_config_last_reload_successful") == 1
        await gateway.stop()
