"""What each rule did is counted: taken, passed over, failed, fields dropped; also when something goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.types import Json, JsonObject
from tests.gateway.client import Connection, call
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, running, with_script
from tests.gateway.scripted import LAST_CHUNK, STREAM, STREAM_HEAD, chunk, frame, scripted, sends, then_gone, then_reset
from tests.gateway.several import counted, one_fails
from tests.gateway.storyteller import Storyteller, pair
from tests.tools.packs import write_pack

GENERATE = "/generate"
# What the worker of the small pack says: one key of the first frame and one of the last are nobody's.
SAID = (
    STREAM_HEAD
    + chunk(b'{"token": "he", "logprob": 1, "empty": null}\n')
    + chunk(b'{"token": "l", "odd": 1}\n')
    + chunk(b'{"token": "lo", "done_reason": "stop", "took": {"ms": 5}}\n')
    + LAST_CHUNK
)
ASK: JsonObject = {"model": "m", "text": "hello", "stream": True}


async def rules(rig: Rig, query: str = "") -> dict[str, JsonObject]:
    """The page of rules, by route."""
    page = (await call(rig.gateway.admin, "GET", f"/rules{query}", connection="close")).object["routes"]
    assert isinstance(page, list)
    return {str(rule["route"]): rule for rule in page if isinstance(rule, dict)}


async def lost(rig: Rig, accepted: str = "false") -> dict[tuple[str, str, str], int]:
    """Dropped fields as Prometheus has them: (route, side, field) to requests."""
    found = await counted(rig, "gateway_dropped_fields_total")
    return {(route, side, field): count for (said, field, _, route, side), count in found.items() if said == accepted}


async def failures(rig: Rig) -> dict[tuple[str, str], int]:
    """Failures of rules as Prometheus has them: (route, side) to times."""
    found = await counted(rig, "gateway_rule_failures_total")
    return {(route, side): count for (_, route, side), count in found.items()}


async def test_looked_at_and_taken(tmp_path: Path) -> None:
    """A request is taken by the first rule that wants it; those looked at before are passed over."""
    async with scripted({GENERATE: sends(SAID)}) as worker, running(worker.address, rules=write_pack(tmp_path)) as rig:
        worker.arm()
        assert (await rules(rig, "?never=true")).keys() == {"chat", "embed", "whole"}
        for body in (ASK, {**ASK, "stream": False}, {**ASK, "stream": False}):
            assert (await call(rig.listen, "POST", "/chat", body)).status in {200, 201}
        reply = await call(rig.listen, "POST", "/embed/m", {"input": []})  # without its header
        assert b"no rule" in reply.body
        assert await counted(rig, "gateway_rule_matches_total") == {
            ("sample", "applied", "chat"): 1,
            ("sample", "skipped", "chat"): 2,
            ("sample", "applied", "whole"): 2,
            ("sample", "skipped", "embed"): 1,
        }
        page = await rules(rig)
        assert [(rule["applied"], rule["skipped"]) for rule in page.values()] == [(1, 2), (0, 1), (2, 0)]
        assert (page["chat"]["never_applied"], page["embed"]["never_applied"]) == (False, True)
        assert (page["embed"]["last_applied"], str(page["chat"]["last_applied"])[-1]) == (None, "Z")
        assert (await rules(rig, "?never=true")).keys() == {"embed"}
        assert (await rules(rig, "?never=false")).keys() == {"chat", "whole"}


async def test_a_reload_begins_anew_but_not_for_prometheus(tmp_path: Path) -> None:
    """What a rule did since it was loaded starts at nought; counters never go back, and the last use stays known. A
    request from before counts with the rules that it began with."""
    part = then_gone(STREAM_HEAD + chunk(b'{"token": "he"}\n'))
    async with scripted({GENERATE: part}) as worker, running(worker.address, rules=write_pack(tmp_path)) as rig:
        worker.arm()
        connection = await Connection.open(rig.listen)
        await connection.request("POST", "/chat", {**ASK, "user": "me"})
        await connection.head()
        assert (await call(rig.gateway.admin, "POST", "/reload", connection="close")).status == 200
        await connection.leave()
        await rig.quiet()
        chat = (await rules(rig))["chat"]
        assert (chat["applied"], chat["never_applied"], chat["dropped"]) == (0, True, [])
        assert chat["last_applied"] is not None
        assert (await counted(rig, "gateway_rule_matches_total"))["sample", "applied", "chat"] == 1
        assert await lost(rig) == {("chat", "request", "user"): 1}


async def test_fields_that_go_nowhere(tmp_path: Path) -> None:
    """Those of the request, of the worker's first frame and of its last; nulls say nothing, frames between are not
    looked at, and what the pack accepts to lose is told apart."""
    accepted = (
        'description: For tests. -> description: For tests.\naccepted_losses: {answer.took: "a time", request.id: x}'
    )
    folder = write_pack(tmp_path, pack=accepted)
    async with scripted({GENERATE: sends(SAID)}) as worker, running(worker.address, rules=folder) as rig:
        worker.arm()
        body = {**ASK, "user": "me", "seed": None, "id": 7}
        for _ in range(2):
            await call(rig.listen, "POST", "/chat", body)
        await call(rig.listen, "POST", "/chat", {**body, "stream": False})
        assert await lost(rig) == {
            ("chat", "request", "user"): 2,
            ("whole", "request", "user"): 1,
            ("chat", "answer", "logprob"): 2,
            ("whole", "answer", "logprob"): 1,
        }
        assert await lost(rig, "true") == {
            ("chat", "request", "id"): 2,
            ("whole", "request", "id"): 1,
            ("chat", "answer", "took"): 2,
            ("whole", "answer", "took"): 1,
        }
        told = (await rules(rig))["whole"]["dropped"]
        assert isinstance(told, list)
        assert {"side": "answer", "field": "took", "accepted": True, "requests": 1} in told
        status = (await call(rig.gateway.admin, "GET", "/status", connection="close")).object
        assert status["rules"] == {"never_applied": 1, "failures": 0, "dropped_fields": 4}


async def test_fields_of_whole_answers(tmp_path: Path) -> None:
    """Each answer of a batch is looked at; a request counts once."""
    body = b'{"v": 1, "n": 2}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with (
        scripted({"/embed": sends(answer)}) as worker,
        running(worker.address, rules=write_pack(tmp_path)) as rig,
    ):
        worker.arm()
        reply = await call(rig.listen, "POST", "/embed/m", {"input": ["a", "b", "c"], "user": "u"}, x_key="k")
        assert reply.json == {"vectors": [1, 1]}
        assert await lost(rig) == {("embed", "request", "user"): 1, ("embed", "answer", "n"): 1}


async def test_fields_one_level_below() -> None:
    """The rule reads role and content of each message; what else a message has goes nowhere."""
    async with with_script(STREAM, sends(STREAM_HEAD + chunk(frame("Hi", "stop", id="x")) + LAST_CHUNK)) as (rig, _):
        messages: Json = [{"role": "human", "content": "a", "name": "n"}, {"role": "ai", "content": "b", "name": None}]
        await rig.stream({**HELLO, "messages": messages, "user": "u", "best_of": 3})
        assert await lost(rig) == {
            ("generate_stream", "request", "messages.name"): 1,
            ("generate_stream", "request", "best_of"): 1,
            ("generate", "answer", "id"): 1,
        }
        assert await lost(rig, "true") == {("generate_stream", "request", "user"): 1}


async def test_names_that_a_caller_invents_are_bounded() -> None:
    """Fifty of them are told by name, and no long one."""
    async with with_script(STREAM, sends(STREAM_HEAD + chunk(frame("Hi", "stop")) + LAST_CHUNK)) as (rig, _):
        await rig.stream({**HELLO, "x" * 65: 1, "a\nb": 1, "": 1, "user": "u"})
        assert await lost(rig) == {("generate_stream", "request", "other"): 3}
        for number in range(120):
            await rig.stream({**HELLO, f"field{number}": 1, "user": "u", "again": 1})
        found = await lost(rig)
        assert len(found) == 49
        assert found["generate_stream", "request", "again"] == 120
        assert sum(found.values()) == 3 + 120 + 120
        assert await lost(rig, "true") == {("generate_stream", "request", "user"): 121}


async def test_a_refused_request_loses_nothing() -> None:
    """Its caller was told that nothing of it was done; the rule took it all the same."""
    async with with_script(STREAM, sends()) as (rig, worker):
        reply = await rig.post("generate_stream", {"model": "m", "temperature": "hot", "prompt": "a", "best_of": 3})
        assert reply.status == 200
        assert (worker.struck, await lost(rig)) == ([], {})
        assert ("dbgpt-worker", "applied", "generate_stream") in await counted(rig, "gateway_rule_matches_total")
        assert await counted(rig, "gateway_rule_failures_total") == {}


async def test_a_request_that_is_tried_twice_counts_once() -> None:
    """Its fields, and that the rule took it."""
    async with one_fails(then_reset()) as (rig, bad, _):
        await rig.stream({**HELLO, "best_of": 3})
        assert len(bad.struck) == 1
        assert await lost(rig) == {("generate_stream", "request", "best_of"): 1}
        matches = await counted(rig, "gateway_rule_matches_total")
        assert matches["dbgpt-worker", "applied", "generate_stream"] == 1


async def test_a_resumed_stream_counts_once() -> None:
    """Two workers said it; one client asked and one client lost."""
    lost_one, other = Storyteller(), Storyteller()
    async with pair(lost_one, other) as both:
        await both.ask(5, best_of=3)
        assert other.bodies
        assert await lost(both.rig) == {("generate_stream", "request", "best_of"): 1}


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves(reset: bool) -> None:
    """Its request was taken and sent, so what it lost is counted; nothing failed."""
    async with with_script(STREAM, then_gone(STREAM_HEAD + chunk(frame("Hel", id=1)))) as (rig, worker):
        connection = await Connection.open(rig.listen)
        await connection.request("POST", f"{PREFIX}/generate_stream", {**HELLO, "best_of": 3})
        pieces = connection.pieces(await connection.head())
        await pieces.__anext__()
        await connection.leave(reset=reset)
        await rig.quiet()
        assert len(worker.struck) == 1
        assert await lost(rig) == {
            ("generate_stream", "request", "best_of"): 1,
            ("generate", "answer", "id"): 1,
        }
        assert await counted(rig, "gateway_rule_failures_total") == {}
        assert await rig.outcomes() == {"cancelled": 1}


async def test_nobody_counts_while_a_request_waits() -> None:
    """A client that leaves the queue was taken by the rule, and nothing of it was mapped."""
    async with with_script(STREAM, then_gone(STREAM_HEAD), balance={"worker_limit": 1}) as (rig, worker):
        first, second = await Connection.open(rig.listen), await Connection.open(rig.listen)
        await first.request("POST", f"{PREFIX}/generate_stream", {**HELLO, "best_of": 3})
        while not worker.struck:
            await asyncio.sleep(0.002)
        await second.request("POST", f"{PREFIX}/generate_stream", {**HELLO, "best_of": 3})
        while not any(row.waiting for row in rig.gateway.fleet.queues()):
            await asyncio.sleep(0.002)
        await second.leave()
        await first.leave()
        await rig.quiet()
        matches = await counted(rig, "gateway_rule_matches_total")
        assert matches["dbgpt-worker", "applied", "generate_stream"] == 2
        assert await lost(rig) == {("generate_stream", "request", "best_of"): 1}


UNFIT = {
    "a text that is none": (b'{"token": 5}\n', {("chat", "answer"): 1}),
    "an expression that cannot be evaluated": (b'{"token": "a", "weight": "heavy"}\n', {("chat", "result"): 1}),
}


@pytest.mark.parametrize("kind", UNFIT)
async def test_a_frame_that_does_not_fit_the_rule(tmp_path: Path, kind: str) -> None:
    """It is told on which side the rule failed; a frame that is broken for everybody is no fault of a rule."""
    said, failed = UNFIT[kind]
    folder = write_pack(tmp_path, chat="kind: {value: chat} -> kind: 'abs(not_null(chunk.weight, `1`))'")
    part = sends(STREAM_HEAD + chunk(said) + LAST_CHUNK)
    async with scripted({GENERATE: part}) as worker, running(worker.address, rules=folder) as rig:
        worker.arm()
        await call(rig.listen, "POST", "/chat", ASK)
        worker.parts[GENERATE] = sends(STREAM_HEAD + chunk(b"{\n") + LAST_CHUNK)
        await call(rig.listen, "POST", "/chat", ASK)
        assert await failures(rig) == failed
        assert (await rules(rig))["chat"]["failures"] == {side: count for (_, side), count in failed.items()}


async def test_a_request_that_the_rule_cannot_follow(tmp_path: Path) -> None:
    """An expression that fails on the request is a failure of the rule; a value that it refuses is none. It is told
    whether that was in what the client asks or in what the worker is asked."""
    folder = write_pack(tmp_path, chat="size: {value: 5} -> size: 'abs(not_null(body.size, `1`))'")
    async with scripted({GENERATE: sends(SAID)}) as worker, running(worker.address, rules=folder) as rig:
        worker.arm()
        said: list[JsonObject] = [{"heat": "hot"}, {"size": "big"}, {"size": 2}]
        for more in said:
            await call(rig.listen, "POST", "/chat", {**ASK, **more})
        assert len(worker.struck) == 1
        assert await failures(rig) == {("chat", "call"): 1}


async def test_each_worker_on_which_the_rule_fails_counts(tmp_path: Path) -> None:
    """A request whose frames fit on neither of two workers has failed twice; its route took it once, and the backend's
    rule wrote it twice."""
    bad = sends(STREAM_HEAD + chunk(b'{"text": 5, "error_code": 0}\0') + LAST_CHUNK)
    async with one_fails(bad) as (rig, first, second):
        await rig.stream(HELLO)
        assert await failures(rig) == {("generate", "answer"): 1}
        second.parts[STREAM] = bad
        second.arm()
        await rig.stream(HELLO)
        assert (len(first.struck), len(second.struck)) == (2, 1)
        assert await failures(rig) == {("generate", "answer"): 3}
        matches = await counted(rig, "gateway_rule_matches_total")
        assert matches["dbgpt-worker", "applied", "generate_stream"] == 2
        assert matches["backends/fastchat", "applied", "generate"] == 4
