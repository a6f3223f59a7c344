"""A model's thought in a stream and in one answer: beside the text, in it, or nowhere, however the worker sends it."""

from __future__ import annotations

import functools
import tempfile
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
from tests.translate.building import load_route, scope_of

ROUTE = """
route: chat
description: For tests.
match: {{method: POST, path: /chat}}
worker: {{kind: llm, model: body.model}}
request:
  path: /generate
  body: {{fields: {{prompt: body.prompt}}}}
  resume: {{prompt: "join('', [body.prompt, text])"}}
stream:
  from:
    framing: ndjson
    text: {source}
    prefix: body.echo
    read: {{text: chunk.text, reasoning: chunk.thought, finish: chunk.end, error_code: chunk.code}}
  to:
    framing: ndjson
    text: {target}
    hold_back: {hold_back}
    chunk: {{fields: {{text: text, new: new_text, thought: reasoning, new_thought: new_reasoning, end: finish}}}}
"""
HELLO: JsonObject = {"model": "m", "prompt": "Hi"}
Frames = list[JsonObject]


@functools.cache
def route(source: str = "incremental", target: str = "incremental", hold_back: int = 0) -> Route:
    with tempfile.TemporaryDirectory() as folder:
        return load_route(Path(folder), ROUTE.format(source=source, target=target, hold_back=hold_back))


def translator(which: Route, wish: str | None, body: JsonObject = HELLO, **more: Json) -> StreamTranslator:
    """wish: what the settings say becomes of the thought; None: they say nothing."""
    assert which.source is not None
    assert which.target is not None
    scope = scope_of(which, body)
    rule: JsonObject = {"open": "<think>", "close": "</think>", "begins_inside": False, "as": wish, **more}
    scope["worker"] = {"model": "m", "reasoning": rule if wish is not None else None}
    return StreamTranslator(which.source, which.target, which.errors, scope, resumable=True)


def frames_of(wire: bytes) -> Frames:
    return [orjson.loads(line) for line in wire.splitlines()]


def taken(stream: StreamTranslator, frame: bytes) -> bytes:
    """One frame, the way the server takes it."""
    out = stream.quick(stream, frame) if stream.quick is not None else None
    return stream.feed([frame]) if out is None else out


def played(stream: StreamTranslator, chunks: Frames) -> Frames:
    out = b"".join(taken(stream, orjson.dumps(chunk)) for chunk in chunks)
    return frames_of(out + stream.end())


def answered(which: Route, wish: str | None, chunks: Frames) -> tuple[Json, Json]:
    """Text and thought of the same stream as one answer."""
    assert which.source is not None
    scope = translator(which, wish).reader.scope
    reader = StreamReader(which.source, scope)
    for chunk in chunks:
        reader.read(orjson.dumps(chunk))
    found = collected(reader)
    return found["text"], found["reasoning"]


TAGGED: Frames = [{"text": "<thi"}, {"text": "nk>\nWell."}, {"text": "</think>\n\nHel"}, {"text": "lo.", "end": "stop"}]
APART: Frames = [{"thought": "Wel"}, {"thought": "l."}, {"text": "Hel"}, {"text": "lo."}, {"text": "", "end": "stop"}]
BOTH: Frames = [{"text": "Hel", "thought": "Well."}, {"text": "lo.", "end": "stop"}]
PLAIN: Frames = [{"text": "Hel"}, {"text": "l"}, {"text": "o.", "thought": None}, {"text": "", "end": "stop"}]


