"""DB-GPT's own trace id in the line that each request has in the log."""

from __future__ import annotations

import logging

import pytest

from tests.gateway.rig import HELLO, Rig


@pytest.mark.parametrize("route", ["generate_stream", "generate"])
async def test_a_request_is_logged_with_its_trace(rig: Rig, route: str, caplog: pytest.LogCaptureFixture) -> None:
    """The trace id is the header's, or else the body's; a request without one is logged all the same."""
    with caplog.at_level(logging.INFO, logger="proxy.access"):
        await rig.post(route, {**HELLO, "span_id": "a:b"}, **{"DB-GPT-Trace-Span-Id": "c:d"})
        await rig.post(route, {**HELLO, "span_id": "a:b"})
        await rig.post(route, HELLO)
        await rig.quiet()
    lines = [record for record in caplog.records if record.name == "proxy.access"]
    assert [getattr(line, "span", None) for line in lines] == ["c:d", "a:b", None]
    assert {getattr(line, "outcome", None) for line in lines} == {"ok"}


async def test_a_refused_request_is_logged_with_its_trace(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A request that never reaches a worker can be found by its trace and its reason."""
    with caplog.at_level(logging.INFO, logger="proxy.access"):
        await rig.post("generate", {**HELLO, "span_id": "a:b", "temperature": 3})
        await rig.quiet()
    (line,) = [record for record in caplog.records if record.name == "proxy.access"]
    assert getattr(line, "span", None) == "a:b"
    assert "temperature" in str(getattr(line, "reason", None))
