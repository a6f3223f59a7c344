"""The gateway as a worker of FastChat's controllers: what they know of it, whatever happens to them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.backends.fastchat.registration import Offer, OfferSettings, offering
from proxy.backends.links import Links
from tests.backends.fakes import FakeController, FakeServer, eventually

GATEWAY = "http://10.0.0.7:8090"
FAST = OfferSettings(heartbeat_interval=0.05, retry_interval=0.02, connect_timeout=0.3, call_timeout=0.3)


class Harness:
    """An offer to some controllers, on fast timers."""

    def __init__(self) -> None:
        self.offer = Offer(("m",), 0)
        self.settings = FAST
        self.events: Counter[tuple[str, str]] = Counter()
        self.links: Links | None = None
        self._task: asyncio.Task[None] | None = None
        self._servers: list[FakeServer] = []

    async def serve(self, *servers: FakeServer) -> None:
        for server in servers:
            await server.start()
            self._servers.append(server)

    def count(self, name: str, /, **labels: str) -> None:
        self.events[name, labels["result"]] += 1

    def start(self, *urls: str) -> Links:
        self.links = offering(
            urls,
            lambda: self.offer,
            worker_name=GATEWAY,
            rng=random.Random(1),
            settings=self.settings,
            on_event=self.count,
        )
        self._task = asyncio.create_task(self.links.run())
        return self.links

    async def close(self) -> None:
        if self.links is not None and self._task is not None:
            await self.links.close()
            await asyncio.wait_for(self._task, 1)
        for server in self._servers:
            await server.stop()


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    await harness.close()


@pytest.fixture
async def controller(harness: Harness) -> FakeController:
    controller = FakeController()
    await harness.serve(controller)
    return controller


async def test_what_a_controller_is_told(harness: Harness, controller: FakeController) -> None:
    """As one of its own workers says it, and heartbeats with how much there is to do."""
    harness.offer = Offer(("a", "b"), 3)
    links = harness.start(controller.url)
    await eventually(lambda: controller.queues == {GATEWAY: 3})
    assert controller.calls[0] == (
        "/register_worker",
        {
            "worker_name": GATEWAY,
            "check_heart_beat": True,
            "worker_status": {"model_names": ["a", "b"], "speed": 1, "queue_length": 3},
            "multimodal": False,
        },
    )
    harness.offer = Offer(("a", "b"), 7)
    await eventually(lambda: controller.queues == {GATEWAY: 7})
    assert controller.count("/register_worker") == 1
    (status,) = links.status()
    assert (status.reachable, status.registered, status.error) == (True, ("a", "b"), "")


async def test_without_a_model_nobody_is_registered(harness: Harness, controller: FakeController) -> None:
    """A worker that serves nothing is none; it is one with its first model, and has none when it lost the last."""
    harness.offer = Offer((), 0)
    harness.settings = replace(FAST, heartbeat_interval=30.0)
    links = harness.start(controller.url)
    await eventually(lambda: controller.count("/test_connection"))
    assert not controller.models
    harness.offer = Offer(("m",), 0)
    links.changed()
    await eventually(lambda: controller.models == {GATEWAY: ["m"]}, seconds=1)
    harness.offer = Offer((), 0)
    links.changed()
    await eventually(lambda: controller.models == {GATEWAY: []}, seconds=1)
    assert harness.events["registration", "withdrawn"] == 1


async def test_a_controller_that_forgot_us(harness: Harness, controller: FakeController) -> None:
    """It says so with the next heartbeat, and has everything back at once."""
    harness.start(controller.url)
    await eventually(lambda: controller.models == {GATEWAY: ["m"]})
    controller.models.clear()
    await eventually(lambda: controller.models == {GATEWAY: ["m"]})


async def test_a_controller_that_comes_back(
    harness: Harness, controller: FakeController, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was away is told all again; what went meanwhile is not forgotten to be taken back."""
    links = harness.start(controller.url)
    await eventually(lambda: controller.models == {GATEWAY: ["m"]})
    await controller.stop()
    await eventually(lambda: links.status()[0].reachable is False)
    assert "connection refused" in links.status()[0].error
    assert caplog.text.count("unreachable") == 1
    harness.offer = Offer((), 0)
    await controller.start()
    await eventually(lambda: controller.models == {GATEWAY: []})


async def test_dead_controllers_delay_no_other(harness: Harness, controller: FakeController) -> None:
    """One that refuses and one that never answers."""
    dead, silent = FakeController(), FakeController()
    await harness.serve(dead, silent)
    await dead.stop()
    silent.hang.add("/register_worker")
    harness.settings = replace(FAST, call_timeout=30.0)
    links = harness.start(dead.url, silent.url, controller.url)
    await eventually(lambda: controller.queues, seconds=2)
    assert [status.reachable for status in links.status()] == [False, None, True]


async def test_going_leaves_no_model(
    harness: Harness, controller: FakeController, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no call to leave, so it is a worker without models; one that is not there is told of."""
    caplog.set_level(logging.INFO)
    other = FakeController()
    await harness.serve(other)
    links = harness.start(controller.url, other.url)
    await eventually(lambda: controller.models and other.models)
    await other.stop()
    await links.withdraw_all()
    assert controller.models == {GATEWAY: []}
    assert f"controller {other.url}: may still hold m until its heartbeat timeout" in caplog.text
    assert f"controller {controller.url}: may still hold" not in caplog.text


async def test_other_controllers_while_it_runs(harness: Harness, controller: FakeController) -> None:
    """One that the settings no longer name loses our models, a new one gets them."""
    other = FakeController()
    await harness.serve(other)
    links = harness.start(controller.url)
    await eventually(lambda: controller.models == {GATEWAY: ["m"]})
    links.update([other.url])
    await eventually(lambda: controller.models == {GATEWAY: []} and other.models == {GATEWAY: ["m"]})


@pytest.mark.parametrize("body", [b"null", b"{}", b'{"exist": "yes"}', b"[" * 10_000, b"x" * 20_000, b"\xff"])
async def test_heartbeats_answered_with_nonsense(harness: Harness, controller: FakeController, body: bytes) -> None:
    """It is told, and tried again until it makes sense."""
    controller.replies["/receive_heart_beat"] = web.Response(body=body, content_type="application/json")
    links = harness.start(controller.url)
    await eventually(lambda: links.status()[0].reachable is False)
    assert "/receive_heart_beat" in links.status()[0].error
    controller.replies.clear()
    await eventually(lambda: controller.queues and links.status()[0].reachable is True)
