"""What an OpenAI server replies to a question, in a form that two servers can be compared in."""

from __future__ import annotations

import base64
import http.client
import json
import re
import struct
from typing import cast
from urllib.parse import urlsplit

from proxy.types import Json, JsonObject
from tests.interop.openai_questions import Question
from tests.interop.wire import SECONDS, decoded

DIGITS = 3
"""Of a vector's numbers: how many texts are computed together shows in the last ones."""


def reply_of(base: str, question: Question) -> JsonObject:
    """status, media type and body of the reply; a stream's body is the list of its events, without replacement
    characters, which FastChat's server leaves out there. Ids and times are only checked to be there, and numbers are
    rounded.
    """
    parts = urlsplit(base)
    body = question.body
    data = body if isinstance(body, bytes) else None if question.method == "GET" else json.dumps(body).encode()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request(question.method, question.path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        media = (response.getheader("content-type") or "").partition(";")[0]
        text = response.read().decode()
    finally:
        connection.close()
    found = visible(events_of(text)) if media == "text/event-stream" else decoded(text)
    return {"status": response.status, "type": media, "body": comparable(found)}


def events_of(text: str) -> list[Json]:
    """The data of each event, ``[DONE]`` among them; an assertion error shows a line that is none of an event."""
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines), lines
    return [decoded(line[len("data: ") :]) for line in lines]


def visible(events: list[Json]) -> list[Json]:
    """The events as they are without replacement characters, and without those that then have nothing to tell."""
    found: list[Json] = []
    for event in json.loads(json.dumps(events).replace("\\ufffd", "")):
        choice = event["choices"][0] if isinstance(event, dict) and event["choices"] else {}
        said = choice.get("text") or choice.get("delta", {}).pop("content", "")
        if said and "delta" in choice:
            choice["delta"]["content"] = said
        if said or choice.get("delta") or choice.get("finish_reason", "") is not None:
            found.append(event)
    return found


def comparable(value: Json) -> Json:
    """The value with an id's kind for the id, a word for a time, and rounded numbers for vectors also in base64."""
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if isinstance(value, float):
        return round(value, DIGITS)
    if not isinstance(value, dict):
        return value
    found: JsonObject = {key: comparable(each) for key, each in value.items()}
    if isinstance(value.get("id"), str):
        found["id"] = re.sub(r"-[0-9A-Za-z]{22,32}$", "-*", str(value["id"]))
    if "created" in value:
        found["created"] = "a time" if isinstance(value["created"], int) else value["created"]
    if isinstance(value.get("embedding"), str):
        data = base64.b64decode(str(value["embedding"]))
        numbers = struct.unpack(f"<{len(data) // 4}f", data)
        found["embedding"] = cast("Json", ["base64", *(round(number, DIGITS) for number in numbers)])
    return found
