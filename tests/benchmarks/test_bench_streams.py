"""How the load client reads answers: the right one is right at any split, and nothing else is."""

from __future__ import annotations

import orjson
import pytest

from benchmarks.answers import completion, events, final_text, frames, pieces, vectors
from benchmarks.delays import all_delays, chunk_delays
from benchmarks.streams import CUT, FORMS, WRONG_TEXT, Reading, new_reading
from proxy.types import Json

CHUNKS = 6


def _lines(texts: list[str], **last: object) -> bytes:
    documents = [{"response": text, "done": False} for text in texts]
    documents.append({"response": "", "done": True, "done_reason": "stop", **last})
    return b"".join(orjson.dumps(document) + b"\n" for document in documents)


def _openai_vectors(found: Json) -> bytes:
    assert isinstance(found, list)
    return orjson.dumps({"data": [{"index": index, "embedding": vector} for index, vector in enumerate(found)]})


RIGHT = {
    "nul": b"".join(frames(CHUNKS)),
    "sse": b"".join(events(CHUNKS)),
    "ndjson": _lines(pieces(CHUNKS)),
    "text": frames(CHUNKS)[-1][:-1],
    "chat": orjson.dumps(completion(CHUNKS)),
    "count": b"3",
    "worker-count": b'{"count": 3}',
    "vectors": orjson.dumps(vectors(2)),
    "worker-vectors": orjson.dumps({"embedding": vectors(2)}),
    "openai-vectors": _openai_vectors(vectors(2)),
}


def _read(form: str, body: bytes, step: int = 10_000) -> Reading:
    reading = new_reading(form, CHUNKS, texts=2)
    for at in range(0, len(body), step):
        reading.feed(body[at : at + step], float(at))
    return reading


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize("form", FORMS)
def test_the_right_answer_is_right_at_any_split(form: str, step: int) -> None:
    """How the reads fall changes nothing."""
    assert _read(form, RIGHT[form], step).wrong() is None


@pytest.mark.parametrize("form", ["nul", "sse", "ndjson"])
def test_every_chunk_is_seen_when_it_came(form: str) -> None:
    """The progress of a stream counts the worker's chunks, whatever the dialect makes of them."""
    counts = [count for _, count in _read(form, RIGHT[form], 5).progress()]
    assert counts == sorted(counts)
    assert counts[-1] >= CHUNKS - 1
    assert len(set(counts) & set(range(1, CHUNKS))) == CHUNKS - 1


def _changed(body: bytes) -> bytes:
    """One character of the text is another, in every frame that has it."""
    return body.replace(b"grows", b"growz")


@pytest.mark.parametrize("form", ["nul", "sse", "ndjson", "text", "chat"])
def test_one_wrong_character_is_noticed(form: str) -> None:
    """A text that differs is never counted as right."""
    assert _changed(RIGHT[form]) != RIGHT[form]
    assert _read(form, _changed(RIGHT[form])).wrong() == WRONG_TEXT


@pytest.mark.parametrize("form", ["nul", "sse", "ndjson", "text", "chat", "vectors", "openai-vectors"])
def test_a_cut_answer_is_noticed_wherever_it_is_cut(form: str) -> None:
    """A truncated answer never passes for a whole one."""
    body = RIGHT[form]
    passed = [end for end in range(0, len(body), 1 + len(body) // 500) if _read(form, body[:end]).wrong() is None]
    assert passed == []


@pytest.mark.parametrize(
    ("form", "body", "wrong"),
    [
        ("nul", b"", WRONG_TEXT),
        ("nul", b"not json\0", WRONG_TEXT),
        ("nul", b"[]\0", WRONG_TEXT),
        ("nul", b"".join(frames(CHUNKS))[:-1], CUT),
        ("nul", b"".join(frames(CHUNKS)[:-1]), "the last frame's finish_reason is None, not 'stop'"),
        ("nul", b"".join(frames(CHUNKS)[1:]), "5 chunks instead of 6"),
        ("nul", b"".join(frames(CHUNKS - 1)), WRONG_TEXT),
        ("sse", b"".join(events(CHUNKS)) + b"data: {", CUT),
        ("sse", b"".join(events(CHUNKS)).replace(b"data: [DONE]\n\n", b""), "the last event is not [DONE]"),
        ("sse", b"".join(events(CHUNKS)).replace(b'"stop"', b"null"), "no event has the finish_reason stop"),
        ("ndjson", _lines(pieces(CHUNKS), done_reason=None), "the last line does not say that it is done"),
        ("vectors", orjson.dumps(vectors(1)), "the answer differs from the expected one"),
        ("count", b"4", "the answer differs from the expected one"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(form: str, body: bytes, wrong: str) -> None:
    """Each defect has its own sentence."""
    assert _read(form, body).wrong() == wrong


def test_vectors_in_another_order_are_noticed() -> None:
    """Each text's vector has its place."""
    found = vectors(2)
    assert isinstance(found, list)
    assert _read("vectors", orjson.dumps(found[::-1])).wrong() is not None


def test_a_field_that_a_rule_was_to_change_must_have_changed() -> None:
    """A gateway that leaves the work out does not win."""
    reading = new_reading("nul", CHUNKS, last={"tokens": 5})
    reading.feed(RIGHT["nul"], 0)
    assert reading.wrong() == "the last frame's tokens is None, not 5"


def test_a_delay_is_from_the_write_to_the_read_of_each_chunk() -> None:
    """Chunks that come together have each their own delay; the last, which adds no text, has none."""
    sent = [1_000_000, 1_020_000, 1_040_000, 1_060_000]
    delays = chunk_delays([(1.001, 1), (1.045, 3), (1.1, 4)], sent)
    assert [round(delay, 6) for delay in delays] == [0.001, 0.025, 0.005]


def test_a_chunk_that_nobody_knows_when_it_was_sent_has_no_delay() -> None:
    """A stream without a record of the worker gives no figures instead of wrong ones."""
    assert all_delays({"00000001": [(1.0, 3)]}, {}) == []
    assert all_delays({"1": [(1.5, 2)], "2": [(2.5, 1)]}, {"1": [1_000_000, 1_250_000], "2": [2_000_000] * 2}) == [
        0.5,
        0.5,
    ]


def test_the_texts_of_all_answers_are_one() -> None:
    """Every form of the answer says the same."""
    assert orjson.loads(RIGHT["text"])["text"] == final_text(CHUNKS)
