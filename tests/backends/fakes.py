"""Small stand-ins on loopback for the programs that the gateway talks to, with the faults that their users report."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from proxy.types import Json, JsonObject


async def eventually(check: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Wait until `check` holds; fails with its last value when it never does."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        await asyncio.sleep(0.01)


class FakeServer:
    """A server that can be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[tuple[str, JsonObject]] = []
        self.hang: set[str] = set()  # paths that never answer
        self.replies: dict[str, web.Response] = {}  # what is answered instead, by path
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, path: str) -> int:
        return sum(called == path for called, _ in self.calls)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else dict(request.query)
        self.calls.append((request.path, body))
        if request.path in self.hang:
            await asyncio.sleep(60)
        if request.path in self.replies:
            reply = self.replies[request.path]
            return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        try:
            return web.json_response(self.answer(request.method, request.path, body))
        except KeyError:
            return web.Response(status=500, text="Internal Server Error")

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        """The body of a 200; KeyError makes a 500."""
        raise web.HTTPNotFound


@dataclass
class FakeModel:
    context_length: int = 2048
    template: str = "vicuna"
    broken: bool = False
    vector: list[float] | None = field(default_factory=lambda: [0.5, 0.5])


class FakeWorker(FakeServer):
    """Answers as a FastChat worker does; `embeddings` off is a worker program without that call."""

    def __init__(self, **models: FakeModel) -> None:
        super().__init__()
        self.models = models
        self.embeddings = True
        self.tokenizer = True
        self.queue_length = 3

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if path == "/worker_get_status":
            return {"model_names": [*self.models], "speed": 1, "queue_length": self.queue_length}
        model = self.models[str(body["model"])]
        if model.broken:
            raise KeyError
        if path == "/worker_get_conv_template":
            return {"conv": {"name": model.template}}
        if path == "/model_details":
            return {"context_length": model.context_length}
        if path == "/count_token":
            return {"count": 2 if self.tokenizer else 0, "error_code": 0}
        if path == "/worker_get_embeddings" and self.embeddings:
            if not self.tokenizer:
                raise KeyError
            if model.vector is None:
                return {"text": "**NETWORK ERROR**\n\n(no vectors)", "error_code": 50001}
            return {"embedding": [[*model.vector]], "token_num": 2}
        raise web.HTTPNotFound


class FakeFinder(FakeServer):
    """A controller that knows which worker serves what and names them in turn, as the shortest queue does."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, list[str]] = {}
        self.for_images: list[str] | None = None  # None: it is too old to tell
        self._turn = itertools.count()

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if path == "/list_models":
            return {"models": [*self.known]}
        if path == "/list_multimodal_models" and self.for_images is not None:
            return {"models": [*self.for_images]}
        if path == "/get_worker_address":
            addresses = self.known.get(str(body["model"]), [])
            return {"address": addresses[next(self._turn) % len(addresses)] if addresses else ""}
        raise web.HTTPNotFound


class FakeRegistry(FakeServer):
    """A registry of model instances; `rows` is lost at will."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[str, str, int], JsonObject] = {}
        self.refuse_keys: set[str] = set()

    @property
    def keys(self) -> set[str]:
        return {key for key, _, _ in self.rows}

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if path == "/api/health":
            return {"status": "ok"}
        if method == "GET":
            return [*self.rows.values()]
        where = (str(body["model_name"]), str(body["host"]), int(str(body["port"])))
        if where[0] in self.refuse_keys:
            raise KeyError
        if method == "DELETE":
            assert body["remove_from_registry"] == "true"
            self.rows.pop(where, None)
        else:
            self.rows[where] = {**body, "healthy": True}
        return True


class FakeController(FakeServer):
    """Knows its workers as FastChat's controller (0.2.36) does; `models` is the list of each."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, list[str]] = {}
        self.queues: dict[str, int] = {}

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if (method, path) == ("GET", "/test_connection"):
            return "success"
        name = str(body.get("worker_name"))
        if path == "/register_worker":
            status = body["worker_status"]
            assert isinstance(status, dict)
            assert body["check_heart_beat"] is True
            names = status["model_names"]
            assert isinstance(names, list)
            self.models[name] = [str(model) for model in names]
            return None
        if path == "/receive_heart_beat":
            self.queues[name] = int(str(body["queue_length"]))
            return {"exist": name in self.models}
        raise web.HTTPNotFound


class DbgptWorker(FakeServer):
    """Tells the metadata of the models that it chats with, as DB-GPT 0.8.2 does."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.lengths = lengths

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if (method, path) == ("GET", "/api/worker/parameter/descriptions"):
            return []
        if (method, path) == ("POST", "/api/worker/model_metadata"):
            return {"model": body["model"], "context_length": self.lengths[str(body["model"])], "chat_model": True}
        raise web.HTTPNotFound

    def row(self, key: str, *, healthy: bool = True) -> JsonObject:
        return {"model_name": key, "host": "127.0.0.1", "port": self.port, "healthy": healthy}
