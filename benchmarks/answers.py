"""The answer every benchmark streams: known to the fake worker and to the load client without a word between them."""

from __future__ import annotations

import functools

import orjson

MODEL = "bench-model"
PROMPT_TOKENS = 12
MAX_CHUNKS = 5000

# Of a token's usual size; characters of three and four bytes make a cut in the wrong place show.
_PIECES = (" the", " answer", " 回答", " grows", " 🎉\n")


def final_text(chunks: int) -> str:
    """The whole text of an answer of `chunks` frames. The last frame adds no text: one frame alone has an empty one."""
    return "".join(_PIECES[index % len(_PIECES)] for index in range(chunks - 1))


@functools.lru_cache(maxsize=4)
def frames(chunks: int) -> tuple[bytes, ...]:
    """The `chunks` frames of one answer, each with its terminating NUL.

    The shape is that of FastChat 0.2.36's `model_worker`: cumulative text, usage in every frame with a count that
    starts at 0, `finish_reason` and `logprobs` always present, and a trailing frame that repeats the text and gives
    the finish reason.
    Raises ValueError unless 1 <= chunks <= MAX_CHUNKS.
    """
    if not 1 <= chunks <= MAX_CHUNKS:
        raise ValueError(f"an answer has 1 to {MAX_CHUNKS} chunks, not {chunks}")
    return tuple(_frame(index, chunks) for index in range(chunks))


def _frame(index: int, chunks: int) -> bytes:
    last = index == chunks - 1
    done = max(index - 1, 0) if last else index
    document = {
        "text": final_text(index + 1 if last else index + 2),
        "error_code": 0,
        "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": done, "total_tokens": PROMPT_TOKENS + done},
        "finish_reason": "stop" if last else None,
        "logprobs": None,
    }
    return orjson.dumps(document) + b"\0"
