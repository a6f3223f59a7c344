"""The operator's pages: metrics, health, readiness, state, and the few things that an operator does by hand.

They belong on an address that clients do not reach.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import orjson
from aiohttp import web

from proxy.recording.recorder import RecordingRefused
from proxy.telemetry.metrics import CONTENT_TYPE
from proxy.types import Json, JsonObject

_NO_STORE = {"Cache-Control": "no-store"}
_ID_SHOWN = 80


class Scraped(Protocol):
    """What makes the page of the metrics, of one process or of several."""

    async def scrape(self) -> bytes:
        """The page in text format 0.0.4."""


class Operated(Protocol):
    """What the pages show and change. Documents are JSON."""

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be answered, and why, in one sentence."""

    async def status(self) -> JsonObject:
        """Everything at a glance."""

    def workers(self) -> list[Json]:
        """Each worker."""

    def models(self) -> list[Json]:
        """Each model."""

    async def rules_in_force(self, *, never: bool | None = None) -> JsonObject:
        """The rules with what each did since they were loaded, and how the last reload ended. never: only those that
        took no request since then, or only those that did.
        """

    def drain(self, worker: str) -> JsonObject | None:
        """No new requests for the worker with this id; its document, None where there is no such worker."""

    def enable(self, worker: str) -> JsonObject | None:
        """Requests for it again."""

    async def reload(self, why: str) -> tuple[bool, JsonObject]:
        """Read settings and rules again; whether they are in force, and the result."""

    def recording(self) -> JsonObject:
        """The recording under way, and the last one."""

    async def record(self, asked: Json) -> JsonObject:
        """Begin one. RecordingRefused where that cannot be done."""

    async def end_recording(self) -> JsonObject:
        """End the one under way and write it to its end. RecordingRefused where there is none."""


def admin_app(metrics: Scraped, operated: Operated) -> web.Application:
    """GET /metrics, /healthz, /readyz, /status, /workers, /models, /rules;
    POST /workers/ID/drain, /workers/ID/enable, /reload, GET, POST and DELETE /record.

    /metrics: text format 0.0.4, rendered off the event loop; /healthz: 200 as long as the event loop runs;
    /readyz: 200 or 503 with a sentence; /reload: 200 or 409 with the mistakes; the rest: JSON.
    """
    app = web.Application(middlewares=[_no_strange_pages])
    app.add_routes([web.get("/healthz", _health), web.get("/metrics", _metrics(metrics)), *_pages(operated)])
    app.add_routes(
        [
            web.post("/workers/{id}/drain", _on_worker(operated.drain)),
            web.post("/workers/{id}/enable", _on_worker(operated.enable)),
            web.post("/reload", _reload(operated)),
            *_recording(operated),
        ]
    )
    return app


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _no_strange_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page in an operator's browser can post here without being allowed to read the answer; it sends its origin."""
    if request.method not in {"GET", "HEAD"} and "Origin" in request.headers:
        return _json({"error": "refused: this request was made by a web page"}, 403)
    return await handler(request)


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="alive\n", headers=_NO_STORE)


def _metrics(metrics: Scraped) -> Handler:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.scrape(), headers={"Content-Type": CONTENT_TYPE, **_NO_STORE})

    return serve


def _pages(operated: Operated) -> list[web.RouteDef]:
    def page(document: Callable[[], Json]) -> Handler:
        async def serve(_: web.Request) -> web.Response:
            return _json(document())

        return serve

    async def readiness(_: web.Request) -> web.Response:
        is_ready, reason = operated.ready()
        return web.Response(status=200 if is_ready else 503, text=f"{reason}\n", headers=_NO_STORE)

    async def status(_: web.Request) -> web.Response:
        return _json(await operated.status())

    async def rules(request: web.Request) -> web.Response:
        asked = request.query.get("never")
        if asked is not None and asked not in {"true", "false"}:
            return _json({"error": f"never={asked[:_ID_SHOWN]}: expected true or false"}, 400)
        return _json(await operated.rules_in_force(never=None if asked is None else asked == "true"))

    return [
        web.get("/readyz", readiness),
        web.get("/status", status),
        web.get("/workers", page(operated.workers)),
        web.get("/models", page(operated.models)),
        web.get("/rules", rules),
    ]


def _on_worker(act: Callable[[str], JsonObject | None]) -> Handler:
    async def serve(request: web.Request) -> web.Response:
        worker = request.match_info["id"]
        document = act(worker)
        if document is None:
            return _json({"error": f"there is no worker '{worker[:_ID_SHOWN]}'; GET /workers has their ids"}, 404)
        return _json(document)

    return serve


def _reload(operated: Operated) -> Handler:
    async def serve(_: web.Request) -> web.Response:
        ok, document = await operated.reload("POST /reload")
        return _json(document, 200 if ok else 409)

    return serve


def _recording(operated: Operated) -> list[web.RouteDef]:
    async def state(_: web.Request) -> web.Response:
        return _json(operated.recording())

    async def begin(request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            return _json(await operated.record(orjson.loads(raw) if raw else {}))
        except orjson.JSONDecodeError as error:
            return _json({"error": f"the body is not JSON: {error}"}, 400)
        except RecordingRefused as problem:
            return _json({"error": str(problem)}, 400 if problem.mistake else 409)

    async def end(_: web.Request) -> web.Response:
        try:
            return _json(await operated.end_recording())
        except RecordingRefused as problem:
            return _json({"error": str(problem)}, 409)

    return [web.get("/record", state), web.post("/record", begin), web.delete("/record", end)]


def _json(document: Json, status: int = 200) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(status=status, body=body, content_type="application/json", headers=_NO_STORE)
