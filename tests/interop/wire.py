"""A small HTTP client for the tests: JSON in and out, server-sent events, NUL-separated frames, and leaving early.

Blocking and without a pool on purpose: what a test sees is one connection, closed exactly when it says so.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

from proxy.types import Json, JsonObject

SECONDS = 60.0


class HttpError(Exception):
    """An answer with another status than 200; ``status`` and ``body`` (decoded JSON, or the text)."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status
        self.body = body


def send(method: str, url: str, body: Json = None, seconds: float = SECONDS) -> http.client.HTTPConnection:
    """A connection with the request sent and nothing read; close it to leave before the first byte."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    data = None if method == "GET" else json.dumps(body).encode()
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method, path, data, {"Content-Type": "application/json"})
    return connection


class Reply:
    """An open answer: read it whole, frame by frame, or close it in mid-stream."""

    def __init__(self, method: str, url: str, body: Json = None, seconds: float = SECONDS) -> None:
        self.connection = send(method, url, body, seconds)
        self.response = self.connection.getresponse()
        self.status = self.response.status

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(self) -> str:
        return self.response.read().decode()

    def pieces(self, separator: bytes) -> Iterator[bytes]:
        """What stands before each separator, as it arrives; an unterminated end is an assertion error."""
        held = b""
        while data := self.response.read1(65536):
            held += data
            while separator in held:
                piece, held = held.split(separator, 1)
                if piece:
                    yield piece
        assert not held, f"the stream ends within a frame: {held!r}"

    def close(self) -> None:
        """Drop the connection at once, whatever is still to come."""
        self.response.close()
        self.connection.close()


def decoded(text: str) -> Json:
    """The text as JSON, or itself where it is none."""
    try:
        return cast("Json", json.loads(text))
    except ValueError:
        return text


def request_json(method: str, url: str, body: Json = None, seconds: float = SECONDS) -> Json:
    """The decoded body of a 200 answer; raises HttpError on any other, OSError where there is nobody."""
    with Reply(method, url, body, seconds) as reply:
        text = reply.text()
        if reply.status != 200:
            raise HttpError(reply.status, decoded(text))
        return decoded(text)


def get_json(url: str) -> Json:
    return request_json("GET", url)


def post_json(url: str, body: Json, seconds: float = SECONDS) -> Json:
    return request_json("POST", url, body, seconds)


def post_object(url: str, body: Json) -> JsonObject:
    """The answer, which must be an object."""
    answer = post_json(url, body)
    assert isinstance(answer, dict), answer
    return answer


def post_events(url: str, body: Json) -> list[JsonObject]:
    """The JSON of each server-sent event; asserts the content type, and ``[DONE]`` as the last event and only there."""
    with Reply("POST", url, body) as reply:
        assert reply.status == 200, reply.text()
        assert (reply.response.getheader("content-type") or "").startswith("text/event-stream")
        lines = [piece.decode() for piece in reply.pieces(b"\n\n")]
    assert all(line.startswith("data: ") for line in lines), lines
    payloads = [line[len("data: ") :] for line in lines]
    assert payloads[-1:] == ["[DONE]"], payloads[-3:]
    events = [json.loads(payload) for payload in payloads[:-1]]
    assert all(isinstance(event, dict) for event in events), events
    return events


def post_frames(url: str, body: Json) -> list[JsonObject]:
    """The JSON of each NUL-terminated frame; asserts status 200 and that nothing follows the last NUL."""
    with Reply("POST", url, body) as reply:
        assert reply.status == 200, reply.text()
        frames = [json.loads(piece) for piece in reply.pieces(b"\0")]
    assert all(isinstance(frame, dict) for frame in frames), frames
    return frames


def at(value: Json, *path: str | int) -> Json:
    """What is at a path of keys and indexes; an assertion error shows the whole value where there is nothing."""
    found = value
    for step in path:
        missing = f"no {step!r} of {path!r} in {value!r}"
        if isinstance(step, str):
            assert isinstance(found, dict), missing
            assert step in found, missing
            found = found[step]
        else:
            assert isinstance(found, list), missing
            assert step < len(found), missing
            found = found[step]
    return found


def text_at(value: Json, *path: str | int) -> str:
    """The string at a path."""
    found = at(value, *path)
    assert isinstance(found, str), f"{path!r} is {found!r}, expected a string"
    return found


def int_at(value: Json, *path: str | int) -> int:
    """The integer at a path."""
    found = at(value, *path)
    assert isinstance(found, int), f"{path!r} is {found!r}, expected an integer"
    return found


def list_at(value: Json, *path: str | int) -> list[Json]:
    """The list at a path."""
    found = at(value, *path)
    assert isinstance(found, list), f"{path!r} is {found!r}, expected a list"
    return found
