"""A failure before the first byte is not the client's to see, where another worker can answer."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from proxy.types import JsonObject
from tests.gateway.client import connected, frames_of
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, Rig, demo_worker, looked_at, running, until, with_script
from tests.gateway.scripted import (
    CONVERSATION,
    EMBEDDINGS,
    STREAM,
    STREAM_HEAD,
    Part,
    ScriptedWorker,
    chunk,
    frame,
    json_response,
    scripted,
    sends,
    then_closed,
    then_gone,
    then_reset,
)
from tests.gateway.several import counted, one_fails, preferring, verdicts, view_of, with_scripts
from tests.gateway.test_worker_faults import FAULTS, VECTORS, Fault, times
from tests.hostile import Request, Visit, response

# An operator's mistake is no better elsewhere.
FINAL = {"HTTP 307"}
HELLO_FRAMES = ["He", "Hell", "Hello!"]


@pytest.fixture(autouse=True)
def _small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("attempt", "streaming"):
        monkeypatch.setattr(f"proxy.server.{module}.FRAME_MAX_BYTES", 65_536)
    monkeypatch.setattr("proxy.server.attempt.ANSWER_MAX_BYTES", 65_536)


def faults(*, seen: bool) -> pytest.MarkDecorator:
    """One case for each fault after which another worker is asked; seen: also those behind good frames."""
    chosen = [fault for fault in FAULTS if fault.name not in FINAL and (seen or not fault.seen)]
    return pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in chosen])


async def assert_moved(rig: Rig, bad: ScriptedWorker, kind: str, route: str) -> None:
    """One request, asked twice, counted as one that went well."""
    await until(lambda: rig.gateway.fleet.in_flight(bad.address) == 0, lambda: "the failed worker is still held")
    assert len(bad.struck) == 1
    assert await rig.outcomes(route) == {"ok": 1}
    assert await rig.upstream_errors() == {kind: 1}
    assert await counted(rig, "gateway_retries_total") == {(kind,): 1}
    assert await counted(rig, "gateway_failovers_total") == {("m",): 1}


@faults(seen=False)
async def test_a_stream_that_fails_before_its_first_byte(fault: Fault) -> None:
    """The client gets the other worker's answer, byte for byte as if it had been asked first."""
    async with one_fails(fault.part, timeouts=times(fault.name)) as (rig, bad, good):
        assert [entry["text"] for entry in await rig.stream(HELLO)] == HELLO_FRAMES
        assert len(good.bodies(STREAM)) == 1
        await assert_moved(rig, bad, fault.kind, "generate_stream")


@faults(seen=True)
async def test_an_answer_in_one_piece(fault: Fault) -> None:
    """Nothing of a collected answer is sent before it is whole, so it may fail as late as it likes."""
    async with one_fails(fault.part, timeouts=times(fault.name)) as (rig, bad, _):
        answer = (await rig.post("generate", HELLO)).object
        assert (answer["text"], answer["error_code"]) == ("Hello!", 0)
        await assert_moved(rig, bad, fault.kind, "generate")


@pytest.mark.parametrize(
    ("name", "part", "kind"),
    [v[:3] for v in VECTORS],
    ids=[v[0] for v in VECTORS],
)
async def test_vectors(name: str, part: Part, kind: str) -> None:
    """A whole answer that fails, or is no answer, is asked for elsewhere."""
    async with one_fails(part, EMBEDDINGS, timeouts=times(name)) as (rig, bad, _):
        reply = await rig.post("embeddings", {"model": "m", "input": ["four"]})
        assert (reply.status, reply.json) == (200, [[4.0]])
        await assert_moved(rig, bad, kind, "embeddings")


async def test_a_worker_that_refuses_connections() -> None:
    """A worker that is gone, but not yet known to be, costs nothing but the try."""
    async with demo_worker() as bad, scripted({}) as good, running(bad.address, good.address) as rig:
        await looked_at(bad)
        await bad.stop()
        lease = rig.gateway.fleet.acquire("m", "llm", time.monotonic(), pinned=good.address)
        assert [entry["text"] for entry in await rig.stream(HELLO)] == HELLO_FRAMES
        lease.release("neutral", time.monotonic())
        assert await counted(rig, "gateway_retries_total") == {("upstream_refused",): 1}


async def test_of_many_parts_only_those_that_are_missing_are_asked_for_again() -> None:
    """What the first worker computed stays; the order is the caller's."""
    calls = 0

    async def second_fails(visit: Visit, request: Request) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            await visit.send(b"HTTP/1.1 2")  # not nothing, with which a kept connection is just taken for a dead one
            raise ConnectionResetError
        texts = json.loads(request.body)["input"]
        await visit.send(json_response({"embedding": [[float(len(text))] for text in texts], "token_num": 1}))

    async with one_fails(second_fails, EMBEDDINGS) as (rig, bad, good):
        reply = await rig.post("embeddings", {"model": "m", "input": ["x" * n for n in range(1, 21)]})
        assert reply.json == [[float(n)] for n in range(1, 21)]
        assert [len(str(body["input"]).split(",")) for body in bad.struck] == [8, 8]
        assert [len(str(body["input"]).split(",")) for body in good.bodies(EMBEDDINGS)[1:]] == [8, 4]  # after the probe