@pytest.mark.parametrize("hold_back", [0, 1])
@pytest.mark.parametrize(
    ("wish", "chunks", "text", "thought"),
    [
        (None, TAGGED, "<think>\nWell.</think>\n\nHello.", None),
        (None, APART, "Hello.", "Well."),
        (None, BOTH, "Hello.", "Well."),
        (None, PLAIN, "Hello.", None),
        ("field", TAGGED, "Hello.", "Well."),
        ("field", APART, "Hello.", "Well."),
        ("field", BOTH, "Hello.", "Well."),
        ("field", PLAIN, "Hello.", None),
        ("drop", TAGGED, "Hello.", None),
        ("drop", APART, "Hello.", None),
        ("inline", TAGGED, "<think>\nWell.</think>\n\nHello.", None),
        ("inline", APART, "<think>\nWell.\n</think>\n\nHello.", None),
        ("inline", BOTH, "<think>\nWell.\n</think>\n\nHello.", None),
        ("inline", PLAIN, "Hello.", None),
    ],
)
def test_the_thought_is_where_it_is_wanted(
    wish: str | None, chunks: Frames, text: str, thought: str | None, hold_back: int
) -> None:
    """In both conventions the parts joined are the whole, and one answer has the same."""
    pieces = played(translator(route(hold_back=hold_back), wish), chunks)
    assert "".join(str(piece["new"]) for piece in pieces) == text
    assert "".join(str(piece.get("new_thought", "")) for piece in pieces) == (thought or "")
    assert [piece["text"] for piece in pieces] == [piece["new"] for piece in pieces]
    assert [piece.get("thought") for piece in pieces] == [piece.get("new_thought") for piece in pieces]
    growing = played(translator(route(target="cumulative", hold_back=hold_back), wish), chunks)
    assert (growing[-1]["text"], growing[-1].get("thought")) == (text, thought)
    for earlier, later in pairwise(growing):
        assert str(later["text"]).startswith(str(earlier["text"]))
        assert str(later.get("thought", "")).startswith(str(earlier.get("thought", "")))
    assert answered(route(), wish, chunks) == (text, thought)


def test_a_worker_that_sends_all_of_both_each_time() -> None:
    """Cumulative text and thought are cut by the same rule."""
    chunks: Frames = [
        {"text": "", "thought": "We"},
        {"text": "", "thought": "Well."},
        {"text": "Hel", "thought": "Well."},
        {"text": "Hello.", "thought": "Well.", "end": "stop"},
    ]
    pieces = played(translator(route("cumulative"), None), chunks)
    assert [(piece["new"], piece.get("new_thought")) for piece in pieces] == [
        ("", "We"),
        ("", "ll."),
        ("Hel", None),
        ("lo.", None),
    ]


def test_half_a_character_of_a_thought_waits_for_its_other_half() -> None:
    """A worker that decodes again for each frame shows it as U+FFFD."""
    chunks: Frames = [{"thought": "好\ufffd"}, {"thought": "好的"}, {"text": "Ja", "end": "stop"}]
    pieces = played(translator(route("cumulative"), None), chunks)
    assert [piece.get("new_thought") for piece in pieces] == ["好", "的", None]


def test_the_prompt_that_is_echoed_is_no_part_of_the_thought() -> None:
    """It stands before the text, also of a model that begins inside its thought."""
    for target in ("incremental", "cumulative"):
        stream = translator(route(target=target), "field", {**HELLO, "echo": "Hi. "}, begins_inside=True)
        pieces = played(stream, [{"text": "Well.</th"}, {"text": "ink> Hello.", "end": "stop"}])
        assert "".join(str(piece["new"]) for piece in pieces) == "Hi. Hello."
        assert [piece.get("new_thought") for piece in pieces] == ["Well.", None]
    assert pieces[-1]["text"] == "Hi. Hello."


def test_a_thought_that_is_no_text_is_the_worker_s_error() -> None:
    """As for a text."""
    stream = translator(route(), None)
    stream.feed([b'{"text": "a", "thought": {"b": 1}}'])
    assert stream.lost is not None
    assert stream.lost.kind == "upstream_protocol"
    assert stream.lost.message == "the worker's reasoning is not a string but an object"


def test_an_error_frame_has_the_text_that_the_client_has() -> None:
    """Without the thought, which is not in it."""
    stream = translator(route(), "field")
    stream.feed([b'{"text": "<think>Well.</think>Hel"}'])
    (frame,) = frames_of(stream.fail(GatewayError("upstream_reset", "gone")))
    assert frame["so_far"] == "Hel"


def test_a_closing_tag_that_nothing_opened_is_noted() -> None:
    """Its operator has to be told that the model begins inside its thought."""
    for wish, notes in (("field", ["reasoning_unopened"]), (None, [])):
        stream = translator(route(), wish)
        played(stream, [{"text": "Well.</think>Hello.", "end": "stop"}])
        assert stream.reader.notes == notes


