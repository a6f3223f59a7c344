"""A pack that wants a key, beside one that wants none, on one gateway."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.server.keys import key_digest
from proxy.types import JsonObject
from tests.cli.process import ROOT
from tests.gateway.client import Reply, call, connected, request_bytes
from tests.gateway.rig import HELLO, Rig, running
from tests.gateway.scripted import scripted

KEY, OTHER = "sk-first-of-two", "sk-second-of-two"
KEYS: list[object] = [{"name": "team-a", "sha256": key_digest(KEY)}, {"name": "team-b", "sha256": key_digest(OTHER)}]
PACK = "pack: guarded\ndescription: x\nkeys: bearer\n"
ERRORS = """\
kinds: {unauthorized: {status: 401, code: invalid_api_key}, default: {status: 500, code: internal}}
body: {fields: {detail: {fields: {error: {fields: {message: {value: ""}, code: error.code}}}}}}
frame: {fields: {error: error.code}}
stream_status: 200
"""
STREAM = """\
route: said
description: x
match: {method: POST, path: /said, when: body.stream}
worker: {kind: llm, model: body.model}
request: {path: /worker_generate_stream, body: {fields: {model: worker.model, prompt: body.text}}}
stream:
  from: {framing: nul, text: cumulative, read: {text: chunk.text, finish: chunk.finish_reason}}
  to: {framing: sse, text: incremental, chunk: {fields: {text: text, finish: finish}}}
"""
WHOLE = """\
route: said_whole
description: x
match: {method: POST, path: /whole}
like: said
answer: {body: {fields: {text: text, headers: headers}}}
"""
REFUSED = b'data: {"error":"invalid_api_key"}\n\ndata: [DONE]\n\n'
SAY: JsonObject = {"model": "m", "text": "Hello", "stream": True}


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """A guarded pack of an invented dialect, and the open one of a worker."""
    guarded = tmp_path / "guarded"
    guarded.mkdir()
    files = {"pack": PACK, "errors": ERRORS, "said": STREAM, "whole": WHOLE}
    for name, text in files.items():
        (guarded / f"{name}.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "open")
    return tmp_path


async def said(address: Address, key: str | None, path: str = "/whole") -> Reply:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return await call(address, "POST", path, SAY, **headers)


async def test_without_keys_a_guarded_pack_is_open(packs: Path) -> None:
    """What a pack wants counts only where the operator has made keys."""
    async with scripted({}) as worker, running(worker.address, rules=packs) as rig:
        assert (await said(rig.listen, None)).object["text"] == "Hello!"
        assert (await said(rig.listen, "any")).status == 200


async def test_a_key_lets_in(packs: Path) -> None:
    """Streams and answers; each key does."""
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        for key in (KEY, OTHER):
            assert (await said(rig.listen, key)).object["text"] == "Hello!"
            stream = await said(rig.listen, key, "/said")
            assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")


async def test_a_wrong_key_and_none_look_the_same(packs: Path) -> None:
    """Byte for byte, in the dialect's own shape, and no worker hears of it."""
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        before = len(worker.bodies("/worker_generate_stream"))
        replies = [await said(rig.listen, key) for key in (None, "sk-wrong", "", KEY[:-1], key_digest(KEY))]
        replies.append(await call(rig.listen, "POST", "/whole", SAY, authorization=f"Basic {KEY}"))
        for reply in replies:
            reply.headers.pop("date")
        assert all(reply == replies[0] for reply in replies)
        assert (replies[0].status, replies[0].headers["www-authenticate"]) == (401, "Bearer")
        assert replies[0].json == {"detail": {"error": {"message": "", "code": "invalid_api_key"}}}
        frames = await said(rig.listen, None, "/said")  # this route's clients look at frames only
        assert (frames.status, frames.body) == (200, REFUSED)
        assert len(worker.bodies("/worker_generate_stream")) == before
        assert await rig.outcomes() == {"client_error": 7}


async def test_the_key_is_looked_at_before_the_body(packs: Path) -> None:
    """Whoever has none need not send one, and cannot make the gateway hold one."""
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        async with connected(rig.listen) as connection:
            head = request_bytes("POST", "/whole", b"", {"Content-Length": "30000000"})
            await connection.send(head)
            assert (await connection.reply()).status == 401
        reply = await call(rig.listen, "POST", "/whole", b"{")
        assert reply.status == 401, "a bad body is no business of whoever may not ask"


