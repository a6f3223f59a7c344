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
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.port = server.sockets[0].getsockname()[1]

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
