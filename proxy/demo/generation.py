"""One generation of the demonstration worker: its parameters read and its frames made as FastChat 0.2.36 does both.

The behaviour is that of `model_worker` with a Hugging Face model, seen on the wire: cumulative text, a frame for every
second token, token counts that start at nought, and a last frame that repeats the text and adds the finish reason.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from proxy.demo.language import answer, begun, text_of, tokens
from proxy.types import Json, JsonObject

INTERNAL_ERROR: Final = 50001
DEFAULT_MAX_NEW_TOKENS: Final = 256
_LIMIT: Final = re.compile(r"at most (\d{1,10}) new tokens")


class UnhandledError(Exception):
    """A parameter that the real worker does not survive: the stream breaks off, or HTTP 500, and its slot is lost."""


class RefusedError(ValueError):
    """A parameter that the real worker answers with an error frame."""


def _number(params: JsonObject, name: str, default: float) -> float:
    value = params.get(name, default)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError as error:
            raise RefusedError(f"{name} is {value!r}, which is not a number") from error
    if not isinstance(value, (int, float)):
        raise UnhandledError(f"{name} is {json.dumps(value)}, expected a number")
    return float(value)


def _stops(value: Json) -> list[str]:
    if not value:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, dict)):
        raise RefusedError(f"stop is {json.dumps(value)}, expected a string or a list of strings")
    strings = [entry for entry in value if isinstance(entry, str)]
    if len(strings) != len(value):
        raise UnhandledError("stop has an entry that is not a string")
    return strings


class Parameters(NamedTuple):
    """prompt: the text as it came; stop: strings that end the answer; echo: the prompt comes before the answer."""

    prompt: str
    temperature: float
    top_p: float
    max_new_tokens: int
    stop: list[str]
    echo: bool
    logprobs: bool

    @classmethod
    def read(cls, params: JsonObject) -> Parameters:
        """From the request's body. Raises `UnhandledError` and `RefusedError` where the real worker fails so."""
        prompt = params.get("prompt")
        if not isinstance(prompt, str):
            raise UnhandledError(f"prompt is {json.dumps(prompt)}, expected a string")
        if not isinstance(params.get("stop_token_ids") or [], list):
            raise UnhandledError("stop_token_ids is not a list")
        for name in ("repetition_penalty", "top_k"):
            _number(params, name, 1.0)
        limit = _number(params, "max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        if not 1 <= limit < 2**31:
            raise UnhandledError(f"max_new_tokens is {limit}, expected at least 1")
        return cls(
            prompt=prompt,
            temperature=_number(params, "temperature", 1.0),
            top_p=_number(params, "top_p", 1.0),
            max_new_tokens=int(limit),
            stop=_stops(params.get("stop")),
            echo=bool(params.get("echo", True)),
            logprobs=params.get("logprobs") is not None,
        )

    def phrase(self, max_new_tokens: int) -> str:
        """The settings in words, for an answer with this limit."""
        # Only their number: a stop string that is named in the answer would end it there.
        stop = f", stop strings: {len(self.stop)}" if self.stop else ""
        limit = f"at most {max_new_tokens} new tokens"
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, {limit}{stop}"


def _cut_at_stop(text: str, stops: list[str], start: int) -> tuple[str, bool, bool]:
    """The text before a stop string found at or after `start`; whether one was found; whether one may have begun."""
    for stop in stops:
        place = text.rfind(stop, start)
        if place != -1:
            return text[:place], True, False
        longest = min(len(text), len(stop) - 1)
        if any(stop.startswith(text[-size:]) for size in range(1, longest + 1)):
            return text, False, True
    return text, False, False


def _logprobs(pieces: list[bytes], prompt_count: int) -> JsonObject:
    """One entry for each token; the numbers are made up from the token's bytes. A prompt's first token has none."""
    texts = [text_of([piece]) for piece in pieces]
    offsets: list[Json] = []
    place = 0
    for text in texts:
        offsets.append(place)
        place += len(text)
    values: list[Json] = [-(zlib.crc32(piece) % 4096) / 512 for piece in pieces]
    if prompt_count:
        values[0] = None
    return {
        "text_offset": offsets,
        "tokens": list(texts),
        "token_logprobs": values,
        "top_logprobs": [{} for _ in pieces],
    }


def _rest(parameters: Parameters, model: str, words: int) -> str:
    """What there is to say behind the prompt: the answer to it, or the rest of the one that it ends with."""
    prompt, limit = parameters.prompt, parameters.max_new_tokens
    for place in begun(prompt, model):
        told = prompt[place:]
        # What the answer says of its limit is that of the request with which it began.
        said = _LIMIT.search(told)
        first = int(said[1]) if said else limit + len(tokens(told))
        whole = answer(prompt[:place], model, parameters.phrase(first), words)
        if whole.startswith(told):
            return whole[len(told) :]
    return answer(prompt, model, parameters.phrase(limit), words)


def _frame(text: str, prompt: int, completion: int, reason: str | None, logprobs: Json) -> JsonObject:
    usage: JsonObject = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return {"text": text, "error_code": 0, "usage": usage, "finish_reason": reason, "logprobs": logprobs}


def frames(
    parameters: Parameters, *, model: str, words: int, context_length: int, interval: int = 2
) -> Iterator[JsonObject]:
    """The frames of one answer, in order; the last one has the finish reason.

    interval: tokens for each frame. A prompt for which the context has no room loses its beginning, and nobody is told.
    """
    prompt = tokens(parameters.prompt)[-(context_length - parameters.max_new_tokens - 1) :]
    shown = prompt if parameters.echo else []
    start = len(parameters.prompt) if parameters.echo else 0
    whole = tokens(_rest(parameters, model, words))
    text, logprobs, index, stopped = "", None, 0, False
    for index in range(parameters.max_new_tokens):
        stopped = index >= len(whole)
        if not (index % interval == 0 or index == parameters.max_new_tokens - 1 or stopped):
            continue
        pieces = shown + whole[: index + 1]
        logprobs = _logprobs(pieces, len(shown)) if parameters.logprobs else None
        text, found, begun = _cut_at_stop(text_of(pieces), parameters.stop, start)
        stopped = stopped or found
        if not begun:
            yield _frame(text, len(prompt), index, None, logprobs)
        if stopped:
            break
    yield _frame(text, len(prompt), index, "stop" if stopped else "length", logprobs)


def encode(frame: JsonObject) -> bytes:
    """A frame on the wire: JSON in ASCII with a space after each separator, closed by a NUL."""
    return json.dumps(frame).encode() + b"\0"
