"""How the load client reads the bytes of an answer: chunks counted as they come, the text when it is complete."""

from __future__ import annotations

from typing import Protocol

import orjson

from proxy.types import Json


class Reading(Protocol):
    """One answer being read."""

    def feed(self, data: bytes) -> int:
        """Take body bytes at any split; returns how many chunks they completed."""

    def text(self) -> str | None:
        """The answer's text, None when its last frame is not what it should be."""


class Cumulative:
    """Frames that each repeat the whole text so far: only the last is kept, as together they are quadratic in size."""

    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._tail = b""
        self._last = b""

    def feed(self, data: bytes) -> int:
        if self._tail:
            data = self._tail + data
        separator = self._separator
        end = data.rfind(separator)
        if end < 0:
            self._tail = data
            return 0
        begin = data.rfind(separator, 0, end)
        self._last = data[begin + len(separator) if begin >= 0 else 0 : end]
        self._tail = data[end + len(separator) :]
        return data.count(separator)

    def text(self) -> str | None:
        return None if self._tail else _string(_member(_load(self._last), "text"))


class OpenAIEvents:
    """Server-sent events of an OpenAI chat completion: the text is the sum of the deltas, and [DONE] is not a chunk."""

    def __init__(self) -> None:
        self._tail = b""
        self._blocks: list[bytes] = []

    def feed(self, data: bytes) -> int:
        data = self._tail + data
        end = data.rfind(b"\n\n")
        if end < 0:
            self._tail = data
            return 0
        self._tail = data[end + 2 :]
        self._blocks.append(data[:end])
        return data.count(b"\n\n") - data.count(b"data: [DONE]\n\n")

    def text(self) -> str | None:
        events = b"\n\n".join(self._blocks).split(b"\n\n")
        if self._tail or events[-1] != b"data: [DONE]":
            return None
        pieces: list[str] = []
        for event in events[:-1]:
            choices = _member(_load(event.removeprefix(b"data: ")), "choices")
            choice = choices[0] if isinstance(choices, list) and choices else None
            pieces.append(_string(_member(_member(choice, "delta"), "content")) or "")
        return "".join(pieces)


_CUMULATIVE = {"nul": b"\0", "ndjson": b"\n"}
FRAMINGS = (*_CUMULATIVE, "sse")


def new_reading(framing: str) -> Reading:
    """A reading of `nul`, `ndjson` (both cumulative) or `sse` (incremental)."""
    return OpenAIEvents() if framing == "sse" else Cumulative(_CUMULATIVE[framing])


def _load(data: bytes) -> Json:
    try:
        document: Json = orjson.loads(data)
    except ValueError:
        return None
    return document


def _member(document: Json, name: str) -> Json:
    return document.get(name) if isinstance(document, dict) else None


def _string(value: Json) -> str | None:
    return value if isinstance(value, str) else None
