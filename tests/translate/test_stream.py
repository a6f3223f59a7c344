from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import GatewayError
from proxy.translate.plan import Route
from proxy.translate.reader import StreamReader, collected
from proxy.translate.stream import StreamTranslator
from proxy.types import Json, JsonObject
from tests.translate.building import load_route, prepared, shipped_route
from tests.translate.playing import LOST, halves, judged, nul_wire, play

ROUTE = shipped_route("generate_stream")
REQUEST = prepared(ROUTE, {"model": "vicuna", "messages": [{"role": "human", "content": "Hi"}]})
GOOD: list[Json] = [{"text": "Hel", "error_code": 0}, {"text": "Hello", "error_code": 0}]
DONE: Json = {"text": "Hello", "error_code": 0, "finish_reason": "stop"}


def last(wire: bytes) -> JsonObject:
    return judged(wire)[-1]


def test_a_finish_that_cannot_be_written_is_an_error() -> None:
    """A usage nested deeper than JSON is written does not leave the client with an empty stream."""
    usage = b'{"prompt_tokens": 1, "total_tokens": 2, "x": ' + b"[" * 500 + b"]" * 500 + b"}"
    played = play(
        ROUTE, REQUEST, [b'{"text": "Hi", "error_code": 0, "finish_reason": "stop", "usage": ' + usage + b"}\0"]
    )
    (frame,) = judged(played.wire)
    assert frame["error_code"] == 50001
    assert str(frame["text"]).startswith("the worker sent a frame that cannot be passed on")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (b"{not json}\0", "the worker sent a frame that is not JSON"),
        (b'{"text": "\xff"}\0', "the worker sent a frame that is not JSON"),
        (b'{"text": "\\ud800"}\0', "the worker sent a frame that is not JSON"),
        (b"NaN\0", "the worker sent a frame that is not JSON"),
        (b"[1]\0", "the worker sent a frame that is not an object but an array of 1"),
        (b"null\0", "the worker sent a frame that is not an object but null"),
        (b'"text"\0', "the worker sent a frame that is not an object but 'text'"),
        (b'{"text": 5, "error_code": 0}\0', "the worker's text is not a string but 5"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_broken_frame_ends_the_stream_in_an_error(broken: bytes, says: str, before: int) -> None:
    """What came before it is passed on, also from the same read; what comes after it is not."""
    wire = nul_wire(GOOD[:before]) + broken + nul_wire([DONE])
    played = play(ROUTE, REQUEST, [wire])
    frames = judged(played.wire)
    assert [frame["text"] for frame in frames[:-1]] == ["He", "Hell"][:before]
    assert str(frames[-1]["text"]).startswith(says)
    assert frames[-1]["error_code"] == 50001
    assert played.translator.error is not None
    assert played.translator.error.kind == "upstream_protocol"
    assert all(play(ROUTE, REQUEST, reads).wire == played.wire for reads in halves(wire))


def test_an_oversized_frame_is_an_error_frame() -> None:
    """A frame over the limit does not fill the memory, and the client is told."""
    played = play(ROUTE, REQUEST, [nul_wire(GOOD), b'{"text": "' + b"x" * 500], "open", limit=200)
    assert last(played.wire)["error_code"] == 50001
    assert "200" in str(last(played.wire)["text"])


def test_an_unterminated_last_frame_is_not_taken_for_a_whole_one() -> None:
    """A stream that ends inside a frame is an error, however complete the JSON looks."""
    assert "NUL" in str(last(play(ROUTE, REQUEST, [nul_wire(GOOD) + b'{"text": "x"}']).wire)["text"])


def test_a_stream_without_a_frame_is_an_error() -> None:
    """Nothing at all is not an empty answer: DB-GPT would show nothing."""
    for reads in ([], [b""], [b"\0\0"]):
        played = play(ROUTE, REQUEST, reads)
        assert last(played.wire)["error_code"] == 50001
        assert played.translator.error is not None
        assert played.translator.error.kind == "upstream_empty"


def test_a_cut_connection_is_an_error_after_the_text() -> None:
    """A worker that breaks off in the middle does not look like one that was done."""
    frames = judged(play(ROUTE, REQUEST, [nul_wire(GOOD)], "cut").wire)
    assert [frame["text"] for frame in frames] == ["He", "Hell", LOST]
    assert frames[-1]["error_code"] == 50001


def test_a_connection_cut_after_the_finish_lost_nothing() -> None:
    """Once the worker said that it is done, how its connection ends is no error."""
    played = play(ROUTE, REQUEST, [nul_wire([*GOOD, DONE])], "cut")
    assert (last(played.wire)["text"], last(played.wire)["finish_reason"]) == ("Hello", "stop")
    assert played.translator.error is None
    assert played.translator.closed


def test_nothing_follows_a_closed_stream() -> None:
    """A translator that ended gives no more bytes, whatever comes."""
    translator = play(ROUTE, REQUEST, [nul_wire(GOOD)], "cut").translator
    assert translator.feed([b'{"text": "x"}']) == b""
    assert translator.end() == b""
    assert translator.fail(GatewayError("internal", "x")) == b""


SSE_ROUTE = """
route: chat
description: From incremental lines to incremental events.
match: {method: POST, path: /chat}
worker: {kind: llm, model: body.model}
steps:
  - {set: limit, value: body.limit}
request: {path: /x, body: {value: 1}}
stream:
  from:
    framing: ndjson
    text: incremental
    stops: "to_array(length(body.stops) && body.stops)"
    read:
      text: chunk.delta
      finish: {from: chunk.done, table: {over: stop}, unknown: refuse}
      usage: chunk.usage
      error_code: chunk.error
      error_message: upper(chunk.message)
  to:
    framing: sse
    text: incremental
    chunk:
      when: new_text || finish
      fields: {delta: text, sum: length(text), finish: finish, limit: {from: chunk.limit, type: integer}}
"""


@pytest.fixture
def sse(tmp_path: Path) -> Route:
    return load_route(tmp_path, SSE_ROUTE)


DONE_EVENT = "[DONE]"


def events(wire: bytes) -> list[Json]:
    parts = [part for part in wire.replace(b"data: ", b"").split(b"\n\n") if part]
    return [DONE_EVENT if part == b"[DONE]" else orjson.loads(part) for part in parts]


def lines(*chunks: Json) -> list[bytes]:
    return [orjson.dumps(chunk) for chunk in chunks]


def translator(route: Route, **body: Json) -> StreamTranslator:
    assert route.source is not None
    assert route.target is not None
    scope: JsonObject = {"body": {"stops": [], **body}, "worker": {}, "steps": {}}
    return StreamTranslator(route.source, route.target, route.errors, scope)


def played_out(stream: StreamTranslator, *chunks: Json) -> bytes:
    """The client's whole stream for these chunks of a worker that is not replaced."""
    out = stream.feed(lines(*chunks)) + stream.end()
    return out if stream.lost is None else out + stream.fail(stream.lost)


def test_incremental_to_incremental(sse: Route) -> None:
    """Each event has only what is new, an event without anything new is left out, and the framing's end is written."""
    stream = translator(sse)
    out = stream.feed(lines({"delta": "Hel"}, {"delta": ""}, {"delta": "lo�"}, {"delta": "!", "done": "over"}))
    assert events(out + stream.end()) == [
        {"delta": "Hel", "sum": 3},
        {"delta": "lo", "sum": 2},
        {"delta": "�!", "sum": 2, "finish": "stop"},
        DONE_EVENT,
    ]
    assert stream.sent_frames == 3


def test_an_end_without_a_finish_is_an_error_unless_the_rule_says_what_it_means(sse: Route) -> None:
    """A worker that always says why it ended, and this time did not, was cut off."""
    stream = translator(sse)
    out = played_out(stream, {"delta": "Hello"})
    assert events(out)[-2:] == [
        {"error": "the worker ended its answer without saying that it was complete", "code": 1, "so_far": "Hello"},
        DONE_EVENT,
    ]
    assert stream.error is not None
    assert stream.error.kind == "upstream_protocol"


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (
            {"delta": "x", "done": "why"},
            "the worker sent a frame that the rule cannot read: finish: expected one of over",
        ),
        ({"delta": "x", "limit": "5"}, "a frame of the worker does not fit the rule: limit: expected a whole number"),
        ({"delta": "", "done": "over", "limit": 0.5}, "a frame of the worker does not fit the rule: limit: expected a"),
        ({"error": 1}, "the worker sent a frame that the rule cannot read: upper(): argument 1"),
    ],
)
def test_a_frame_that_does_not_fit_the_rule_is_an_error(sse: Route, chunk: Json, says: str) -> None:
    """The error names what did not fit, also in the frame that was to be the last."""
    stream = translator(sse)
    out = events(played_out(stream, {"delta": "so far"}, chunk))
    assert out[0] == {"delta": "so far", "sum": 6}
    assert isinstance(out[1], dict)
    assert str(out[1]["error"]).startswith(says)
    assert str(out[1]["so_far"]).startswith("so far")
    assert out[2:] == [DONE_EVENT]
    assert stream.error is not None


