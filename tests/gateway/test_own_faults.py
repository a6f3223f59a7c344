"""A fault of the gateway itself: told in the caller's dialect, written to the log, blamed on no worker."""

from __future__ import annotations

import pytest

from tests.gateway.client import CutShortError
from tests.gateway.rig import HELLO, running
from tests.gateway.scripted import STREAM, STREAM_HEAD, chunk, frame, scripted, then_gone

SORRY = "the gateway failed on this request; its log has the reason"


def broken(*_: object, **__: object) -> object:
    raise ZeroDivisionError("a fault of the program")


@pytest.mark.parametrize("call", ["generate_stream", "generate", "embeddings"])
async def test_before_anything_was_asked(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An error without a traceback in it, and the worker is not asked."""
    async with scripted({}) as worker, running(worker.address, faults_expected=True) as rig:
        monkeypatch.setattr("proxy.server.attempt.build_request", broken)
        reply = await rig.post(call, {**HELLO, "input": ["a"]})
        assert reply.status == (500 if call == "embeddings" else 200)
        assert SORRY in reply.body.decode()
        assert b'"error_code":50001' in reply.body
        assert worker.bodies(STREAM) == []
        assert await rig.outcomes() == {"gateway_error": 1}


@pytest.mark.parametrize("call", ["generate_stream", "generate"])
async def test_in_the_middle_of_a_worker_s_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """The client's stream gets its last frame, the worker is dropped and not blamed, the log has the traceback."""
    parts = {STREAM: then_gone(STREAM_HEAD + chunk(frame("Hel")))}
    async with scripted(parts) as worker, running(worker.address, faults_expected=True) as rig:
        worker.arm()
        monkeypatch.setattr("proxy.translate.stream.StreamReader.read", broken)
        reply = await rig.post(call, HELLO)
        assert SORRY in reply.body.decode()
        assert reply.body.endswith(b"\0") is (call == "generate_stream")
        await rig.quiet()
        assert await rig.outcomes() == {"gateway_error": 1}
        assert await rig.upstream_errors() == {}
        (view,) = rig.gateway.fleet.workers()
        assert view.outcomes["failure"] == 0
        assert "a fault of the program" in caplog.text


async def test_a_stream_that_cannot_be_ended_does_not_look_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """When even the last frame cannot be written, the connection breaks off."""

    async def broken_later(_: object) -> None:
        broken()

    async with scripted({}) as worker, running(worker.address, faults_expected=True) as rig:
        monkeypatch.setattr("proxy.server.output.ClientOutput.drained", broken_later)
        with pytest.raises((CutShortError, ConnectionError)):
            await rig.stream(HELLO)
        await rig.quiet()
        assert await rig.outcomes() == {"gateway_error": 1}
