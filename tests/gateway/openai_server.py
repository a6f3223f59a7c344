"""A small server of OpenAI's API that says what it was told."""

from __future__ import annotations

from typing import ClassVar

import orjson
from aiohttp import web

from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeServer

SECRET = "sk-of-nobody"


class FakeOpenAI(FakeServer):
    """`asked` has the bodies of its chats and completions; key: what it wants with each call."""

    usage: ClassVar[JsonObject] = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}

    def __init__(self, *models: str) -> None:
        super().__init__()
        self.models = models
        self.asked: list[JsonObject] = []
        self.key = SECRET

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        if not request.path.endswith("/completions"):
            return await super()._handle(request)
        body = await request.json()
        self.asked.append(body)
        said = "<".join(message["content"] for message in body["messages"]) if "messages" in body else body["prompt"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece, finish in (("You said: ", None), (said, None), ("", "stop")):
            part = {"delta": {"content": piece}} if "messages" in body else {"text": piece}
            event: Json = {"choices": [{"index": 0, **part, "finish_reason": finish}]}
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
        await response.write(b"data: " + orjson.dumps({"choices": [], "usage": self.usage}) + b"\n\ndata: [DONE]\n\n")
        return response

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": model, "max_model_len": 4096} for model in self.models]}
        if path == "/v1/embeddings":
            texts = body["input"]
            assert isinstance(texts, list)
            data: Json = [{"index": index, "embedding": [float(index), 0.5]} for index in range(len(texts))]
            return {"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        raise web.HTTPNotFound


def declared(server: FakeOpenAI, **more: Json) -> JsonObject:
    """Its entry in the settings."""
    return {"kind": "openai", "url": server.url, "key": SECRET, "probe_seconds": 600.0, **more}