def reports(code: int) -> Part:
    """An error frame with this code."""
    return then_gone(STREAM_HEAD + chunk(json.dumps({"text": "no", "error_code": code}).encode() + b"\0"))


@pytest.mark.parametrize(
    ("part", "asked", "verdict"),
    [
        (reports(40303), 0, "neutral"),
        (reports(42901), 1, "neutral"),
        (sends(response(b"", "400 Bad Request")), 0, "neutral"),
        (sends(response(b"", "404 Not Found")), 1, "failure"),
        (sends(response(b"", "429 Too Many Requests")), 1, "neutral"),
        (sends(response(b"", "503 Service Unavailable")), 1, "neutral"),
        (sends(response(b"", "307 Temporary Redirect")), 0, "failure"),
        (sends(response(b"", "500 Internal Server Error")), 1, "failure"),
    ],
    ids=["code 40303", "code 42901", "400", "404", "429", "503", "307", "500"],
)  # fmt: skip
async def test_whose_fault_it_is(part: Part, asked: int, verdict: str) -> None:
    """What a worker blames on the request is not asked elsewhere; load is, and neither counts against the worker. That
    it does not have the path does: no caller chose it."""
    async with one_fails(part) as (rig, bad, good):
        await rig.stream(HELLO)
        assert len(good.bodies(STREAM)) == asked
        assert verdicts(rig, bad).keys() == {verdict}


async def test_mistakes_of_callers_open_no_breaker() -> None:
    """However many requests a worker refuses for what is in them, it is asked on."""
    async with one_fails(sends(response(b"{}", "422 Unprocessable"))) as (rig, bad, good):
        for _ in range(30):
            assert (await rig.stream(HELLO))[-1]["error_code"] == 50001
        assert view_of(rig, bad).breaker == "closed"
        assert good.bodies(STREAM) == []


async def test_after_the_first_byte_it_is_too_late() -> None:
    """What the client has seen another worker did not say: the stream ends in the error."""
    seen = asyncio.Event()

    async def part(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD + chunk(frame("Hello")))
        await seen.wait()
        visit.reset()
        raise ConnectionResetError

    async with one_fails(part) as (rig, _, good):
        body = b""
        async with connected(rig.listen) as connection:
            await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
            async for piece in connection.pieces(await connection.head()):
                body += piece
                seen.set()
        assert [entry["error_code"] for entry in frames_of(body)] == [0, 50001]
        assert good.bodies(STREAM) == []
        assert await counted(rig, "gateway_retries_total") == {}


@pytest.mark.parametrize(("attempts", "tries"), [(1, 1), (3, 3), (10, 4)])
async def test_no_more_workers_than_allowed_are_tried(attempts: int, tries: int) -> None:
    """Each is another one, and when all that may be have failed the client is told."""
    given = {"retries": {"attempts": attempts}}
    async with with_scripts(*[then_closed()] * 4, balance=given) as (rig, workers):
        (last,) = await rig.stream(HELLO)
        assert last["error_code"] == 50001
        assert sum(len(worker.struck) for worker in workers) == tries
        assert max(len(worker.struck) for worker in workers) == 1
        assert await rig.upstream_errors() == {"upstream_reset": tries}
        assert await counted(rig, "gateway_failovers_total") == {}


async def test_the_budget_is_kept() -> None:
    """A fleet that fails as a whole gets each request once, and the few more that the budget has."""
    given = {"retries": {"attempts": 3, "share": 0.1, "burst": 2}}
    async with with_scripts(*[then_closed()] * 3, balance=given) as (rig, workers):
        for _ in range(20):
            assert (await rig.stream(HELLO))[-1]["error_code"] in {50001, 50005}
        retries = sum((await counted(rig, "gateway_retries_total")).values())
        assert 2 <= retries <= 4
        assert sum(len(worker.struck) for worker in workers) == 20 + retries


async def test_a_lonely_worker_is_not_asked_twice() -> None:
    """Without another worker the first error stands, and the budget is not spent on it."""
    given = {"retries": {"attempts": 3, "share": 0, "burst": 1}}
    async with with_script(STREAM, then_reset(), balance=given) as (rig, worker):
        for _ in range(3):
            assert (await rig.stream(HELLO))[-1]["error_code"] == 50001
        assert len(worker.struck) == 3
        assert await counted(rig, "gateway_retries_total") == {}


