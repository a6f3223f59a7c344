"""What DB-GPT's client of a remote worker does with an answer, and what the versions 0.5.10 to 0.8.2 accept in it.

A connection of its own for each call; a stream's raw bytes cut at each NUL, empty pieces skipped, an unterminated end
dropped, its status never looked at; elsewhere any status but 200 and 201 is an error that quotes the body.
"""

from __future__ import annotations

import json

from proxy.settings import Address
from proxy.types import Json, JsonObject
from tests.gateway.client import Reply, call, connected, request_bytes

PREFIX = "/api/worker"
# What the client sends with each call; it cannot decode the codings that it offers.
HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "python-httpx/0.27.2"}
OUTPUT_KEYS = {"text", "error_code", "incremental", "model_context", "finish_reason", "usage", "metrics"}
METADATA_KEYS = {"model", "context_length", "chat_model", "metadata", "ext_metadata"}
EXT_METADATA_KEYS = {"prompt_roles", "prompt_sep", "prompt_chat_template"}


class FailedError(Exception):
    """The client's one error; its text is the whole body."""


class RemoteWorker:
    """The calls of one model's clients."""

    def __init__(self, address: Address, model: str) -> None:
        self.address = address
        self.model = model

    async def generate_stream(self, params: JsonObject) -> list[JsonObject]:
        """The outputs of a stream."""
        async with connected(self.address) as connection:
            body: JsonObject = {"model": self.model, **params}
            await connection.send(request_bytes("POST", f"{PREFIX}/generate_stream", body, HEADERS))
            head = await connection.head()
            assert "content-encoding" not in head.headers
            held = b"".join([piece async for piece in connection.pieces(head)])
            *pieces, _dropped = held.split(b"\0")
            return [output(json.loads(piece)) for piece in pieces if piece]

    async def generate(self, params: JsonObject) -> JsonObject:
        return output(await self._post("generate", {"model": self.model, **params}))

    async def embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors = await self._post("embeddings", {"model": self.model, "input": [*texts], "span_id": "empty_span"})
        assert isinstance(vectors, list), vectors
        found: list[list[float]] = []
        for vector in vectors:
            assert isinstance(vector, list), vector
            found.append([number for number in vector if isinstance(number, float)])
            assert len(found[-1]) == len(vector)
        return found

    async def count_token(self, prompt: str) -> int:
        """No model goes with it: the client sends none."""
        count = await self._post("count_token", {"prompt": prompt})
        assert type(count) is int, count
        return count

    async def model_metadata(self) -> JsonObject:
        document = await self._post("model_metadata", {"model": self.model, "span_id": "empty_span"})
        assert isinstance(document, dict), document
        assert document.keys() <= METADATA_KEYS, document
        ext = document.get("ext_metadata")
        assert isinstance(ext, dict), document
        assert ext.keys() <= EXT_METADATA_KEYS, document
        assert type(document["context_length"]) is int
        return document

    async def call(self, method: str, path: str, body: Json = None) -> Reply:
        """Any other call of the worker API, as it is answered."""
        return await call(self.address, method, PREFIX + path, body, **{k.lower(): v for k, v in HEADERS.items()})

    async def _post(self, path: str, body: JsonObject) -> Json:
        reply = await self.call("POST", f"/{path}", body)
        assert "content-encoding" not in reply.headers
        if reply.status not in (200, 201):
            raise FailedError(f"Request to URL failed, error: {reply.body.decode()}")
        return reply.json


def output(value: Json) -> JsonObject:
    """A model's output, if every version of the client takes it."""
    assert isinstance(value, dict), value
    assert value.keys() <= OUTPUT_KEYS, value
    assert isinstance(value.get("text"), str), value
    assert type(value.get("error_code")) is int, value
    assert value.get("finish_reason") in (None, "stop", "length"), value
    usage = value.get("usage")
    if usage is not None:
        assert isinstance(usage, dict), value
        assert usage, "an empty usage is dropped by the API server"
        assert all(type(usage[name]) is int for name in ("prompt_tokens", "total_tokens")), value
    return value
