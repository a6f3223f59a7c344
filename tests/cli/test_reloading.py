"""`serve` while it runs: new settings and rules are taken up, bad ones are refused, and no stream notices."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeRegistry, eventually
from tests.cli.process import ROOT
from tests.cli.serving import HELLO, Serving, Stream, serving, worker, written
from tests.gateway.openai_server import FakeOpenAI

GENERATE = "/api/worker/generate"


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A copy of the shipped rule pack."""
    return Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "pack"))


@pytest.fixture
async def gateway(tmp_path: Path, pack: Path) -> AsyncIterator[Serving]:
    """A gateway that looks after its files only when it is told to."""
    async with worker() as fleet:
        file = written(tmp_path / "s.yaml", _settings(fleet.address, pack))
        async with serving(file) as running:
            yield running


def _settings(address: str, pack: Path, **more: Json) -> JsonObject:
    return {"fastchat": {"workers": [address]}, "rules": [str(pack)], "watch_files": False, **more}


def _spoil(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


async def _last(gateway: Serving) -> JsonObject:
    rules = await gateway.document("/rules")
    assert isinstance(rules, dict)
    last = rules["last_reload"]
    assert isinstance(last, dict), rules
    return last


async def test_rules_are_taken_up(gateway: Serving, pack: Path) -> None:
    """A changed rule holds for the next request, without a restart; the page says when it was loaded and by whom."""
    _spoil(pack / "count_token.yaml", "path: /api/worker/count_token", "path: /api/worker/counted")
    assert (await gateway.ask("/api/worker/counted", {"model": "m", "prompt": "a"})).status == 404
    reply = await gateway.post("/reload")
    assert (reply.status, reply.object["result"]) == (200, "ok")
    assert (await gateway.ask("/api/worker/counted", {"model": "m", "prompt": "a"})).status == 200
    assert (await gateway.ask("/api/worker/count_token", {"model": "m", "prompt": "a"})).status == 404
    assert (await _last(gateway))["asked_by"] == "POST /reload"


async def test_rules_with_mistakes_are_refused(gateway: Serving, pack: Path) -> None:
    """Every mistake is in the answer, in the log and on the page, each with its place; the old rules answer on."""
    _spoil(pack / "apply.yaml", "\nmatch:", "\nmach:")
    (pack / "embeddings.yaml").write_text("route: [", encoding="utf-8")
    reply = await gateway.post("/reload")
    assert reply.status == 409
    mistakes = reply.object["mistakes"]
    assert isinstance(mistakes, list)
    assert f"{pack}/apply.yaml:4:1: unknown key 'mach'; did you mean 'match'?" in mistakes
    assert any(str(mistake).startswith(f"{pack}/embeddings.yaml:1:") for mistake in mistakes)
    assert (await _last(gateway))["mistakes"] == mistakes
    await gateway.line("reload refused: .*apply.yaml:4:1: ")
    assert (await gateway.ask(GENERATE, HELLO)).status == 200
    metrics = (await gateway.get("/metrics")).body.decode()
    assert 'gateway_reloads_total{result="refused"} 1.0' in metrics
    assert "gateway_config_last_reload_successful 0.0" in metrics


async def test_rules_whose_tests_fail_are_refused(gateway: Serving, pack: Path) -> None:
    """A rule that does not do what its own test says is not put in force."""
    _spoil(pack / "count_token.yaml", "{answer: 2}", "{answer: 3}")
    reply = await gateway.post("/reload")
    assert reply.status == 409
    assert reply.object["mistakes"] == [
        f"{pack}/count_token.yaml:24: test 'the worker's count is the answer': answer: expected 3, got 2"
    ]


async def test_broken_settings_are_refused(gateway: Serving, tmp_path: Path) -> None:
    """A settings file that is broken in any way leaves the gateway as it was."""
    for text in (
        "listen: [",
        "lisen: a",
        "\x00",
        "- 1\n",
        "fastchat: {workers: ['ftp://a']}",
        "fastchat: {}",
        "{" * 99,
    ):
        (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
        reply = await gateway.post("/reload")
        assert reply.status == 409, text
        assert reply.object["mistakes"]
        assert (await gateway.ask(GENERATE, HELLO)).status == 200


async def test_files_that_vanish_are_refused(gateway: Serving, tmp_path: Path, pack: Path) -> None:
    """Without its settings file, or without its rules, the gateway goes on with what it has, and comes back."""
    kept = tmp_path / "kept"
    os.replace(pack, kept)
    assert (await gateway.post("/reload")).status == 409
    (tmp_path / "s.yaml").rename(tmp_path / "s.kept")
    assert (await gateway.post("/reload")).status == 409
    assert (await gateway.ask(GENERATE, HELLO)).status == 200
    os.replace(kept, pack)
    (tmp_path / "s.kept").rename(tmp_path / "s.yaml")
    assert (await gateway.post("/reload")).status == 200


async def test_a_hundred_signals(gateway: Serving) -> None:
    """A storm of SIGHUPs neither ends the gateway nor makes a hundred reloads."""
    for _ in range(100):
        gateway.process.send(signal.SIGHUP)
    for _ in range(20):
        assert (await gateway.ask(GENERATE, HELLO)).status == 200
    await gateway.line("reload: new settings and rules are in force .asked by: SIGHUP")
    await gateway.post("/reload")

    def done() -> int:
        return sum("are in force" in line for line in gateway.process.err)

    await eventually(lambda: done() >= 2)  # the last line may still be in the pipe
    assert done() < 60
    assert gateway.process.running


async def test_streams_go_on_with_their_rules(tmp_path: Path, pack: Path) -> None:
    """Twenty streams run while the rules change: each ends as it began, and the next one is as the new rules say."""
    async with worker(chunks_per_second=40) as fleet:
        file = written(tmp_path / "s.yaml", _settings(fleet.address, pack))
        async with serving(file) as gateway:
            streams = [await Stream.begin(gateway.clients) for _ in range(20)]
            chunk = "        incremental: {value: false}\n"
            _spoil(pack / "generate_stream.yaml", chunk, f"{chunk}        made_by: {{value: new rules}}\n")
            assert (await gateway.post("/reload")).status == 200
            for frames in await asyncio.gather(*(stream.rest() for stream in streams)):
                assert frames[-1]["finish_reason"] == "stop"
                assert not any("made_by" in frame for frame in frames)
            new = await Stream.begin(gateway.clients)
            assert (await new.left())["made_by"] == "new rules"


async def test_settings_that_can_change(tmp_path: Path, pack: Path) -> None:
    """Workers, clusters, aliases and the log's level change at run time; what needs a restart is named."""
    registries = [FakeRegistry(), FakeRegistry()]
    for registry in registries:
        await registry.start()
    async with worker("m") as first, worker("n") as second:
        file = tmp_path / "s.yaml"
        clusters: list[JsonObject] = [{"controllers": [registry.url]} for registry in registries]
        written(file, _settings(first.address, pack, dbgpt=clusters[0]))
        async with serving(file) as gateway:
            await eventually(lambda: "m@llm" in registries[0].keys)
            written(
                file,
                _settings(
                    second.address, pack, dbgpt=clusters[1], models={"n": {"aliases": ["other"]}},
                    log={"level": "warning"}, model_ports={"first": 20000, "last": 20010},
                ),
            )  # fmt: skip
            reply = await gateway.post("/reload")
            assert reply.status == 200
            restart = reply.object["needs_restart"]
            assert isinstance(restart, list)
            assert [str(sentence).split(" needs a restart")[0] for sentence in restart] == ["model_ports"]
            await eventually(lambda: registries[0].rows == {}, seconds=3)
            await eventually(lambda: {"n@llm", "other@llm"} <= registries[1].keys, seconds=3)
            assert (await gateway.ask(GENERATE, {**HELLO, "model": "other"})).status == 200
            workers = await gateway.document("/workers")
            assert isinstance(workers, list)
            assert [entry["address"] for entry in workers if isinstance(entry, dict)] == [second.address]
    for registry in registries:
        await registry.stop()


async def test_a_changed_file_is_enough(tmp_path: Path, pack: Path) -> None:
    """Without any signal: a rule that is edited, a mistake, and its mending are all noticed."""
    async with worker() as fleet:
        file = written(tmp_path / "s.yaml", {**_settings(fleet.address, pack), "watch_files": True})
        async with serving(file) as gateway:
            good = (pack / "apply.yaml").read_text(encoding="utf-8")
            (pack / "apply.yaml").write_text(good.replace("/api/worker/apply", "/api/worker/applied"), encoding="utf-8")
            await gateway.line("are in force .asked by: a changed file")
            assert (await gateway.ask("/api/worker/applied", {"model": "m"})).status == 200
            (pack / "apply.yaml").write_text(good.replace("\nmatch:", "\nmach:"), encoding="utf-8")
            await gateway.line("reload refused: .*apply.yaml:4:1: ")
            new = pack / ".apply.yaml.swp"
            new.write_text(good, encoding="utf-8")
            os.replace(new, pack / "apply.yaml")
            await eventually(lambda: sum("are in force" in line for line in gateway.process.err) == 2)
            assert (await gateway.ask("/api/worker/apply", {"model": "m"})).status == 200


async def test_a_key_in_a_file_is_read_again(tmp_path: Path) -> None:
    """A worker that wants another key is back as soon as the file has it, and nothing shows either."""
    server, keys = FakeOpenAI("qwen"), tmp_path / "key"
    await server.start()
    try:
        keys.write_text("sk-the-first-one\n", encoding="utf-8")
        server.key = "sk-the-first-one"
        worker: JsonObject = {"kind": "openai", "url": server.url, "key_file": str(keys), "probe_seconds": 0.1}
        file = written(tmp_path / "settings.yaml", {"backends": [worker]})
        async with serving(file) as gateway:
            await gateway.ready()
            server.key = "sk-the-second-one"
            await gateway.line(f"worker {server.url}: error: GET .* answered 401")
            keys.write_text("sk-the-second-one\n", encoding="utf-8")
            await gateway.line("new settings and rules are in force")
            await gateway.ready()
            pages = [(await gateway.get(f"/{page}")).body.decode() for page in ("status", "workers", "metrics")]
            printed = "\n".join([*gateway.process.out, *gateway.process.err, *pages])
            assert "sk-the" not in printed
    finally:
        await server.stop()