async def test_the_other_worker_is_waited_for() -> None:
    """A retry stands in the queue like everybody else."""
    async with scripted({STREAM: then_closed()}) as bad, scripted({}) as good:
        given = {"worker_limits": {good.address: 1}, "workers": [bad.address, good.address], "probe_seconds": 600.0}
        async with running(fastchat=given) as rig:
            bad.arm()
            with preferring(rig, bad, good):
                asking = asyncio.create_task(rig.stream(HELLO))
                await until(lambda: any(row.waiting for row in rig.gateway.fleet.queues()), lambda: "it does not wait")
            assert [entry["text"] for entry in await asking] == HELLO_FRAMES


async def test_the_request_is_made_for_the_worker_that_gets_it() -> None:
    """Another worker may have another template."""

    async def other_template(visit: Visit, _: Request) -> None:
        await visit.send(json_response({"conv": {**CONVERSATION, "roles": ["Q", "A"]}}))

    async with (
        scripted({STREAM: then_closed()}) as bad,
        scripted({"/worker_get_conv_template": other_template}) as good,
    ):
        good.arm()
        async with running(bad.address, good.address) as rig:
            bad.arm()
            with preferring(rig, bad, good):
                await rig.stream(HELLO)
            assert bad.struck[0]["prompt"] == "Go. USER: Hello ASSISTANT:"
            assert good.bodies(STREAM)[0]["prompt"] == "Go. Q: Hello A:"


async def test_time_that_is_over_is_not_spent_again() -> None:
    """After the limit on the whole exchange nobody else is asked."""
    limits = {"first_seconds": 5.0, "idle_seconds": 5.0, "total_seconds": 0.1}
    async with one_fails(then_gone(STREAM_HEAD), timeouts=limits) as (rig, _, good):
        (last,) = await rig.stream(HELLO)
        assert last["error_code"] == 50006
        assert good.bodies(STREAM) == []


async def test_a_client_that_leaves_between_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause before the next worker ends with the client."""
    monkeypatch.setattr("proxy.server.tries._PAUSE", (60.0, 60.0))
    async with one_fails(then_closed()) as (rig, bad, good):
        async with connected(rig.listen) as connection:
            await connection.request("POST", f"{PREFIX}/generate_stream", HELLO)
            await until(lambda: rig.gateway.fleet.in_flight(good.address) == 2, lambda: "no other worker was taken")
        await until(lambda: rig.gateway.fleet.in_flight(good.address) == 1, lambda: "it is still held")
        assert len(bad.struck) == 1
        assert await rig.outcomes() == {"cancelled": 1}


async def test_a_request_that_names_its_worker() -> None:
    """It goes there and nowhere else, by address or id; without the setting the header means nothing."""
    for header in ("x-worker", None):
        async with one_fails(then_closed(), balance={"pin_header": header}) as (rig, bad, good):
            named = [good.address, good.address.removeprefix("http://"), bad.address]
            codes = [
                frames_of((await rig.post("generate_stream", HELLO, x_worker=name)).body)[-1]["error_code"]
                for name in named
            ]
            assert codes == ([0, 0, 50001] if header else [0, 0, 0])
            reply = await rig.post("embeddings", {"model": "m", "input": ["a"]}, x_worker="nobody:1")
            assert reply.status == (400 if header else 200)
            if header:
                assert "header x-worker" in str(reply.object["detail"])


async def test_a_fallback_answers_where_the_model_has_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    """The client asks for what it knows; the worker is asked for what it has; the log says so."""
    caplog.set_level("INFO", "proxy.access")
    body: JsonObject = {**HELLO, "model": "large"}
    models = {"large": {"fallback": "m"}, "m": {"aliases": ["tiny"]}}
    async with scripted({}) as worker, running(worker.address, models=models) as rig:
        assert [entry["text"] for entry in await rig.stream(body)] == HELLO_FRAMES
        assert [entry["text"] for entry in await rig.stream({**HELLO, "model": "tiny"})] == HELLO_FRAMES
        assert [entry["model"] for entry in worker.bodies(STREAM)] == ["m", "m"]
    logged = [record.__dict__ for record in caplog.records if record.getMessage() == "request"]
    assert [(entry["model"], entry.get("answered_by")) for entry in logged] == [("large", "m"), ("tiny", None)]


async def test_a_request_is_not_sent_twice_to_a_worker_that_had_it() -> None:
    """A kept connection that dies later than at once was not dead before: the worker may die of what it was asked."""

    async def dies_of_it(visit: Visit, _: Request) -> None:
        await asyncio.sleep(0.1)
        visit.reset()
        raise ConnectionResetError

    given = {"retries": {"attempts": 1}}
    async with scripted({STREAM: dies_of_it}) as worker, running(worker.address, balance=given) as rig:
        await rig.stream(HELLO)  # leaves a connection
        worker.arm()
        assert (await rig.stream(HELLO))[-1]["error_code"] == 50001
        assert len(worker.struck) == 1