async def test_what_wants_no_key_stays_open(packs: Path) -> None:
    """The worker API, whose clients cannot send one, is as it was, also for who sends one; so is an unknown path."""
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        assert (await rig.post("generate", HELLO)).object["text"] == "Hello!"
        assert (await rig.post("generate", HELLO, authorization="Bearer sk-wrong")).object["text"] == "Hello!"
        assert (await call(rig.listen, "POST", "/nowhere", SAY)).status == 500
        assert (await call(rig.listen, "GET", "/whole")).status == 500


async def test_the_key_is_nowhere_and_its_name_in_the_log(packs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a worker nor a rule nor a log sees `Authorization`; each request's line says whose it was."""
    caplog.set_level(logging.DEBUG)
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        reply = await call(
            rig.listen, "POST", "/whole", SAY, authorization=f"Bearer {OTHER}", x_note="a", proxy_authorization="secret"
        )
        seen = reply.object["headers"]
        assert isinstance(seen, dict)
        assert seen["x-note"] == "a"
        assert not {"authorization", "proxy-authorization"} & seen.keys()
        await said(rig.listen, "sk-wrong-one")
        (line,) = [record for record in caplog.records if record.name == "proxy.access"]
        (refused,) = [record for record in caplog.records if record.getMessage() == "request refused"]
        assert (line.__dict__["key"], refused.__dict__["key"]) == ("team-b", None)
        for secret in (OTHER, "secret", "sk-wrong-one"):
            assert not any(secret in str(record.__dict__) for record in caplog.records)
            assert secret not in repr(worker.peer.requests)


async def test_requests_are_counted_by_key(packs: Path) -> None:
    """By the names of the settings; those without a valid key together."""
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        for key in (KEY, KEY, OTHER, "sk-wrong", None):
            await said(rig.listen, key)
        await call(rig.listen, "POST", "/whole", b"{", authorization=f"Bearer {OTHER}")
        assert await by_key(rig) == {
            ("team-a", "ok"): 2, ("team-b", "ok"): 1, ("none", "client_error"): 2, ("team-b", "gateway_error"): 0,
            ("team-b", "client_error"): 1,
        }  # fmt: skip


async def by_key(rig: Rig) -> dict[tuple[str, str], int]:
    found = {("team-b", "gateway_error"): 0}
    for (name, labels), value in (await rig.scrape()).items():
        if name == "gateway_key_requests_total":
            named = dict(labels)
            found[named["key"], named["outcome"]] = int(value)
    return found


@pytest.mark.parametrize("token", [None, "a-word-for-workers"])
async def test_keys_count_where_workers_register_too(packs: Path, token: str | None) -> None:
    """The same paths are served there, behind the word for workers where there is one; that word is no key."""
    accept = {"listen": "127.0.0.1:0", "token": token}
    async with scripted({}) as worker:
        fleet = {"workers": [worker.address], "probe_seconds": 600.0, "accept": accept}
        async with running(rules=packs, api_keys=KEYS, fastchat=fleet) as rig:
            address = rig.gateway.accepts
            assert address is not None
            path = "/whole" if token is None else f"/{token}/whole"
            assert (await said(address, None, path)).status == 401
            assert (await said(address, token or "x", path)).status == 401
            assert (await said(address, KEY, path)).object["text"] == "Hello!"


async def test_one_route_that_wants_a_key_is_enough(packs: Path) -> None:
    """Which of several routes takes a request shows in its body, and the key comes before."""
    more = STREAM.replace("route: said", "route: said_more").replace("when: body.stream", "when: body.more")
    folder = packs / "more"
    folder.mkdir()
    (folder / "pack.yaml").write_text("pack: more\ndescription: x\n", encoding="utf-8")
    (folder / "errors.yaml").write_text(ERRORS, encoding="utf-8")
    (folder / "said.yaml").write_text(more, encoding="utf-8")
    async with scripted({}) as worker, running(worker.address, rules=packs, api_keys=KEYS) as rig:
        body: JsonObject = {"model": "m", "text": "Hello", "more": True}
        reply = await call(rig.listen, "POST", "/said", body)
        assert reply.body == REFUSED
        reply = await call(rig.listen, "POST", "/said", body, authorization=f"Bearer {KEY}")
        frames = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
        assert "".join(frame["text"] for frame in frames) == "Hello!"