def test_stop_strings_that_cannot_be_read_are_an_error_of_the_stream(sse: Route) -> None:
    """An expression that fails at the very end does not leave the client without an end."""
    stream = translator(sse, stops=5)
    out = events(played_out(stream, {"delta": "Hello"}, {"delta": "!", "done": "over"}))
    assert isinstance(out[1], dict)
    assert str(out[1]["error"]).startswith("the rule's stop strings cannot be read: length()")
    assert out[2:] == [DONE_EVENT]


@pytest.mark.parametrize(
    ("code", "number", "says"),
    [
        (1, 1, "BAD"),
        (True, None, "BAD"),
        ("E5", None, "BAD"),
        ("", None, "BAD"),
        (0, None, ""),
        (None, None, ""),
        (False, None, ""),
    ],
)
def test_what_counts_as_an_error_code(sse: Route, code: Json, number: int | None, says: str) -> None:
    """Neither null nor 0 nor false is an error; anything else is, and a number is kept."""
    stream = translator(sse)
    stream.feed(lines({"delta": "x", "error": code, "message": "bad"}))
    assert (stream.lost is not None) is bool(says)
    if stream.lost is not None:
        assert (stream.lost.message, stream.lost.upstream_code) == (says, number)


def test_an_error_without_words_names_its_code(tmp_path: Path) -> None:
    """A message that is missing or empty never makes an empty error."""
    route = load_route(tmp_path, SSE_ROUTE.replace("upper(chunk.message)", "chunk.message"))
    for message in ("", None, 5):
        stream = translator(route)
        played_out(stream, {"error": 7, "message": message})
        assert stream.error is not None
        assert stream.error.message == "the worker reported error 7"


