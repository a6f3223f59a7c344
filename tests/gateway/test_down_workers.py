"""What is answered while nobody is there to answer: metadata always, everything else with the reason."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.types import JsonObject
from tests.gateway.client import frames_of
from tests.gateway.remote_worker import FailedError
from tests.gateway.rig import HELLO, Rig, demo_worker, looked_at, running, until
from tests.gateway.scripted import STREAM_HEAD, chunk, frame, scripted, then_gone
from tests.hostile import refusing_port

# Many times what it takes, and far less than any time limit.
AT_ONCE = 0.1


async def metadata_takes(rig: Rig) -> float:
    """Seconds for five answers."""
    begun = time.monotonic()
    for _ in range(5):
        assert (await rig.client.model_metadata())["context_length"] == 4096
    return time.monotonic() - begun


async def test_metadata_while_the_worker_is_gone() -> None:
    """Known for as long as the gateway runs, and answered in no time."""
    async with demo_worker() as worker, running(worker.address) as rig:
        await looked_at(worker)
        await worker.stop()
        rig.gateway.backends.trouble(worker.address)
        await rig.down()
        assert await metadata_takes(rig) < AT_ONCE
        listed = (await rig.client.call("GET", "/models/supports")).body
        assert b'"enabled":false' in listed
        assert b'"enabled":true' not in listed


async def test_metadata_while_the_worker_hangs() -> None:
    """A worker that answers nothing any more keeps nobody waiting for what is known of it."""
    hang = then_gone()
    paths = ("/worker_get_status", "/worker_get_conv_template", "/model_details", "/worker_generate_stream")
    async with scripted(dict.fromkeys(paths, hang)) as worker, running(worker.address) as rig:
        worker.arm()
        rig.gateway.backends.trouble(worker.address)
        await until(lambda: len(worker.struck) == 1, lambda: "the worker was not looked at")
        chat = asyncio.create_task(rig.post("generate", {**HELLO}))
        await until(lambda: len(worker.struck) == 2, lambda: "the worker was not asked")
        assert await metadata_takes(rig) < AT_ONCE
        chat.cancel()
        await asyncio.wait([chat])


async def test_a_model_whose_worker_died() -> None:
    """503 with its own code where there is a status, the same code where there is none; metadata stays."""
    async with demo_worker() as worker, running(worker.address) as rig:
        await looked_at(worker)
        await worker.stop()
        rig.gateway.backends.trouble(worker.address)
        await rig.down()
        text = "no worker for the model 'm' can answer now"
        expected: JsonObject = {"text": text, "error_code": 50005, "incremental": False}
        assert await rig.stream(HELLO) == [expected]
        assert (await rig.post("generate", HELLO)).json == expected
        calls: list[tuple[str, JsonObject]] = [
            ("embeddings", {"model": "m", "input": ["a"]}),
            ("count_token", {"prompt": "a"}),
        ]
        for path, body in calls:
            reply = await rig.post(path, body)
            assert (reply.status, reply.json) == (503, {"detail": text, "error_code": 50005, "field": "model"})
        assert (await rig.client.model_metadata())["model"] == "m"
        assert await rig.outcomes() == {"refused": 4, "ok": 1}


async def test_a_model_that_was_never_seen() -> None:
    """404 with its own code, in every call."""
    with refusing_port() as port:
        async with running(f"http://127.0.0.1:{port}") as rig:
            text = "model: no worker serves 'm'; known models: none"
            (frame,) = await rig.stream(HELLO)
            assert (frame["error_code"], frame["text"]) == (40301, text)
            for path in ("embeddings", "model_metadata"):
                reply = await rig.post(path, {"model": "m", "input": ["a"]})
                assert (reply.status, reply.json) == (404, {"detail": text, "error_code": 40301, "field": "model"})
            reply = await rig.post("count_token", {"prompt": "a"})
            assert (reply.status, reply.object["error_code"]) == (400, 40001)
            assert (await rig.client.call("GET", "/models/supports")).status == 200


async def test_a_worker_that_comes_back() -> None:
    """A restarted worker is found by itself, and its model is served again."""
    async with demo_worker() as worker:
        port = int(worker.address.rpartition(":")[2])
        fleet = {"workers": [worker.address], "probe_seconds": 0.02}
        async with running(fastchat=fleet) as rig:
            assert (await rig.stream(HELLO))[-1]["error_code"] == 0
            await worker.stop()
            await rig.down()
            assert (await rig.stream(HELLO))[-1]["error_code"] == 50005
            await worker.start("127.0.0.1", port)
            await until(lambda: rig.gateway.fleet.is_up(worker.address), lambda: "still down")
            assert (await rig.stream(HELLO))[-1]["error_code"] == 0


async def test_the_other_worker_answers_when_one_is_gone() -> None:
    """With two workers of a model the death of one costs at most the requests that it held."""
    async with demo_worker() as one, demo_worker() as two, running(one.address, two.address) as rig:
        await looked_at(one)
        await one.stop()
        rig.gateway.backends.trouble(one.address)
        await until(lambda: not rig.gateway.fleet.is_up(one.address), lambda: "still up")
        for _ in range(5):
            assert (await rig.stream(HELLO))[-1]["error_code"] == 0


STOPPED = [
    ("generate_stream", ()),
    ("generate_stream", (STREAM_HEAD, chunk(frame("Hello")))),
    ("generate", ()),
    ("generate", (STREAM_HEAD, chunk(frame("Hello")))),
]


@pytest.mark.parametrize(("call", "begin"), STOPPED)
async def test_the_gateway_s_stop_ends_what_does_not_end(call: str, begin: tuple[bytes, ...]) -> None:
    """An answer that cannot end in time ends in an error that says why; the stop itself is not held up."""
    async with scripted({"/worker_generate_stream": then_gone(*begin)}) as worker:
        begun = time.monotonic()
        async with running(worker.address, shutdown_seconds=0.1, busy_at_end=True) as rig:
            worker.arm()
            asking = asyncio.create_task(rig.post(call, HELLO))
            await until(lambda: len(worker.struck) == 1, lambda: "the worker was not asked")
        assert time.monotonic() - begun < 3
        reply = await asking
        last = frames_of(reply.body)[-1] if call == "generate_stream" else reply.object
        assert (reply.status, last["error_code"]) == (200, 50005)
        assert last["text"] == "the gateway is stopping; ask again in a moment"


async def test_the_gateway_s_stop_takes_the_time_that_was_set() -> None:
    """A stream that does not end gets the set time and not twice as much."""
    async with scripted({"/worker_generate_stream": then_gone(STREAM_HEAD, chunk(frame("Hello")))}) as worker:
        async with running(worker.address, shutdown_seconds=0.6, busy_at_end=True) as rig:
            worker.arm()
            asking = asyncio.create_task(rig.stream(HELLO))
            await until(lambda: len(worker.struck) == 1, lambda: "the worker was not asked")
            begun = time.monotonic()
        assert 0.5 < time.monotonic() - begun < 1.0
        assert [frame["error_code"] for frame in await asking] == [0, 50005]


async def test_the_gateway_s_stop_lets_streams_end() -> None:
    """A stream that is under way at the stop gets the time to end."""
    async with demo_worker(chunks_per_second=200) as worker:
        async with running(worker.address, shutdown_seconds=5.0, busy_at_end=True) as rig:
            asking = asyncio.create_task(rig.stream(HELLO))
            await until(lambda: worker.queue_length == 1, lambda: "the worker was not asked")
        assert (await asking)[-1]["finish_reason"] == "stop"


async def test_an_error_reads_well_where_it_is_quoted(rig: Rig) -> None:
    """The client of a cluster sees the whole body in its one sentence."""
    rig.client.model = "nobody"
    with pytest.raises(FailedError) as failed:
        await rig.client.model_metadata()
    assert str(failed.value) == (
        'Request to URL failed, error: {"detail":"model: no worker serves \'nobody\'; known models: m",'
        '"error_code":40301,"field":"model"}'
    )
