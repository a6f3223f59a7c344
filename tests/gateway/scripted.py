"""A worker that answers every control call as it should and does to the other calls whatever a test's script says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeAlias

from proxy.types import Json, JsonObject
from tests.hostile import Peer, Request, Visit, head, peer, response

Part: TypeAlias = Callable[[Visit, Request], Awaitable[None]]

STREAM = "/worker_generate_stream"
EMBEDDINGS = "/worker_get_embeddings"
COUNT = "/count_token"
CONVERSATION: JsonObject = {
    "name": "plain", "system_template": "{system_message}", "system_message": "Go.", "roles": ["USER", "ASSISTANT"],
    "messages": [], "offset": 0, "sep_style": 2, "sep": " ", "sep2": "</s>", "stop_str": None, "stop_token_ids": None,
}  # fmt: skip


def frame(text: str, finish: str | None = None, **more: Json) -> bytes:
    """A worker's frame on the wire."""
    usage = {"prompt_tokens": 3, "completion_tokens": len(text), "total_tokens": 3 + len(text)}
    document = {"text": text, "error_code": 0, "usage": usage, "finish_reason": finish, **more}
    return json.dumps(document).encode() + b"\0"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


STREAM_HEAD = head(headers=["Transfer-Encoding: chunked"])
LAST_CHUNK = b"0\r\n\r\n"
GOOD = STREAM_HEAD + chunk(frame("Hel")) + chunk(frame("Hello")) + chunk(frame("Hello!", "stop")) + LAST_CHUNK


def json_response(value: Json, status: str = "200 OK") -> bytes:
    return response(json.dumps(value).encode(), status, ["Content-Type: application/json"])


def sends(*pieces: bytes) -> Part:
    """The answer is these bytes; the connection is kept, for a further request."""

    async def part(visit: Visit, _: Request) -> None:
        await visit.send(*pieces)

    return part


def then_gone(*pieces: bytes) -> Part:
    """These bytes and nothing more, on a connection that stays open until the gateway closes it."""

    async def part(visit: Visit, _: Request) -> None:
        await visit.send(*pieces)
        await visit.gone()
        raise ConnectionResetError

    return part


def then_closed(*pieces: bytes) -> Part:
    """These bytes, then the worker closes in order."""

    async def part(visit: Visit, _: Request) -> None:
        await visit.send(*pieces)
        raise ConnectionResetError

    return part


def then_reset(*pieces: bytes) -> Part:
    """These bytes, then a TCP reset once the gateway has read them."""

    async def part(visit: Visit, _: Request) -> None:
        for piece in pieces:
            await visit.send(piece)
        if pieces:
            await asyncio.sleep(0.02)  # a reset discards what the gateway has not read yet
        visit.reset()
        raise ConnectionResetError

    return part


def _control(models: list[str], request: Request) -> bytes:
    if request.path == "/worker_get_status":
        return json_response({"model_names": [*models], "speed": 1, "queue_length": 0})
    if request.path == "/worker_get_conv_template":
        return json_response({"conv": CONVERSATION})
    if request.path == "/model_details":
        return json_response({"context_length": 4096})
    if request.path == COUNT:
        return json_response({"count": len(json.loads(request.body)["prompt"].split()) or 1, "error_code": 0})
    if request.path == EMBEDDINGS:
        texts = json.loads(request.body)["input"]
        return json_response({"embedding": [[float(len(text))] for text in texts], "token_num": len(texts)})
    if request.path == STREAM:
        return GOOD
    return response(b"no such path", "404 Not Found")


class ScriptedWorker:
    """`parts` by path; a path without one is answered well. `struck` holds the bodies that met a part."""

    def __init__(self, this: Peer, parts: Mapping[str, Part]) -> None:
        self.peer = this
        self.parts = dict(parts)
        self.struck: list[JsonObject] = []
        self.armed = False

    @property
    def address(self) -> str:
        return self.peer.url

    def arm(self) -> None:
        """From now on the parts are in force; before that, the gateway's first look meets a good worker."""
        self.armed = True

    def bodies(self, path: str) -> list[JsonObject]:
        """The bodies that came to a path, in order."""
        return [json.loads(request.body) for request in self.peer.requests if request.path == path]


@contextlib.asynccontextmanager
async def scripted(parts: Mapping[str, Part], models: list[str] | None = None) -> AsyncIterator[ScriptedWorker]:
    """A running one."""
    names = models if models is not None else ["m"]
    worker: ScriptedWorker

    async def script(visit: Visit) -> None:
        while True:
            request = await visit.request()
            part = worker.parts.get(request.path) if worker.armed else None
            if part is None:
                await visit.send(_control(names, request))
            else:
                worker.struck.append(json.loads(request.body))
                await part(visit, request)

    async with peer(script) as this:
        worker = ScriptedWorker(this, parts)
        yield worker
