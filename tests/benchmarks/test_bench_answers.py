"""The benchmark's answer and how the load client reads it."""

from __future__ import annotations

import itertools

import orjson
import pytest

from benchmarks.answers import MAX_CHUNKS, final_text, frames
from benchmarks.streams import new_reading


def test_the_last_two_frames_have_the_same_text_and_only_the_last_a_reason() -> None:
    """An answer ends as FastChat's model_worker ends it: the whole text twice, then also with the finish reason."""
    documents = [orjson.loads(frame[:-1]) for frame in frames(5)]
    assert [document["text"] for document in documents][-2:] == [final_text(5)] * 2
    assert [document["finish_reason"] for document in documents] == [None] * 4 + ["stop"]
    assert all(document["logprobs"] is None and document["error_code"] == 0 for document in documents)
    assert [document["usage"]["completion_tokens"] for document in documents] == [0, 1, 2, 3, 3]


def test_the_text_grows_with_every_frame_before_the_last() -> None:
    """Cumulative text: each frame begins with the one before."""
    texts = [orjson.loads(frame[:-1])["text"] for frame in frames(8)][:-1]
    assert all(later.startswith(earlier) and later != earlier for earlier, later in itertools.pairwise(texts))


@pytest.mark.parametrize("chunks", [0, -1, MAX_CHUNKS + 1])
def test_a_number_of_chunks_out_of_range_is_refused(chunks: int) -> None:
    """The number is named in the error."""
    with pytest.raises(ValueError, match=str(chunks)):
        frames(chunks)


def _events(texts: list[str], *, done: bool = True) -> bytes:
    body = b"".join(b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}]}) + b"\n\n" for text in texts)
    return body + (b"data: [DONE]\n\n" if done else b"")


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    ("framing", "body", "chunks", "text"),
    [
        ("nul", b"".join(frames(6)), 6, final_text(6)),
        ("ndjson", b"".join(frame[:-1] + b"\n" for frame in frames(6)), 6, final_text(6)),
        ("sse", _events(["a", "", "好"]), 3, "a好"),
    ],
)
def test_chunks_and_text_do_not_depend_on_the_reads(
    framing: str, body: bytes, chunks: int, text: str, step: int
) -> None:
    """Any split of an answer gives the same count and the same text."""
    reading = new_reading(framing)
    assert sum(reading.feed(body[at : at + step]) for at in range(0, len(body), step)) == chunks
    assert reading.text() == text


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("nul", b"".join(frames(3))[:-1]),
        ("nul", b"not json\0"),
        ("nul", b"[]\0"),
        ("nul", b""),
        ("sse", _events(["a"], done=False)),
        ("sse", _events(["a"]) + b"data: {"),
    ],
)
def test_an_answer_that_is_cut_or_broken_has_no_text(framing: str, body: bytes) -> None:
    """A truncated answer never passes for a whole one."""
    reading = new_reading(framing)
    reading.feed(body)
    assert reading.text() is None
