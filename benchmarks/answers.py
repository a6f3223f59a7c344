"""The answer every benchmark streams: known to the fake worker and to the load client without a word between them."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from proxy.types import Json, JsonObject

MODEL = "bench-model"
PROMPT_TOKENS = 12
MAX_CHUNKS = 5000
EMBEDDING_SIZE = 1024

MARK = b"answer-"
"""Stands before the number of a stream in its message, so that the worker knows which stream it sends chunks of."""
MARK_DIGITS = 8
MARK_BLANK = MARK + b"@" * MARK_DIGITS

# Of a token's usual size; characters of three and four bytes make a cut in the wrong place show.
_PIECES = (" the", " answer", " 回答", " grows", " 🎉\n")


def pieces(chunks: int) -> list[str]:
    """What each chunk of an answer adds. The last frame adds nothing: one frame alone has an empty text."""
    return [_PIECES[index % len(_PIECES)] for index in range(chunks - 1)]


@functools.lru_cache(maxsize=4)
def final_text(chunks: int) -> str:
    """The whole text of an answer of `chunks` frames."""
    return "".join(pieces(chunks))


@functools.lru_cache(maxsize=4)
def text_ends(chunks: int) -> tuple[int, ...]:
    """The length in characters of the text with each chunk that adds some."""
    return tuple(itertools.accumulate(map(len, pieces(chunks))))


def mark(number: int) -> bytes:
    """What takes the place of MARK_BLANK in the request of a stream."""
    return MARK + b"%0*d" % (MARK_DIGITS, number)


def marked(body: bytes) -> bytes | None:
    """The number of the stream that a request is for, as written; None where it has none."""
    at = body.find(MARK)
    return body[at + len(MARK) : at + len(MARK) + MARK_DIGITS] if at >= 0 else None


def check_chunks(chunks: int) -> None:
    """ValueError unless 1 <= chunks <= MAX_CHUNKS."""
    if not 1 <= chunks <= MAX_CHUNKS:
        raise ValueError(f"an answer has 1 to {MAX_CHUNKS} chunks, not {chunks}")


@functools.lru_cache(maxsize=4)
def frames(chunks: int) -> tuple[bytes, ...]:
    """The `chunks` frames of one answer, each with its terminating NUL.

    The shape is that of FastChat 0.2.36's `model_worker`: cumulative text, usage in every frame with a count that
    starts at 0, `finish_reason` and `logprobs` always present, and a trailing frame that repeats the text and gives
    the finish reason.
    Raises ValueError unless 1 <= chunks <= MAX_CHUNKS.
    """
    check_chunks(chunks)
    texts = [*itertools.accumulate(pieces(chunks))]
    return tuple(_frame(index, chunks, text) for index, text in enumerate([*texts, texts[-1] if texts else ""]))


def _frame(index: int, chunks: int, text: str) -> bytes:
    last = index == chunks - 1
    document = {
        "text": text,
        "error_code": 0,
        "usage": _usage(max(index - 1, 0) if last else index),
        "finish_reason": "stop" if last else None,
        "logprobs": None,
    }
    return orjson.dumps(document) + b"\0"


def _usage(tokens: int) -> JsonObject:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}


@functools.lru_cache(maxsize=4)
def events(chunks: int) -> tuple[bytes, ...]:
    """The same answer as an OpenAI-compatible server streams it: `chunks` server-sent events, [DONE] with the last.

    Raises ValueError unless 1 <= chunks <= MAX_CHUNKS.
    """
    check_chunks(chunks)
    found = [_event({"role": "assistant", "content": piece}, None) for piece in pieces(chunks)]
    return (*found, _event({}, "stop") + b"data: [DONE]\n\n")


def _event(delta: JsonObject, finish: str | None) -> bytes:
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + orjson.dumps(document) + b"\n\n"


def completion(chunks: int) -> JsonObject:
    """The same answer as an OpenAI-compatible server gives it in one piece."""
    message: JsonObject = {"role": "assistant", "content": final_text(chunks)}
    choice: JsonObject = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [choice],
        "usage": _usage(max(chunks - 2, 0)),
    }


def embedding_texts(count: int) -> list[str]:
    """The texts of an embeddings request; each tells the number that its vector begins with."""
    return [f"text {index}" for index in range(count)]


@functools.lru_cache(maxsize=1)
def _vector_rest() -> bytes:
    return orjson.dumps([((index * 37) % 199 - 99) / 100 for index in range(1, EMBEDDING_SIZE)])[1:]


def vector_json(text: str) -> bytes:
    """The vector of a text as JSON: the text's own number and a half, then EMBEDDING_SIZE - 1 numbers that are always
    the same.
    """
    number = text.rpartition(" ")[2]
    return b"[%d.5,%b" % (int(number) if number.isdigit() else 0, _vector_rest())


@functools.lru_cache(maxsize=2)
def vectors(count: int) -> Json:
    """The vectors of `embedding_texts(count)` as values."""
    return [orjson.loads(vector_json(text)) for text in embedding_texts(count)]
