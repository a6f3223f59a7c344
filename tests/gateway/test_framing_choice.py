"""A client chooses the framing of its stream with its Accept header."""

from __future__ import annotations

import pytest

from proxy.framing import FRAMINGS
from proxy.ruleset.playing import frames_of
from tests.gateway.client import call
from tests.gateway.remote_worker import PREFIX
from tests.gateway.rig import HELLO, shipped, with_script
from tests.gateway.scripted import COUNT, STREAM, STREAM_HEAD, chunk, frame, sends, then_closed

CHOICES = pytest.mark.parametrize(
    ("accept", "name"),
    [
        (None, "nul"),
        ("*/*", "nul"),
        ("application/json", "nul"),
        ("text/event-stream", "sse"),
        ("application/x-ndjson", "ndjson"),
        ("text/event-stream;q=0.5, application/x-ndjson;q=0.9, */*;q=0.1", "ndjson"),
    ],
)


def headers_for(accept: str | None) -> dict[str, str]:
    return {} if accept is None else {"accept": accept}


@CHOICES
async def test_the_stream_and_its_content_type(accept: str | None, name: str) -> None:
    """Both follow the header; the frames are the same, and SSE ends with its own mark."""
    async with with_script(COUNT, sends()) as (rig, _):
        reply = await rig.post("generate_stream", HELLO, **headers_for(accept))
        framing = FRAMINGS[name]
        assert reply.headers["content-type"] == framing.content_type
        assert reply.body.endswith(framing.terminator)
        assert frames_of(framing, reply.body) == await rig.stream(HELLO)


@CHOICES
async def test_an_error_within_the_stream_is_a_frame_of_its_framing(accept: str | None, name: str) -> None:
    """Also where it is all that the stream has, before a worker was asked."""
    async with with_script(STREAM, then_closed(STREAM_HEAD + chunk(frame("Hel")))) as (rig, _):
        framing = FRAMINGS[name]
        for body, count in ((HELLO, 2), ({**HELLO, "temperature": 9}, 1), (b"{", 1)):
            reply = await rig.post("generate_stream", body, **headers_for(accept))
            assert reply.headers["content-type"].startswith(framing.content_type)
            frames = frames_of(framing, reply.body)
            assert len(frames) == count
            assert isinstance(frames[-1], dict)
            assert frames[-1]["error_code"]
            assert reply.body.endswith(framing.terminator)


async def test_two_accept_headers_are_one() -> None:
    """As HTTP has it."""
    async with with_script(COUNT, sends()) as (rig, _):
        headers = {"accept": "text/plain", "Accept": "text/event-stream"}
        reply = await call(rig.listen, "POST", f"{PREFIX}/generate_stream", HELLO, **headers)
        assert reply.headers["content-type"] == "text/event-stream"


def test_every_stream_of_a_public_dialect_can_be_had_as_events_and_as_lines() -> None:
    """Clients of each exist."""
    streams = [route for route in shipped().table.routes if route.target is not None and route.call is not None]
    assert streams
    for route in streams:
        offered = {each.target.framing.name for each in (route, *route.also) if each.target is not None}
        assert {"sse", "ndjson"} <= offered, route.name
