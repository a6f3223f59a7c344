from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from proxy.recording.recorder import RecordingRefused, wanted
from proxy.server.admin import admin_app
from proxy.telemetry.metrics import Metrics
from proxy.types import Json, JsonObject


class Gateway:
    """What the pages show, to be changed by a test."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.is_ready = (False, "No worker is known yet.")
        self.state: JsonObject = {"version": "1", "fleet": [], "registrations": []}
        self.drained: set[str] = set()
        self.reloads: list[str] = []
        self.recorded: list[Json] = []
        self.reloaded: tuple[bool, JsonObject] = (True, {"result": "ok"})
        self.address = ""

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    async def status(self) -> JsonObject:
        return self.state

    def workers(self) -> list[Json]:
        return [{"id": "10.0.0.5:21002", "drained": bool(self.drained)}]

    def models(self) -> list[Json]:
        return [{"model": "通义"}]

    async def rules_in_force(self, *, never: bool | None = None) -> JsonObject:
        return {"packs": ["p"], "never": never}

    def drain(self, worker: str) -> JsonObject | None:
        return self._set(worker, drained=True)

    def enable(self, worker: str) -> JsonObject | None:
        return self._set(worker, drained=False)

    async def reload(self, why: str) -> tuple[bool, JsonObject]:
        self.reloads.append(why)
        return self.reloaded

    def recording(self) -> JsonObject:
        return {"now": None}

    async def record(self, asked: Json) -> JsonObject:
        wanted(asked)
        if self.recorded:
            raise RecordingRefused("a recording is being made")
        self.recorded.append(asked)
        return {"kept": 0}

    async def end_recording(self) -> JsonObject:
        if not self.recorded:
            raise RecordingRefused("no recording is being made")
        self.recorded.clear()
        return {"kept": 3}

    def _set(self, worker: str, *, drained: bool) -> JsonObject | None:
        if worker != "10.0.0.5:21002":
            return None
        (self.drained.add if drained else self.drained.discard)(worker)
        return {"id": worker, "drained": drained}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    runner = web.AppRunner(admin_app(gateway.metrics, gateway), access_log=None)
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
            gateway.is_ready = ready
            async with session.get(f"{gateway.address}/readyz") as response:
                assert (response.status, await response.text()) == (status, ready[1] + "\n")
                assert response.headers["Cache-Control"] == "no-store"


async def test_health_does_not_depend_on_readiness(gateway: Gateway) -> None:
    """A gateway without workers is alive: restarting it would not bring them back."""
    async with ClientSession() as session, session.get(f"{gateway.address}/healthz") as response:
        assert (response.status, await response.text()) == (200, "alive\n")


async def test_status_is_json_in_any_script(gateway: Gateway) -> None:
    """The state is one JSON document, model names in other scripts included."""
    gateway.state = {"version": "1", "fleet": [{"models": ["通义"], "up": True}], "registrations": []}
    async with ClientSession() as session, session.get(f"{gateway.address}/status") as response:
        assert response.content_type == "application/json"
        assert await response.json() == gateway.state


async def test_pages_are_for_reading(gateway: Gateway) -> None:
    """Pages that show something cannot be posted to; HEAD works for probes that use it."""
    async with ClientSession() as session:
        for page in ("status", "workers", "models", "rules", "metrics", "readyz", "healthz"):
            async with session.post(f"{gateway.address}/{page}") as response:
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


@pytest.mark.parametrize("page", ["workers", "models", "rules"])
async def test_pages_of_state_are_json(gateway: Gateway, page: str) -> None:
    """Workers, models and rules are documents that scripts can read."""
    expected = {"workers": gateway.workers(), "models": gateway.models(), "rules": await gateway.rules_in_force()}
    async with ClientSession() as session, session.get(f"{gateway.address}/{page}") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert response.headers["Cache-Control"] == "no-store"
        assert await response.json() == expected[page]


@pytest.mark.parametrize(("query", "never"), [("", None), ("?never=true", True), ("?never=false", False)])
async def test_rules_can_be_chosen_by_whether_they_took_a_request(
    gateway: Gateway, query: str, never: bool | None
) -> None:
    """All of them, those that never did, or those that did."""
    async with ClientSession() as session, session.get(f"{gateway.address}/rules{query}") as response:
        assert (response.status, (await response.json())["never"]) == (200, never)


async def test_a_choice_that_there_is_not_is_told(gateway: Gateway) -> None:
    """A slip in the query is no list of everything."""
    async with ClientSession() as session, session.get(f"{gateway.address}/rules?never=yes") as response:
        assert (response.status, await response.json()) == (400, {"error": "never=yes: expected true or false"})


async def test_a_worker_is_drained_and_enabled(gateway: Gateway) -> None:
    """By its id in the path; the answer is how the worker is now."""
    async with ClientSession() as session:
        for act, drained in (("drain", True), ("drain", True), ("enable", False)):
            async with session.post(f"{gateway.address}/workers/10.0.0.5:21002/{act}") as response:
                assert (response.status, await response.json()) == (200, {"id": "10.0.0.5:21002", "drained": drained})
            assert bool(gateway.drained) is drained


@pytest.mark.parametrize(
    ("worker", "shown"),
    [("nobody", "nobody"), ("a%0Ab", "a\nb"), ("x" * 4000, "x" * 80), ("%00%1b%5b31m", "\x00\x1b[31m"), ("..", None)],
)
async def test_an_unknown_worker_is_one_sentence(gateway: Gateway, worker: str, shown: str | None) -> None:
    """An id that no worker has is told with 404, whatever it holds; where ids are found is told too."""
    url = URL(f"{gateway.address}/workers/{worker}/drain", encoded=True)
    async with ClientSession() as session, session.post(url) as response:
        assert response.status == 404
        if shown is not None:
            error = (await response.json())["error"]
            assert error == f"there is no worker '{shown}'; GET /workers has their ids"
    assert not gateway.drained


@pytest.mark.parametrize(("ok", "status"), [(True, 200), (False, 409)])
async def test_a_reload_tells_how_it_ended(gateway: Gateway, ok: bool, status: int) -> None:
    """200 where the new rules are in force, 409 with the mistakes where the old ones stay."""
    document: JsonObject = {"result": "ok" if ok else "refused", "mistakes": [] if ok else ["a.yaml:1:1: wrong"]}
    gateway.reloaded = ok, document
    async with ClientSession() as session, session.post(f"{gateway.address}/reload") as response:
        assert (response.status, await response.json()) == (status, document)
    assert gateway.reloads == ["POST /reload"]


async def test_a_recording_is_begun_and_ended(gateway: Gateway) -> None:
    """With a body or without one; what cannot be now is 409, what was wrong is 400, each with a sentence."""
    async with ClientSession() as session:
        url = f"{gateway.address}/record"

        async def ask(method: str, body: bytes = b"") -> tuple[int, Json]:
            async with session.request(method, url, data=body) as response:
                return response.status, await response.json()

        assert await ask("GET") == (200, {"now": None})
        assert await ask("DELETE") == (409, {"error": "no recording is being made"})
        assert await ask("POST", b"{") == (
            400,
            {"error": "the body is not JSON: unexpected end of data: line 1 column 2 (char 1)"},
        )
        assert (await ask("POST", b'{"seconds": -1}'))[0] == 400
        assert await ask("POST", b'{"seconds": 5}') == (200, {"kept": 0})
        assert gateway.recorded == [{"seconds": 5}]
        assert await ask("POST") == (409, {"error": "a recording is being made"})
        assert await ask("DELETE") == (200, {"kept": 3})
        assert await ask("POST") == (200, {"kept": 0})


async def test_web_pages_cannot_operate(gateway: Gateway) -> None:
    """A page that an operator has open in a browser can post to loopback; what it posts is refused."""
    headers = {"Origin": "https://example.org"}
    async with ClientSession(headers=headers) as session:
        for path in ("reload", "workers/10.0.0.5:21002/drain", "workers/10.0.0.5:21002/enable"):
            async with session.post(f"{gateway.address}/{path}") as response:
                assert response.status == 403
        for method in ("POST", "DELETE"):
            async with session.request(method, f"{gateway.address}/record") as response:
                assert response.status == 403
    assert gateway.recorded == []
    assert (gateway.reloads, gateway.drained) == ([], set())
