"""The frame before the first one, and the one behind the last; and a stream in the framing that its client wants."""

from __future__ import annotations

import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import GatewayError
from proxy.translate.plan import Route
from proxy.translate.routes import Miss, RouteTable
from proxy.translate.stream import StreamTranslator
from proxy.types import Json, JsonObject
from tests.translate.building import load_route, scope_of

ROUTE = """
route: chat
description: For tests.
match: {method: POST, path: /chat}
worker: {kind: llm, model: body.model}
request: {path: /generate, body: {fields: {prompt: body.prompt}}, resume: {prompt: text}}
stream:
  from: {framing: ndjson, text: incremental, read: {text: chunk.text, finish: chunk.end, usage: chunk.usage}}
  to:
    framing: sse
    also: [ndjson]
    text: incremental
    first: {fields: {role: {value: assistant}, text: text, end: finish}, when: "body.role != `false`"}
    chunk: {fields: {text: new_text}, when: new_text}
    last: {fields: {text: new_text, end: finish}}
    final: {fields: {usage: usage}, when: body.usage && usage}
"""
USAGE: JsonObject = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
HEL: JsonObject = {"text": "Hel"}
LO: JsonObject = {"text": "lo", "usage": USAGE}
END: JsonObject = {"text": "", "end": "stop"}
ROLE: JsonObject = {"role": "assistant", "text": ""}


def _loaded() -> Route:
    with tempfile.TemporaryDirectory() as folder:
        return load_route(Path(folder), ROUTE)


CHAT = _loaded()


def translator(*, route: Route = CHAT, **body: Json) -> StreamTranslator:
    assert route.source is not None
    assert route.target is not None
    scope = scope_of(route, {"model": "m", **body})
    return StreamTranslator(route.source, route.target, route.errors, scope, resumable=True)


def fed(stream: StreamTranslator, *chunks: Json) -> bytes:
    """The client's bytes, each frame of the worker taken as the server takes it."""
    out = b""
    for chunk in chunks:
        frame = orjson.dumps(chunk)
        quick = stream.quick(stream, frame) if stream.quick is not None else None
        out += stream.feed([frame]) if quick is None else quick
    return out


def frames(wire: bytes) -> list[Json]:
    return [orjson.loads(line[6:]) for line in wire.splitlines() if line and line != b"data: [DONE]"]


def test_the_first_frame_comes_with_the_first_one_that_says_something() -> None:
    """Not with a frame that is left out; and once."""
    stream = translator()
    assert fed(stream, {"text": ""}) == b""
    assert frames(fed(stream, HEL)) == [ROLE, {"text": "Hel"}]
    assert frames(fed(stream, LO)) == [{"text": "lo"}]
    assert frames(fed(stream, END)) == [{"text": "", "end": "stop"}]
    assert stream.end() == b"data: [DONE]\n\n"
    assert stream.sent_frames == 4


def test_the_final_frame_is_behind_the_last() -> None:
    """Where its own condition holds; the end of the stream is behind it."""
    stream = translator(usage=True)
    wire = fed(stream, HEL, LO, END) + stream.end()
    assert frames(wire) == [ROLE, {"text": "Hel"}, {"text": "lo"}, {"text": "", "end": "stop"}, {"usage": USAGE}]
    assert wire.endswith(b"}\n\ndata: [DONE]\n\n")
    assert stream.sent_frames == 5


def test_a_stream_of_one_frame_has_both() -> None:
    """In their order."""
    stream = translator(usage=True)
    assert frames(fed(stream, {**LO, "end": "stop"})) == [ROLE, {"text": "lo", "end": "stop"}, {"usage": USAGE}]


def test_a_first_frame_that_is_left_out_never_comes() -> None:
    """Its condition is looked at once, before the first frame."""
    stream = translator(role=False)
    assert frames(fed(stream, HEL, LO)) == [{"text": "Hel"}, {"text": "lo"}]


def test_an_error_has_neither() -> None:
    """Nothing is before an error that is all there is, and nothing behind one that ends a stream."""
    stream = translator(usage=True)
    assert [*map(keys_of, frames(stream.fail(GatewayError("upstream_reset", "gone"))))] == [["code", "error", "so_far"]]
    stream = translator(usage=True)
    wire = fed(stream, LO) + stream.fail(GatewayError("upstream_reset", "gone"))
    assert [*map(keys_of, frames(wire))] == [["role", "text"], ["text"], ["code", "error", "so_far"]]


def keys_of(frame: Json) -> list[str]:
    assert isinstance(frame, dict)
    return sorted(frame)


def test_a_stream_that_goes_on_elsewhere_has_each_once() -> None:
    """Also one that is lost before its first frame was out, or concluded by the gateway."""
    begun: list[list[Json]] = [[], [{"text": ""}], [HEL]]
    for before in begun:
        stream = translator(usage=True)
        wire = fed(stream, *before)
        stream.resume(stream.reader.scope)
        wire += fed(stream, LO, END) + stream.end()
        kinds = [keys_of(frame) for frame in frames(wire)]
        assert kinds[0] == ["role", "text"]
        assert kinds.count(["role", "text"]) == kinds.count(["usage"]) == 1
    stream = translator(usage=True)
    wire = fed(stream, LO) + stream.conclude()
    assert [*map(keys_of, frames(wire))] == [["role", "text"], ["text"], ["end", "text"], ["usage"]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b ", "\ufffd"]), max_size=6), st.booleans(), st.booleans())
def test_the_quick_way_gives_the_same(texts: list[str], role: bool, usage: bool) -> None:
    """It is gone from the first frame of the client on."""
    chunks: list[Json] = [{"text": text, "usage": USAGE} for text in texts]
    chunks.append(END)
    quick, general = translator(role=role, usage=usage), translator(role=role, usage=usage)
    assert CHAT.target is not None
    assert CHAT.target.step is not None
    assert quick.quick is None
    wires = []
    for stream in (quick, general):
        wire = b""
        for chunk in chunks:
            if stream is general:
                stream.quick = None
            wire += fed(stream, chunk)
        wires.append(wire + stream.end())
    assert wires[0] == wires[1]
    assert quick.sent_frames == general.sent_frames


@pytest.mark.parametrize(
    ("accept", "framing"),
    [("", "sse"), ("*/*", "sse"), ("application/x-ndjson", "ndjson"), ("text/event-stream;q=0.1, */*", "ndjson")],
)
def test_a_client_chooses_the_framing(accept: str, framing: str) -> None:
    """By its Accept header, when the route is looked for; everything else of the route is the same."""
    found = RouteTable([CHAT]).by_path("POST", "/chat", accept)
    assert not isinstance(found, Miss)
    chosen = found[0].route
    assert chosen.target is not None
    assert chosen.target.framing.name == framing
    assert chosen.target.step is not None
    assert (chosen.name, chosen.upstream, chosen.source) == (CHAT.name, CHAT.upstream, CHAT.source)
    stream = translator(route=chosen)
    wire = fed(stream, HEL, END) + stream.end()
    assert wire.startswith(b"data: {" if framing == "sse" else b'{"role"')
    assert wire.endswith(b"[DONE]\n\n" if framing == "sse" else b'"end":"stop"}\n')
