"""What is posted to a controller, read within bounds and checked field by field."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import orjson

from proxy.backends.control import brief, has_controls
from proxy.http import BodyError, Request
from proxy.types import Json, JsonObject


class Refusal(Exception):
    """The answer to a request that cannot be served: HTTP status, a word for counting, one sentence."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


class Bounds(NamedTuple):
    """bytes and seconds of a body; models: names in one registration; name: characters of a model's name."""

    bytes: int = 262_144
    seconds: float = 10.0
    models: int = 256
    name: int = 256


class Registration(NamedTuple):
    """What a worker posts to /register_worker, as far as it is used."""

    worker_name: str
    heartbeats: bool
    multimodal: bool


class Heartbeat(NamedTuple):
    """What a worker posts to /receive_heart_beat."""

    worker_name: str
    queue_length: int


async def read_object(request: Request, bounds: Bounds) -> JsonObject:
    """The JSON object in a request's body. Refusal when it is too large, too slow, or something else."""
    if (request.content_length or 0) > bounds.bytes:
        raise Refusal(413, "too_large", f"the body has {request.content_length} bytes, at most {bounds.bytes} are read")
    try:
        content = await asyncio.wait_for(_read(request, bounds.bytes), bounds.seconds)
    except asyncio.TimeoutError:
        raise Refusal(408, "slow", f"the body did not arrive within {bounds.seconds:g} s") from None
    except ConnectionError:
        raise asyncio.CancelledError from None  # the peer left; there is nobody to answer
    except BodyError as error:
        raise Refusal(400, "malformed", f"the body cannot be read: {error}") from None
    try:
        body: Json = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "malformed", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "malformed", f"the body is {brief(body)}, expected a JSON object")
    return body


def registration(body: JsonObject, bounds: Bounds) -> Registration:
    """Refusal with one sentence for the first field that is not as a FastChat worker (0.2.24 to 0.2.36) sends it."""
    name = _text(body, "worker_name")
    heartbeats = _flag(body, "check_heart_beat")
    status = body.get("worker_status")
    if isinstance(status, dict):
        _check_models(status.get("model_names"), bounds)
    elif status is not None:
        raise _wrong("worker_status", "an object or null", status)
    return Registration(name, heartbeats, "multimodal" in body and _flag(body, "multimodal"))


def heartbeat(body: JsonObject) -> Heartbeat:
    """Refusal as in `registration`."""
    queue = _field(body, "queue_length")
    if isinstance(queue, bool) or not isinstance(queue, (int, float)) or not 0 <= queue < 1e9:
        raise _wrong("queue_length", "a number of requests", queue)
    return Heartbeat(_text(body, "worker_name"), int(queue))


def model_name(value: Json, where: str, bounds: Bounds) -> str:
    """Refusal for what cannot be the name of a model here."""
    if not isinstance(value, str) or not value:
        raise _wrong(where, "the name of a model", value)
    if len(value) > bounds.name:
        raise Refusal(400, "malformed", f"{where}: a name of {len(value)} characters, at most {bounds.name} are taken")
    if "@" in value:
        text = f"{where}: {value[:80]!r} has an @, which DB-GPT keeps for itself; expected a name without it"
        raise Refusal(400, "malformed", text)
    if has_controls(value):
        raise Refusal(400, "malformed", f"{where}: {value[:80]!r} has control characters")
    return value


def _check_models(names: Json, bounds: Bounds) -> None:
    if not isinstance(names, list):
        raise _wrong("worker_status.model_names", "a list of names", names)
    if len(names) > bounds.models:
        text = f"worker_status.model_names: {len(names)} models, at most {bounds.models} are taken"
        raise Refusal(400, "malformed", text)
    for place, name in enumerate(names):
        model_name(name, f"worker_status.model_names[{place}]", bounds)


async def _read(request: Request, most: int) -> bytes:
    content = bytearray()
    while parts := await request.parts():
        content += b"".join(parts)
        if len(content) > most:
            raise Refusal(413, "too_large", f"the body has more than {most} bytes")
    return bytes(content)


def _field(body: JsonObject, name: str) -> Json:
    if name not in body:
        raise Refusal(400, "malformed", f"{name} is missing")
    return body[name]


def _text(body: JsonObject, name: str) -> str:
    value = _field(body, name)
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    return value


def _flag(body: JsonObject, name: str) -> bool:
    value = _field(body, name)
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def _wrong(where: str, expected: str, value: Json) -> Refusal:
    return Refusal(400, "malformed", f"{where} is {brief(value)}, expected {expected}")