def test_a_long_error_text_is_cut(tmp_path: Path) -> None:
    """A worker's page of text does not go into every log line."""
    route = load_route(tmp_path, SSE_ROUTE.replace("upper(chunk.message)", "chunk.message"))
    stream = translator(route)
    out = played_out(stream, {"error": 7, "message": "x" * 100_000})
    assert 1_000 < len(out) < 3_000


def test_a_collected_stream_gives_its_text_once() -> None:
    """A reader without a client gives text, finish, usage and the last frame."""
    assert ROUTE.source is not None
    reader = StreamReader(ROUTE.source, REQUEST.built.scope)
    for chunk in lines({"text": "He", "error_code": 0}, {"text": "Hey�", "error_code": 0, "finish_reason": "length"}):
        assert reader.read(chunk)
    assert reader.read(b"not even JSON") is False
    assert reader.end() is False
    result = collected(reader)
    assert (result["text"], result["finish"], result["usage"]) == ("Hey�", "length", None)


def test_a_reader_adds_the_finish_that_the_rule_names() -> None:
    """A worker that ends without a word of it is complete where the rule says so, and that is noted."""
    assert ROUTE.source is not None
    reader = StreamReader(ROUTE.source, REQUEST.built.scope)
    reader.read(lines({"text": "He", "error_code": 0})[0])
    assert reader.end() is True
    assert (reader.finish, reader.notes) == ("stop", ["finish_synthesized"])


CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text("ab�é😀", max_size=6) | st.none() | st.integers(0, 1),
        "error_code": st.sampled_from([0, 0, 0, 0, None, 50001, "x", -1, 2**64 - 1]),
        "usage": st.sampled_from([None, {}, [], {"prompt_tokens": 1, "total_tokens": 2}, {"prompt_tokens": "1"}]),
        "finish_reason": st.sampled_from([None, None, "stop", "length", "eos", [None], ["length"], 5, {}]),
    },
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(CHUNKS | st.none(), max_size=6),
    st.lists(st.integers(0, 400), max_size=3),
    st.sampled_from(["clean", "cut"]),
)
def test_any_stream_ends_in_exactly_one_legal_end(chunks: list[Json], cuts: list[int], ending: str) -> None:
    """Whatever a worker sends, and wherever it breaks off, the client's stream is finished or told an error, once."""
    wire = nul_wire(chunks)
    bounds = sorted({0, len(wire), *(place % (len(wire) + 1) for place in cuts)})
    reads = [wire[start:end] for start, end in pairwise(bounds)]
    played = play(ROUTE, REQUEST, reads, "clean" if ending == "clean" else "cut")
    frames = [orjson.loads(frame) for frame in played.wire[:-1].split(b"\0")]
    ends = [frame for frame in frames if frame.get("finish_reason") or frame["error_code"]]
    assert ends == frames[-1:]
    assert bool(frames[-1]["error_code"]) is (played.translator.error is not None)
    assert played.wire == play(ROUTE, REQUEST, [wire], "clean" if ending == "clean" else "cut").wire