@pytest.mark.parametrize("place", range(1, 25))
def test_a_stream_that_goes_on_elsewhere_has_the_same_parts(place: int) -> None:
    """Wherever the first worker is lost, also within a tag: the other one goes on behind the text as it came."""
    whole = "<think>Well.</think>Hello."
    stream = translator(route(), "field")
    out = stream.feed([orjson.dumps({"text": whole[:place]})])
    assert stream.reader.received().text == whole[:place]
    stream.resume(stream.reader.scope)
    out += stream.feed([orjson.dumps({"text": whole[place:], "end": "stop"})]) + stream.end()
    pieces = frames_of(out)
    assert "".join(str(piece["new"]) for piece in pieces) == "Hello."
    assert "".join(str(piece.get("new_thought", "")) for piece in pieces) == "Well."


def test_a_thought_that_came_apart_stays_when_another_worker_goes_on() -> None:
    """What that one thinks anew stands behind it."""
    stream = translator(route(target="cumulative"), None)
    out = stream.feed([b'{"thought": "Well."}', b'{"text": "Hel"}'])
    stream.resume(stream.reader.scope)
    out += stream.feed([b'{"thought": " Yes."}', b'{"text": "lo.", "end": "stop"}']) + stream.end()
    last = frames_of(out)[-1]
    assert (last["text"], last["thought"]) == ("Hello.", "Well. Yes.")


def test_a_stream_that_was_lost_at_its_very_end_is_concluded_with_both() -> None:
    """What was held back of a tag that never came is text."""
    stream = translator(route(), "field")
    out = stream.feed([b'{"text": "<think>Well.</think>1 <"}'])
    pieces = frames_of(out + stream.conclude())
    assert [(piece["new"], piece.get("new_thought"), piece.get("end")) for piece in pieces] == [
        ("1 ", "Well.", None),
        ("<", None, "length"),
    ]


TEXTS = st.sampled_from(["", "a", "<think>", "</think>", "<th", "ink>", " ", "\n", "好", "\ufffd"])
CHUNKS = st.lists(st.tuples(TEXTS, st.one_of(st.none(), TEXTS)), min_size=1, max_size=10)
WISHES = st.sampled_from([None, "field", "drop", "inline"])


@settings(max_examples=300, deadline=None)
@given(CHUNKS, WISHES, st.booleans(), st.integers(0, 1))
def test_streams_in_both_conventions_and_answers_agree(
    chunks: list[tuple[str, str | None]], wish: str | None, inside: bool, hold_back: int
) -> None:
    """Whatever the worker sends, the pieces joined are the last of the growing texts, and the collected answer."""
    sent: Frames = [{"text": text, "thought": thought} for text, thought in chunks]
    sent[-1]["end"] = "stop"
    pieces = played(translator(route(hold_back=hold_back), wish, begins_inside=inside), sent)
    growing = played(translator(route(target="cumulative", hold_back=hold_back), wish, begins_inside=inside), sent)
    joined = "".join(str(piece["new"]) for piece in pieces)
    thoughts = "".join(str(piece.get("new_thought", "")) for piece in pieces)
    assert (joined, thoughts or None) == (growing[-1]["text"], growing[-1].get("thought"))
    for earlier, later in pairwise(growing):
        assert str(later["text"]).startswith(str(earlier["text"]))
        assert str(later.get("thought", "")).startswith(str(earlier.get("thought", "")))


@settings(max_examples=300, deadline=None)
@given(CHUNKS, WISHES)
def test_the_quick_way_gives_the_same(chunks: list[tuple[str, str | None]], wish: str | None) -> None:
    """Frames before the first thought may go it; from then on none does."""
    sent: Frames = [{"text": text, "thought": thought} for text, thought in chunks]
    sent[-1]["end"] = "stop"
    quick, general = translator(route(), wish), translator(route(), wish)
    assert (quick.quick is None) == (wish in {"field", "drop"})
    general.quick = None
    assert played(quick, sent) == played(general, sent)
