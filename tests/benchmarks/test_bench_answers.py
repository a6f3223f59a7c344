"""The benchmark's answer, as the fake worker's frames."""

from __future__ import annotations

import itertools

import orjson
import pytest

from benchmarks.answers import (
    EMBEDDING_SIZE,
    MARK_BLANK,
    MAX_CHUNKS,
    MODEL,
    embedding_texts,
    events,
    final_text,
    frames,
    mark,
    marked,
    text_ends,
    vectors,
)


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
    assert [len(text) for text in texts] == list(text_ends(8))


def test_the_events_add_up_to_the_same_text() -> None:
    """An OpenAI-compatible server streams the same answer in as many chunks."""
    found = [event.removeprefix(b"data: ").split(b"\n\n")[0] for event in events(5)]
    deltas = [orjson.loads(event)["choices"][0]["delta"] for event in found]
    assert "".join(delta.get("content", "") for delta in deltas) == final_text(5)
    assert events(5)[-1].endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("chunks", [0, -1, MAX_CHUNKS + 1])
def test_a_number_of_chunks_out_of_range_is_refused(chunks: int) -> None:
    """The number is named in the error."""
    with pytest.raises(ValueError, match=str(chunks)):
        frames(chunks)
    with pytest.raises(ValueError, match=str(chunks)):
        events(chunks)


def test_the_number_of_a_stream_is_found_in_its_request() -> None:
    """It has one width, so that a request's length never changes, and is not taken for the model's name."""
    body = orjson.dumps({"model": MODEL, "prompt": f"USER: {MARK_BLANK.decode()} ASSISTANT:"})
    asked = body.replace(MARK_BLANK, mark(7))
    assert len(asked) == len(body)
    assert marked(asked) == b"00000007"
    assert marked(orjson.dumps({"model": MODEL, "prompt": "hi"})) is None


def test_every_text_has_a_vector_of_its_own() -> None:
    """Vectors in a wrong order are seen."""
    found = vectors(3)
    assert isinstance(found, list)
    assert len({str(vector) for vector in found}) == len(embedding_texts(3)) == 3
    assert [len(vector) for vector in found if isinstance(vector, list)] == [EMBEDDING_SIZE] * 3
