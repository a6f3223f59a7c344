"""The operator's pages: metrics, health, readiness and state. They belong on an address that clients do not reach."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from aiohttp import web

from proxy.telemetry.metrics import CONTENT_TYPE, Metrics
from proxy.types import JsonObject

_NO_STORE = {"Cache-Control": "no-store"}


def admin_app(
    metrics: Metrics, *, ready: Callable[[], tuple[bool, str]], status: Callable[[], JsonObject]
) -> web.Application:
    """GET /metrics, /healthz, /readyz and /status.

    /metrics: text format 0.0.4, rendered off the event loop; /healthz: 200 as long as the event loop runs;
    /readyz: 200 or 503 as `ready()` says, with its sentence as the body; /status: `status()` as JSON.
    """

    async def serve_metrics(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.scrape(), headers={"Content-Type": CONTENT_TYPE, **_NO_STORE})

    async def serve_health(_: web.Request) -> web.Response:
        return web.Response(text="alive\n", headers=_NO_STORE)

    async def serve_readiness(_: web.Request) -> web.Response:
        is_ready, reason = ready()
        return web.Response(status=200 if is_ready else 503, text=f"{reason}\n", headers=_NO_STORE)

    async def serve_status(_: web.Request) -> web.Response:
        body = orjson.dumps(status(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return web.Response(body=body, content_type="application/json", headers=_NO_STORE)

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", serve_metrics),
            web.get("/healthz", serve_health),
            web.get("/readyz", serve_readiness),
            web.get("/status", serve_status),
        ]
    )
    return app
