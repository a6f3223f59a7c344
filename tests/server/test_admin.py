from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from proxy.server.admin import admin_app
from proxy.telemetry.metrics import Metrics
from proxy.types import JsonObject


class Gateway:
    """What the pages show, to be changed by a test."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.ready = (False, "No worker is known yet.")
        self.status: JsonObject = {"version": "1", "fleet": [], "registrations": []}
        self.address = ""


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    app = admin_app(gateway.metrics, ready=lambda: gateway.ready, status=lambda: gateway.status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield gateway
    await runner.cleanup()


async def test_metrics_page_is_what_prometheus_scrapes(gateway: Gateway) -> None:
    """The page has the text format's content type and parses."""
    gateway.metrics.note("text_shrunk")
    async with ClientSession() as session, session.get(f"{gateway.address}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    values = {sample.labels["note"]: sample.value for sample in families["gateway_stream_notes"].samples}
    assert values["text_shrunk"] == 1


async def test_readiness_follows_the_gateway(gateway: Gateway) -> None:
    """Not ready, ready, and not ready again, each with its reason."""
    steps = [
        (503, (False, "No worker is known yet.")),
        (200, (True, "Two workers serve one model.")),
        (503, (False, "The gateway is stopping.")),
    ]
    async with ClientSession() as session:
        for status, ready in steps:
            gateway.ready = ready
            async with session.get(f"{gateway.address}/readyz") as response:
                assert (response.status, await response.text()) == (status, ready[1] + "\n")
                assert response.headers["Cache-Control"] == "no-store"


async def test_health_does_not_depend_on_readiness(gateway: Gateway) -> None:
    """A gateway without workers is alive: restarting it would not bring them back."""
    async with ClientSession() as session, session.get(f"{gateway.address}/healthz") as response:
        assert (response.status, await response.text()) == (200, "alive\n")


async def test_status_is_json_in_any_script(gateway: Gateway) -> None:
    """The state is one JSON document, model names in other scripts included."""
    gateway.status = {"version": "1", "fleet": [{"models": ["通义"], "up": True}], "registrations": []}
    async with ClientSession() as session, session.get(f"{gateway.address}/status") as response:
        assert response.content_type == "application/json"
        assert await response.json() == gateway.status


async def test_only_reading_is_offered(gateway: Gateway) -> None:
    """The operator's pages change nothing, so nothing can be posted to them; HEAD works for probes that use it."""
    async with ClientSession() as session:
        async with session.post(f"{gateway.address}/status") as response:
            assert response.status == 405
        async with session.head(f"{gateway.address}/healthz") as response:
            assert response.status == 200


async def test_health_answers_while_a_large_page_is_rendered(gateway: Gateway) -> None:
    """A scrape of many series does not hold up the event loop."""
    for number in range(200):
        bundle = gateway.metrics.request("r", f"model-{number}")
        bundle.started()
        bundle.finished("ok", 1.0)
    async with ClientSession() as session:
        scrapes = [asyncio.create_task(session.get(f"{gateway.address}/metrics")) for _ in range(3)]
        async with session.get(f"{gateway.address}/healthz") as response:
            assert response.status == 200
        for scrape in scrapes:
            async with await scrape as page:
                assert "model-199" in await page.text()
