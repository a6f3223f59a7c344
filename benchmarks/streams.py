"""How the load client reads the bytes of an answer: what came when, and whether it is what it should be."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

import orjson

from benchmarks.answers import final_text, text_ends, vectors
from proxy.types import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.types import JsonObject

WRONG_TEXT = "the text differs from the expected one"
CUT = "the answer ends in the middle of a frame"

Progress = list[tuple[float, int]]
"""When how many of the worker's chunks had come, oldest first; the clock is that of `feed`."""


class Reading(Protocol):
    """One answer being read."""

    def feed(self, data: bytes, now: float) -> None:
        """Take body bytes at any split; `now` is when they came."""

    def wrong(self) -> str | None:
        """What is wrong with the whole answer; None where it is as expected."""

    def progress(self) -> Progress:
        """When the chunks came, as far as this kind of answer tells; once the answer is whole."""


class Cumulative:
    """NUL-terminated frames that each repeat the whole text: the last is kept, as together they are quadratic in size.

    last: members that the last frame must have.
    """

    def __init__(self, chunks: int, last: JsonObject) -> None:
        self._chunks = chunks
        self._wanted: JsonObject = {"text": final_text(chunks), "error_code": 0, "finish_reason": "stop", **last}
        self._tail = b""
        self._last = b""
        self._seen = 0
        self._progress: Progress = []

    def feed(self, data: bytes, now: float) -> None:
        if self._tail:
            data = self._tail + data
        end = data.rfind(b"\0")
        if end < 0:
            self._tail = data
            return
        self._last = data[data.rfind(b"\0", 0, end) + 1 : end]
        self._tail = data[end + 1 :]
        self._seen += data.count(b"\0")
        self._progress.append((now, self._seen))

    def wrong(self) -> str | None:
        if self._tail:
            return CUT
        document = _load(self._last)
        if _member(document, "text") != self._wanted["text"]:
            return WRONG_TEXT
        for name, value in self._wanted.items():
            if _member(document, name) != value:
                return f"the last frame's {name} is {_member(document, name)!r}, not {value!r}"
        return None if self._seen == self._chunks else f"{self._seen} chunks instead of {self._chunks}"

    def progress(self) -> Progress:
        return self._progress


class Incremental:
    """Frames that each have what is new: kept as they come, read when the answer is whole.

    separator: ends a frame; delta: the new text of a frame's document; ended: what the frames must end with, None or
    why they are not whole.
    """

    def __init__(
        self,
        chunks: int,
        separator: bytes,
        delta: Callable[[bytes], str],
        ended: Callable[[list[bytes]], str | None],
    ) -> None:
        self._chunks = chunks
        self._separator = separator
        self._delta = delta
        self._ended = ended
        self._tail = b""
        self._blocks: list[tuple[float, bytes]] = []

    def feed(self, data: bytes, now: float) -> None:
        if self._tail:
            data = self._tail + data
        end = data.rfind(self._separator)
        if end < 0:
            self._tail = data
            return
        self._tail = data[end + len(self._separator) :]
        self._blocks.append((now, data[:end]))

    def wrong(self) -> str | None:
        if self._tail:
            return CUT
        frames = [frame for _, block in self._blocks for frame in block.split(self._separator)]
        if "".join(map(self._delta, frames)) != final_text(self._chunks):
            return WRONG_TEXT
        return self._ended(frames)

    def progress(self) -> Progress:
        ends = text_ends(self._chunks)
        characters = 0
        found: Progress = []
        for now, block in self._blocks:
            characters += sum(len(self._delta(frame)) for frame in block.split(self._separator))
            found.append((now, bisect_right(ends, characters)))
        return found


class Whole:
    """An answer in one piece. expected: what `select` must find in its JSON."""

    def __init__(self, expected: Json, select: Callable[[Json], Json]) -> None:
        self._expected = expected
        self._select = select
        self._parts: list[bytes] = []

    def feed(self, data: bytes, now: float) -> None:
        self._parts.append(data)

    def wrong(self) -> str | None:
        found = self._select(_load(b"".join(self._parts)))
        if found == self._expected:
            return None
        return WRONG_TEXT if isinstance(self._expected, str) else "the answer differs from the expected one"

    def progress(self) -> Progress:
        return []


def _event_delta(frame: bytes) -> str:
    return _string(_member(_member(_first(_event_choices(frame)), "delta"), "content"))


def _events_ended(frames: list[bytes]) -> str | None:
    if frames[-1] != b"data: [DONE]":
        return "the last event is not [DONE]"
    reasons = [_member(_first(_event_choices(frame)), "finish_reason") for frame in frames[:-1]]
    return None if "stop" in reasons else "no event has the finish_reason stop"


def _event_choices(frame: bytes) -> Json:
    return _member(_load(frame.removeprefix(b"data: ")), "choices")


def _line_delta(frame: bytes) -> str:
    return _string(_member(_load(frame), "response"))


def _lines_ended(frames: list[bytes]) -> str | None:
    last = _load(frames[-1])
    done = _member(last, "done") is True and _member(last, "done_reason") == "stop"
    return None if done else "the last line does not say that it is done"


def _chat_text(document: Json) -> Json:
    return _member(_member(_first(_member(document, "choices")), "message"), "content")


def _openai_vectors(document: Json) -> Json:
    data = _member(document, "data")
    return [_member(item, "embedding") for item in data] if isinstance(data, list) else None


# The words of the benchmark's prompt, as the fake worker counts them.
PROMPT_WORDS = 3


def _text(chunks: int, texts: int) -> Json:
    return final_text(chunks)


def _words(chunks: int, texts: int) -> Json:
    return PROMPT_WORDS


def _vectors(chunks: int, texts: int) -> Json:
    return vectors(texts)


# Answers in one piece: what is expected, and where it stands in the document.
_WHOLE: dict[str, tuple[Callable[[int, int], Json], Callable[[Json], Json]]] = {
    "text": (_text, lambda document: _member(document, "text")),
    "chat": (_text, _chat_text),
    "count": (_words, lambda document: document),
    "worker-count": (_words, lambda document: _member(document, "count")),
    "vectors": (_vectors, lambda document: document),
    "worker-vectors": (_vectors, lambda document: _member(document, "embedding")),
    "openai-vectors": (_vectors, _openai_vectors),
}
FORMS = ("nul", "sse", "ndjson", *_WHOLE)


def new_reading(form: str, chunks: int, *, last: JsonObject | None = None, texts: int = 0) -> Reading:
    """How an answer of one of FORMS is read.

    `nul`: cumulative frames; `sse`: OpenAI's events; `ndjson`: lines with `response`; `text`, `chat`: one document of
    the worker's or OpenAI's kind; `count`: the number of words of the prompt; `vectors` of `texts` texts; the last two
    bare, or as the worker or OpenAI has them.
    """
    if form == "nul":
        return Cumulative(chunks, last or {})
    if form == "sse":
        return Incremental(chunks, b"\n\n", _event_delta, _events_ended)
    if form == "ndjson":
        return Incremental(chunks, b"\n", _line_delta, _lines_ended)
    expected, select = _WHOLE[form]
    return Whole(expected(chunks, texts), select)


def _load(data: bytes) -> Json:
    try:
        document: Json = orjson.loads(data)
    except ValueError:
        return None
    return document


def _member(document: Json, name: str) -> Json:
    return document.get(name) if isinstance(document, dict) else None


def _first(values: Json) -> Json:
    return values[0] if isinstance(values, list) and values else None


def _string(value: Json) -> str:
    return value if isinstance(value, str) else ""
