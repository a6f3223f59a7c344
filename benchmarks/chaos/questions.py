"""What is asked, what a whole answer must be, and what came instead."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from proxy.demo.generation import Parameters, frames
from proxy.demo.worker import SYSTEM_SENTENCE
from proxy.types import Json, JsonObject

MODEL = "chaos-chat"
WORDS = 25
CHUNKS_PER_SECOND = 120.0
CONTEXT_LENGTH = 4096
# How the gateway says to DB-GPT that there is no answer: the worker failed, was not there, took too long; busy.
ERROR_CODES = frozenset({50001, 50005, 50006, 42903})
# A few clients go away: while their request waits, is tried again, or is being answered.
LEAVING = 0.05
LEAVE_SECONDS = 2.0
_TEXTS = ("Hello, gateway", "你好，世界", "How far is the moon? 🌙", "Zähle bis fünf")

# right: whole and as expected; failed: an error of the dialect, before anything was shown; broken: one after that;
# left: the client did not wait for the end; wrong: anything else.
Kind = Literal["right", "failed", "broken", "left", "wrong"]


@dataclass(frozen=True)
class Question:
    """One request of the worker API. leaves: seconds after which its client goes away; None: it stays."""

    number: int
    stream: bool
    content: str
    max_new_tokens: int
    leaves: float | None = None

    @property
    def body(self) -> JsonObject:
        message: JsonObject = {"role": "human", "content": self.content}
        return {"model": MODEL, "messages": [message], "temperature": 0.5, "max_new_tokens": self.max_new_tokens}

    def expected(self) -> str:
        """The demonstration worker's whole answer, which depends on nothing but the request."""
        asked: JsonObject = {
            "prompt": f"{SYSTEM_SENTENCE} USER: {self.content} ASSISTANT:",
            "temperature": 0.5,
            "max_new_tokens": self.max_new_tokens,
            "echo": False,
        }
        text: Json = None
        for frame in frames(Parameters.read(asked), model=MODEL, words=WORDS, context_length=CONTEXT_LENGTH):
            text = frame["text"]
        assert isinstance(text, str)
        return text


@dataclass(frozen=True)
class Verdict:
    """How a request ended. detail: the error's text, or what was wrong; code: of the error."""

    kind: Kind
    detail: str = ""
    code: int = 0


def questions(count: int, rng: random.Random) -> list[Question]:
    """Streams and whole answers in equal parts; no two alike, some cut short by the limit of new tokens."""
    return [
        Question(
            number,
            stream=rng.random() < 0.5,
            content=f"{rng.choice(_TEXTS)} ({number})",
            max_new_tokens=rng.choice((24, 300, 300)),
            leaves=rng.uniform(0.0, LEAVE_SECONDS) if rng.random() < LEAVING else None,
        )
        for number in range(count)
    ]


def judge_answer(body: bytes, expected: str) -> Verdict:
    """A whole answer of `generate`."""
    document = _object(body)
    if document is None:
        return Verdict("wrong", f"not a JSON object: {body[:80]!r}")
    if document.get("error_code") != 0:
        return _error(document, "failed")
    if document.get("text") != expected:
        return Verdict("wrong", f"another text: {str(document.get('text'))[-80:]!r} instead of {expected[-80:]!r}")
    return Verdict("right")


def judge_stream(body: bytes, expected: str) -> Verdict:
    """The body of `generate_stream`, which ended in order."""
    *closed, rest = body.split(b"\0")
    if rest:
        return Verdict("wrong", f"the stream ends within a frame: {rest[:80]!r}")
    shown, last = 0, None
    for number, frame in enumerate(closed):
        document = _object(frame)
        if document is None:
            return Verdict("wrong", f"frame {number} is not a JSON object: {frame[:80]!r}")
        if last is not None and (last.get("error_code") != 0 or last.get("finish_reason")):
            return Verdict("wrong", f"frame {number} comes after the end: {frame[:80]!r}")
        last = document
        if document.get("error_code") == 0:
            shown += 1
            if not _begins(document.get("text"), expected):
                return Verdict("wrong", f"frame {number} has another text: {str(document.get('text'))[-80:]!r}")
    if last is None:
        return Verdict("wrong", "an empty stream")
    if last.get("error_code") != 0:
        return _error(last, "broken" if shown else "failed")
    if last.get("text") != expected or not last.get("finish_reason"):
        return Verdict("wrong", f"the stream ends unfinished: {str(last)[:160]}")
    return Verdict("right")


JUDGES: dict[bool, Callable[[bytes, str], Verdict]] = {True: judge_stream, False: judge_answer}


def _error(document: JsonObject, kind: Literal["failed", "broken"]) -> Verdict:
    code, text = document.get("error_code"), document.get("text")
    if not isinstance(code, int) or code not in ERROR_CODES or not isinstance(text, str) or not text:
        return Verdict("wrong", f"not an error of the dialect: {str(document)[:160]}")
    return Verdict(kind, text, code)


def _begins(text: Json, expected: str) -> bool:
    # A character of which only a part has come is U+FFFD until the rest is there.
    return isinstance(text, str) and expected.startswith(text.rstrip("\ufffd"))


def _object(data: bytes) -> JsonObject | None:
    try:
        document: Json = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
