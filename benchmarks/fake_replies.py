"""What the fake worker says: a FastChat worker, its controller, and an OpenAI-compatible server in one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import orjson

from benchmarks.answers import MODEL, PROMPT_TOKENS, check_chunks, completion, events, frames, vector_json
from proxy.demo.language import vicuna_template

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.types import Json, JsonObject

_LAST_CHUNK = b"0\r\n\r\n"

CONVERSATION = vicuna_template("Be brief.")


class Answer:
    """What the worker streams: HTTP chunks ready for the socket; `interval` is seconds between them, 0 for flat out.

    Raises ValueError unless 1 <= chunks <= MAX_CHUNKS.
    """

    def __init__(self, chunks: int, interval: float) -> None:
        check_chunks(chunks)
        self.chunks = chunks
        self.interval = interval

    def prepare(self) -> None:
        """Make everything now, so that no stream waits for it."""
        for made in (self.writes, self.event_writes, self.generated, self.completed):
            assert made

    @functools.cached_property
    def writes(self) -> list[bytes]:
        """As a FastChat worker."""
        return _http_chunks(frames(self.chunks))

    @functools.cached_property
    def event_writes(self) -> list[bytes]:
        """As an OpenAI-compatible server."""
        return _http_chunks(events(self.chunks))

    @functools.cached_property
    def generated(self) -> bytes:
        """The FastChat worker's whole answer."""
        return frames(self.chunks)[-1][:-1]

    @functools.cached_property
    def completed(self) -> bytes:
        """The OpenAI-compatible server's whole answer."""
        return orjson.dumps(completion(self.chunks))


def _http_chunks(parts: Sequence[bytes]) -> list[bytes]:
    writes = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
    writes[-1] += _LAST_CHUNK
    return writes


class Worker:
    """State that all connections share. address: under which the controller names this worker.

    sent: by the number of a stream, when each of its chunks was written, in microseconds of the monotonic clock; only
    of paced answers.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.address = ""
        self.streams = 0
        self.connections = 0
        self.sent: dict[str, list[int]] = {}
        self._replies: dict[str, Callable[[JsonObject], Json]] = {
            "/worker_get_status": lambda _: {"model_names": [MODEL], "speed": 1, "queue_length": self.streams},
            "/worker_get_conv_template": lambda _: {"conv": CONVERSATION},
            "/model_details": lambda _: {"context_length": 1 << 20},
            "/count_token": lambda body: {"count": len(str(body.get("prompt", "")).split()), "error_code": 0},
            "/refresh_all_workers": lambda _: None,
            "/list_models": lambda _: {"models": [MODEL]},
            "/get_worker_address": lambda _: {"address": self.address},
            "/bench/answer": self._set_answer,
        }
        self._texts: dict[str, Callable[[JsonObject], bytes]] = {
            "/worker_generate": lambda _: self.answer.generated,
            "/v1/chat/completions": lambda _: self.answer.completed,
            "/worker_get_embeddings": _embeddings,
            "/v1/embeddings": _openai_embeddings,
            "/bench/sent": lambda _: orjson.dumps(self.sent),
        }

    def reply(self, path: str, body: JsonObject) -> bytes | None:
        """The JSON text of an answer; None for a path that nobody has. TypeError or ValueError for a wrong body."""
        text = self._texts.get(path)
        if text is not None:
            return text(body)
        reply = self._replies.get(path)
        return None if reply is None else orjson.dumps(reply(body))

    def _set_answer(self, body: JsonObject) -> Json:
        chunks, interval_ms = body.get("chunks"), body.get("interval_ms")
        if not isinstance(chunks, int) or not isinstance(interval_ms, (int, float)):
            raise TypeError('/bench/answer takes {"chunks": a number, "interval_ms": a number}')
        if (chunks, interval_ms / 1000) != (self.answer.chunks, self.answer.interval):
            self.answer = Answer(chunks, interval_ms / 1000)
            self.answer.prepare()
        self.sent = {}
        return {"chunks": chunks, "interval_ms": interval_ms}


def _texts_of(body: JsonObject) -> list[str]:
    given = body.get("input")
    return [str(text) for text in given] if isinstance(given, list) else [str(given)]


def _embeddings(body: JsonObject) -> bytes:
    found = [vector_json(text) for text in _texts_of(body)]
    return b'{"embedding":[%b],"token_num":%d}' % (b",".join(found), PROMPT_TOKENS * len(found))


def _openai_embeddings(body: JsonObject) -> bytes:
    found = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector_json(text))
        for index, text in enumerate(_texts_of(body))
    ]
    tokens = PROMPT_TOKENS * len(found)
    head = b'{"object":"list","model":"%b","usage":{"prompt_tokens":%d,"total_tokens":%d},"data":[%b]}'
    return head % (MODEL.encode(), tokens, tokens, b",".join(found))
